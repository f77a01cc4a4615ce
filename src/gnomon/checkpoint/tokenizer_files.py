"""Tokenizer files of a model folder -> `tokenizers.Tokenizer`, with the ids that transformers gives for them.

`tokenizer.json` is loaded as it is. Folders older than that file hold a vocabulary and settings, each in the form of
its family; `FORMS`, at the end, lists the forms in the order in which they are looked for.
"""

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece

from gnomon.checkpoint.sentencepiece import CONTROL, MODEL_TYPE_NAMES, USER_DEFINED, read_sentencepiece
from gnomon.checkpoint.tokenizer_json import load_tokenizer_json, utf8_folder
from gnomon.errors import GnomonError, NotAModelError, UnsupportedError

SAVE_TOKENIZER_JSON = "load the tokenizer with transformers and save_pretrained it: that writes a tokenizer.json"

# The order in which transformers appends the special tokens that a vocabulary lacks.
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA_KEYS = ("additional_special_tokens", "extra_special_tokens")
TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

BERT_TOKENS = {
    "unk_token": AddedToken("[UNK]", special=True),
    "sep_token": AddedToken("[SEP]", special=True),
    "pad_token": AddedToken("[PAD]", special=True),
    "cls_token": AddedToken("[CLS]", special=True),
    "mask_token": AddedToken("[MASK]", special=True),
}
ROBERTA_TOKENS = {
    "bos_token": AddedToken("<s>", special=True),
    "eos_token": AddedToken("</s>", special=True),
    "unk_token": AddedToken("<unk>", special=True),
    "sep_token": AddedToken("</s>", special=True),
    "pad_token": AddedToken("<pad>", special=True),
    "cls_token": AddedToken("<s>", special=True),
    # the mask takes the space before it, so that it stands for a word as the vocabulary spells one
    "mask_token": AddedToken("<mask>", lstrip=True, special=True),
}

# Without a tokenizer_class, the model_type tells families whose files carry the names of another family's.
MODEL_TYPES = {
    "xlm-roberta": "XLMRobertaTokenizer",
    "xlm-roberta-xl": "XLMRobertaTokenizer",
    "albert": "AlbertTokenizer",
    "camembert": "CamembertTokenizer",
    "clip": "CLIPTokenizer",
    "deberta": "DebertaTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "gpt2": "GPT2Tokenizer",
    "mbart": "MBartTokenizer",
    "mpnet": "MPNetTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "t5": "T5Tokenizer",
    "xlnet": "XLNetTokenizer",
}
NO_CLASS = ("PreTrainedTokenizer", "TokenizersBackend")  # names that say nothing about the family

# The settings of a SentencePiece model that the XLM-R mapping is right for.
XLM_ROBERTA_SETTINGS = {
    "model_type": 1,
    "byte_fallback": 0,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "add_dummy_prefix": 1,
    "remove_extra_whitespaces": 1,
    "escape_whitespaces": 1,
}

Json = dict[str, Any]
NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Settings:
    """What the JSON files beside a vocabulary say: `roles` in the order of ROLES, `declared` by the id it must have."""

    config: Json
    roles: dict[str, AddedToken]
    declared: dict[int, AddedToken]
    extra: list[AddedToken]

    def text(self, role: str) -> str:
        if role not in self.roles:
            raise ValueError(f"tokenizer_config.json sets {role} to null, and this tokenizer cannot do without it")
        return self.roles[role].content

    def flag(self, name: str, default: bool) -> bool:
        value = self.config.get(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"tokenizer_config.json says that {name} is {value!r}; it can be true or false")
        return value


@dataclass(frozen=True)
class Form:
    """One way to write a tokenizer: its files, whose classes it serves, and how to build it."""

    files: tuple[str, ...]
    classes: tuple[str, ...]
    assumed: str | None  # the class where the folder names none
    tokens: dict[str, AddedToken]
    build: Callable[[list[Path], Settings], Tokenizer]
    frame: Callable[[Tokenizer, Settings], processors.PostProcessor]


def read_tokenizer(folder: Path, notices: list[str] | None = None, overrides: Mapping[str, Any] = NOTHING) -> Tokenizer:
    """The tokenizer of a model folder, with truncation and padding off. `overrides` lie over tokenizer_config.json.

    Raises NotAModelError for missing, broken or contradicting files, UnsupportedError for a family not built here.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        with _blamed_on(path):
            tokenizer = _with_overrides(load_tokenizer_json(path), overrides, path)
    else:
        tokenizer = _build(folder, _find_form(folder), overrides)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


_NORMALIZER_KEYS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def _with_overrides(tokenizer: Tokenizer, overrides: Mapping[str, Any], path: Path) -> Tokenizer:
    """With the switches of BertNormalizer set; other overrides are not implemented beside a tokenizer.json."""
    if not overrides:
        return tokenizer
    settings = json.loads(tokenizer.to_str())
    normalizer = settings["normalizer"]
    for key, value in overrides.items():
        if key not in _NORMALIZER_KEYS or not normalizer or normalizer["type"] != "BertNormalizer":
            raise UnsupportedError(f"{path}: {key} {value!r} is not implemented for this tokenizer.")
        normalizer[_NORMALIZER_KEYS[key]] = value
    return Tokenizer.from_str(json.dumps(settings))


@contextmanager
def _blamed_on(path: Path) -> Generator[None, None, None]:
    """Any error inside becomes a NotAModelError that names the file: `tokenizers` raises bare Exceptions."""
    try:
        yield
    except GnomonError:
        raise
    except Exception as error:
        raise NotAModelError(f"{path} cannot be used: {error}; fetch the file again or save it anew") from error


def _find_form(folder: Path) -> Form:
    for form in FORMS:
        if all((folder / name).is_file() for name in form.files):
            return form
    names = ", ".join(" + ".join(form.files) for form in FORMS)
    raise NotAModelError(
        f"no tokenizer in {folder}: looked for tokenizer.json, {names}; "
        "copy the model's tokenizer files there, or " + SAVE_TOKENIZER_JSON
    )


def _build(folder: Path, form: Form, overrides: Mapping[str, Any]) -> Tokenizer:
    files = " + ".join(form.files)
    name = _tokenizer_class(folder) or form.assumed
    if name not in form.classes:
        raise UnsupportedError(
            f"{folder}: {name or 'no tokenizer_class'} with {files} is not built here, only {', '.join(form.classes)}; "
            + SAVE_TOKENIZER_JSON
        )
    settings = _read_settings(folder, form.tokens)
    settings = replace(settings, config={**settings.config, **overrides})
    with _blamed_on(folder / files), utf8_folder(folder) as place:
        tokenizer = form.build([place / file for file in form.files], settings)
        _check_frame(tokenizer, settings)
        _add_tokens(tokenizer, settings)
        tokenizer.post_processor = form.frame(tokenizer, settings)
    return tokenizer


# ---- settings ----


def _read_json(path: Path) -> Json:
    if not path.is_file():
        return {}
    with _blamed_on(path):
        content = json.loads(path.read_bytes())  # bytes: a byte order mark is read over
        if not isinstance(content, dict):
            raise ValueError(f"it holds {type(content).__name__}, not an object")
        return content


def _tokenizer_class(folder: Path) -> str | None:
    """The class without "Fast", from tokenizer_config.json, then config.json; None where neither names one."""
    config = _read_json(folder / "config.json")
    for name in (_read_json(folder / "tokenizer_config.json").get("tokenizer_class"), config.get("tokenizer_class")):
        if name and str(name).removesuffix("Fast") not in NO_CLASS:
            return str(name).removesuffix("Fast")
    return MODEL_TYPES.get(str(config.get("model_type")))


def _read_settings(folder: Path, defaults: dict[str, AddedToken]) -> Settings:
    """As transformers merges them: with an added_tokens_decoder, the two older files are not looked at."""
    path = folder / "tokenizer_config.json"
    config = _read_json(path)
    sources = [path] if "added_tokens_decoder" in config else [path, folder / "special_tokens_map.json"]
    found: dict[str, AddedToken | None] = {**defaults}
    extra: list[AddedToken] = []
    for source in sources:
        content = _read_json(source)
        with _blamed_on(source):
            found |= {role: _role_token(content[role], defaults.get(role)) for role in ROLES if role in content}
            extra += [_token(value) for key in EXTRA_KEYS for value in _listed(content.get(key))]
    roles = {role: token for role in ROLES if (token := found.get(role))}
    special = {token.content for token in (*roles.values(), *extra)}
    if "added_tokens_decoder" not in config:
        return Settings(config, roles, _read_added_tokens(folder / "added_tokens.json", special), extra)
    with _blamed_on(path):
        declared = {int(key): _token(value, special) for key, value in config["added_tokens_decoder"].items()}
    return Settings(config, roles, declared, extra)


def _read_added_tokens(path: Path, special: set[str]) -> dict[int, AddedToken]:
    with _blamed_on(path):
        return {int(key): AddedToken(text, special=text in special) for text, key in _read_json(path).items()}


def _listed(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value or [])


def _role_token(value: Any, default: AddedToken | None) -> AddedToken | None:
    """The token of a role; a bare string is stripped around as the family's own, null takes the role away."""
    if isinstance(value, str):
        return AddedToken(value, lstrip=default is not None and default.lstrip, special=True)
    return None if value is None else _token(value)


def _token(value: Any, special: set[str] | None = None) -> AddedToken:
    """A token written as a string or as {"content": ...}; special if it says so or is in `special` (None: all)."""
    content = value if isinstance(value, str) else value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, str):
        raise ValueError(f'a token is a string or {{"content": ...}}, not {value!r}')
    flags = {} if isinstance(value, str) else {flag: value[flag] for flag in TOKEN_FLAGS if flag in value}
    if special is None or content in special:
        flags["special"] = True
    return AddedToken(content, **flags)


def _check_frame(tokenizer: Tokenizer, settings: Settings) -> None:
    """The tokens around every text have ids of the model's own: never ones appended past its vocabulary."""
    declared = {token.content for token in settings.declared.values()}
    for role in ("cls_token", "sep_token"):
        text = settings.text(role)
        if tokenizer.token_to_id(text) is None and text not in declared:
            raise ValueError(f"it does not hold {text!r}, the {role}, so it is not this model's vocabulary")


def _add_tokens(tokenizer: Tokenizer, settings: Settings) -> None:
    """Adds in the order of transformers: by declared id, then by role; new ones go to the end of the vocabulary."""
    tokens: dict[str, AddedToken] = {}
    declared = [token for _, token in sorted(settings.declared.items(), key=lambda item: item[0])]
    for token in (*declared, *settings.roles.values(), *settings.extra):
        tokens.setdefault(token.content, token)
    tokenizer.add_tokens(list(tokens.values()))
    for expected, token in settings.declared.items():
        found = tokenizer.token_to_id(token.content)
        if found != expected:
            raise ValueError(
                f"the added token {token.content!r} is declared with id {expected} but the vocabulary gives {found}, "
                "so the tokenizer files are not of one model"
            )


def _with_id(tokenizer: Tokenizer, text: str) -> tuple[str, int]:
    found = tokenizer.token_to_id(text)
    assert found is not None, text  # _add_tokens has added every role
    return text, found


# ---- vocab.txt ----


def _build_wordpiece(paths: list[Path], settings: Settings) -> Tokenizer:
    vocab = WordPiece.read_file(str(paths[0]))
    unk = settings.text("unk_token")
    if unk not in vocab:  # WordPiece would fail at the first unknown word
        raise ValueError(f"it does not hold {unk!r}, the unk_token, so it is not this model's vocabulary")
    tokenizer = Tokenizer(WordPiece(vocab, unk_token=unk, max_input_chars_per_word=100))
    accents = None if settings.config.get("strip_accents") is None else settings.flag("strip_accents", False)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
        strip_accents=accents,
        lowercase=settings.flag("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _frame_bert(tokenizer: Tokenizer, settings: Settings) -> processors.PostProcessor:
    cls, sep = settings.text("cls_token"), settings.text("sep_token")
    return processors.TemplateProcessing(
        single=[f"{cls}:0", "$A:0", f"{sep}:0"],
        pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
        special_tokens=[_with_id(tokenizer, cls), _with_id(tokenizer, sep)],
    )


# ---- vocab.json and merges.txt ----


def _build_byte_bpe(paths: list[Path], settings: Settings) -> Tokenizer:
    vocab, merges = BPE.read_file(str(paths[0]), str(paths[1]))
    tokenizer = Tokenizer(BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.flag("add_prefix_space", False))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _frame_roberta(tokenizer: Tokenizer, settings: Settings) -> processors.PostProcessor:
    cls, sep = settings.text("cls_token"), settings.text("sep_token")
    return processors.RobertaProcessing(
        _with_id(tokenizer, sep),
        _with_id(tokenizer, cls),
        trim_offsets=settings.flag("trim_offsets", True),
        add_prefix_space=settings.flag("add_prefix_space", False),
    )


# ---- SentencePiece ----


def _build_xlm_roberta(paths: list[Path], settings: Settings) -> Tokenizer:
    """Ids as in fairseq: its four special tokens first, so that every piece is one above its place in the file."""
    model = read_sentencepiece(paths[0])
    _check_xlm_roberta(paths[0], model.settings)
    head = [(settings.text(role), 0.0) for role in ("bos_token", "pad_token", "eos_token", "unk_token")]
    pieces = model.pieces[3:]  # the file's own unk, bos and eos
    body = [(piece.text, piece.score) for piece in pieces]
    tokenizer = Tokenizer(Unigram([*head, *body, (settings.text("mask_token"), 0.0)], unk_id=3, byte_fallback=False))
    if model.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(model.charsmap)
    prepend_scheme = "always" if settings.flag("add_prefix_space", True) else "never"
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=prepend_scheme)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=prepend_scheme)
    marked = [piece for piece in pieces if piece.kind in (CONTROL, USER_DEFINED)]  # matched in the text as they stand
    tokenizer.add_tokens([AddedToken(piece.text, normalized=False, special=piece.kind == CONTROL) for piece in marked])
    return tokenizer


def _check_xlm_roberta(path: Path, found: dict[str, int]) -> None:
    for name, served in XLM_ROBERTA_SETTINGS.items():
        if found[name] != served:
            told = f" ({MODEL_TYPE_NAMES.get(found[name], 'unknown')})" if name == "model_type" else ""
            raise UnsupportedError(
                f"{path}: {name} is {found[name]}{told}, and only {served} is built here; {SAVE_TOKENIZER_JSON}"
            )


def _frame_xlm_roberta(tokenizer: Tokenizer, settings: Settings) -> processors.PostProcessor:
    bos, eos = settings.text("bos_token"), settings.text("eos_token")
    return processors.TemplateProcessing(
        single=[bos, "$A", eos],
        pair=[bos, "$A", eos, eos, "$B", eos],
        special_tokens=[_with_id(tokenizer, bos), _with_id(tokenizer, eos)],
    )


BERT = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "ConvBertTokenizer")
ROBERTA = ("RobertaTokenizer", "LongformerTokenizer", "BartTokenizer")
XLM_ROBERTA = ("XLMRobertaTokenizer",)

FORMS = (
    Form(("vocab.txt",), BERT, BERT[0], BERT_TOKENS, _build_wordpiece, _frame_bert),
    Form(("vocab.json", "merges.txt"), ROBERTA, ROBERTA[0], ROBERTA_TOKENS, _build_byte_bpe, _frame_roberta),
    *(
        Form((file,), XLM_ROBERTA, assumed, ROBERTA_TOKENS, _build_xlm_roberta, _frame_xlm_roberta)
        for file, assumed in (
            ("sentencepiece.bpe.model", XLM_ROBERTA[0]),
            ("spiece.model", None),
            ("tokenizer.model", None),
        )
    ),
)
