"""Tokenizer families of transformers: what a class builds from a vocabulary, and the files that hold it.

Two tables at the end: `FAMILIES_BY_CLASS`, and `VOCABULARY_FORMATS` for folders without a tokenizer.json, in the order
in which their files are looked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece

from gnomon.checkpoint.sentencepiece import CONTROL, MODEL_TYPE_NAMES, USER_DEFINED, read_sentencepiece
from gnomon.checkpoint.tokenizer_settings import DPR_FAST_CLASSES, TokenizerSettings
from gnomon.errors import UnsupportedError

SAVE_TOKENIZER_HINT = "load the tokenizer with transformers and save_pretrained it, which writes a tokenizer.json"

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

HERBERT_TOKENS = {role: AddedToken(ROBERTA_TOKENS[role].content, special=True) for role in BERT_TOKENS}
GPT2_TOKENS = {role: AddedToken("<|endoftext|>", special=True) for role in ("bos_token", "eos_token", "unk_token")}

# Settings of a SentencePiece model that the XLM-R mapping needs.
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


@dataclass(frozen=True)
class TokenizerFamily:
    """What a tokenizer class of transformers builds from a vocabulary, whatever file holds it."""

    special_tokens: dict[str, AddedToken]
    model_class: type[Any]
    build_model_settings: Callable[[TokenizerSettings], dict[str, Any]]
    """Settings of the vocabulary's model, as `tokenizers` writes them in JSON."""
    set_components: Callable[[Tokenizer, TokenizerSettings], None]
    """Sets pre-tokenizer and decoder, and the normalizer where the class has its own."""
    build_post_processor: Callable[[Tokenizer, TokenizerSettings], processors.PostProcessor] | None
    """Builds what adds the special tokens around a text; None to keep that of tokenizer.json."""
    keeps_charsmap: bool = False
    """Whether the normalizer is the compiled character map of tokenizer.json, and nothing else from there."""
    keeps_json: bool = False
    """Whether all of tokenizer.json is kept but the special tokens around a text."""


@dataclass(frozen=True)
class VocabularyFormat:
    """A form of tokenizer without tokenizer.json: its files and how to read the vocabulary."""

    files: tuple[str, ...]
    family: TokenizerFamily
    default_class: str | None  # the class where the folder names none
    read: Callable[[list[Path], TokenizerSettings], Tokenizer]


def _pair_with_id(tokenizer: Tokenizer, text: str) -> tuple[str, int]:
    token_id = tokenizer.token_to_id(text)
    assert token_id is not None, text  # every role was added
    return text, token_id


# ---- WordPiece: vocab.txt


def _wordpiece_settings(settings: TokenizerSettings) -> dict[str, Any]:
    return {
        "unk_token": settings.token_text("unk_token"),
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }


def _read_wordpiece(paths: list[Path], settings: TokenizerSettings) -> Tokenizer:
    vocab = WordPiece.read_file(str(paths[0]))
    return Tokenizer(WordPiece(vocab, **_wordpiece_settings(settings)))


def _set_bert_components(tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    if (
        tokenizer.token_to_id(unk := settings.token_text("unk_token")) is None
    ):  # WordPiece would fail at an unknown word
        raise ValueError(f"it does not hold {unk!r}, the unk_token, so it is not this model's vocabulary")
    tokenizer.normalizer = _bert_normalizer(settings, lowercase=settings.flag("do_lower_case", True))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")


def _bert_normalizer(settings: TokenizerSettings, *, lowercase: bool) -> normalizers.Normalizer:
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
        strip_accents=settings.strip_accents,
        lowercase=lowercase,
    )


def _build_bert_post_processor(tokenizer: Tokenizer, settings: TokenizerSettings) -> processors.PostProcessor:
    cls, sep = settings.token_text("cls_token"), settings.token_text("sep_token")
    return processors.TemplateProcessing(
        single=[f"{cls}:0", "$A:0", f"{sep}:0"],
        pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
        special_tokens=[_pair_with_id(tokenizer, cls), _pair_with_id(tokenizer, sep)],
    )


def _set_dpr_components(tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    """As in version 5, where the class ignores `do_lower_case`: every text is lower-cased."""
    _set_bert_components(tokenizer, settings)
    tokenizer.normalizer = _bert_normalizer(settings, lowercase=True)


# ---- byte-level BPE: vocab.json and merges.txt


def _bpe_settings(settings: TokenizerSettings) -> dict[str, Any]:
    return {
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }


def _read_bpe(paths: list[Path], settings: TokenizerSettings) -> Tokenizer:
    vocab, merges = BPE.read_file(str(paths[0]), str(paths[1]))
    return Tokenizer(BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))


def _set_roberta_components(tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.flag("add_prefix_space", False))
    tokenizer.decoder = decoders.ByteLevel()


def _build_roberta_post_processor(tokenizer: Tokenizer, settings: TokenizerSettings) -> processors.PostProcessor:
    cls, sep = settings.token_text("cls_token"), settings.token_text("sep_token")
    return processors.RobertaProcessing(
        _pair_with_id(tokenizer, sep),
        _pair_with_id(tokenizer, cls),
        trim_offsets=settings.flag("trim_offsets", True),
        add_prefix_space=settings.flag("add_prefix_space", False),
    )


# ---- BPE of words that end in </w>: HerBERT


def _herbert_settings(settings: TokenizerSettings) -> dict[str, Any]:
    return _bpe_settings(settings) | {"unk_token": settings.token_text("unk_token"), "end_of_word_suffix": "</w>"}


def _set_herbert_components(tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")


def _build_herbert_post_processor(tokenizer: Tokenizer, settings: TokenizerSettings) -> processors.PostProcessor:
    """The class has fixed ids, whatever the tokens are."""
    return processors.BertProcessing((settings.token_text("sep_token"), 2), (settings.token_text("cls_token"), 0))


# ---- SentencePiece unigrams


def _unigram_settings(settings: TokenizerSettings) -> dict[str, Any]:
    return {"unk_id": 3, "byte_fallback": False}


def _read_xlm_roberta(paths: list[Path], settings: TokenizerSettings) -> Tokenizer:
    """Ids as in fairseq: its four special tokens come first, so that each piece has its index in the file plus one."""
    model = read_sentencepiece(paths[0])
    _check_xlm_roberta(paths[0], model.settings)
    head = [(settings.token_text(role), 0.0) for role in ("bos_token", "pad_token", "eos_token", "unk_token")]
    pieces = model.pieces[3:]  # the file's own unk, bos and eos
    body = [(piece.text, piece.score) for piece in pieces]
    tokenizer = Tokenizer(
        Unigram([*head, *body, (settings.token_text("mask_token"), 0.0)], unk_id=3, byte_fallback=False)
    )
    if model.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(model.charsmap)
    added = [piece for piece in pieces if piece.kind in (CONTROL, USER_DEFINED)]  # looked for in the text as written
    tokenizer.add_tokens([AddedToken(piece.text, normalized=False, special=piece.kind == CONTROL) for piece in added])
    return tokenizer


def _set_xlm_roberta_components(tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    prepend_scheme = "always" if settings.flag("add_prefix_space", True) else "never"
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=prepend_scheme)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=prepend_scheme)


def _check_xlm_roberta(path: Path, values: dict[str, int]) -> None:
    for name, expected in XLM_ROBERTA_SETTINGS.items():
        if values[name] != expected:
            kind = f" ({MODEL_TYPE_NAMES.get(values[name], 'unknown')})" if name == "model_type" else ""
            raise UnsupportedError(
                f"{path}: {name} is {values[name]}{kind}, and only {expected} is implemented; {SAVE_TOKENIZER_HINT}"
            )


def _build_xlm_roberta_post_processor(tokenizer: Tokenizer, settings: TokenizerSettings) -> processors.PostProcessor:
    bos, eos = settings.token_text("bos_token"), settings.token_text("eos_token")
    return processors.TemplateProcessing(
        single=[bos, "$A", eos],
        pair=[bos, "$A", eos, eos, "$B", eos],
        special_tokens=[_pair_with_id(tokenizer, bos), _pair_with_id(tokenizer, eos)],
    )


# ---- classes


BERT = TokenizerFamily(BERT_TOKENS, WordPiece, _wordpiece_settings, _set_bert_components, _build_bert_post_processor)
BERT_KEEPING_JSON = replace(BERT, keeps_json=True)
DPR = replace(BERT, set_components=_set_dpr_components)
ROBERTA = TokenizerFamily(ROBERTA_TOKENS, BPE, _bpe_settings, _set_roberta_components, _build_roberta_post_processor)
XLM_ROBERTA = TokenizerFamily(
    ROBERTA_TOKENS,
    Unigram,
    _unigram_settings,
    _set_xlm_roberta_components,
    _build_xlm_roberta_post_processor,
    keeps_charsmap=True,
)
GPT2 = TokenizerFamily(GPT2_TOKENS, BPE, _bpe_settings, _set_roberta_components, None)
HERBERT = TokenizerFamily(
    HERBERT_TOKENS, BPE, _herbert_settings, _set_herbert_components, _build_herbert_post_processor
)

FAMILIES_BY_CLASS: dict[str, tuple[TokenizerFamily, TokenizerFamily | None]] = {
    "BertTokenizer": (BERT, BERT),
    "DistilBertTokenizer": (BERT, BERT),
    "ElectraTokenizer": (BERT, BERT),
    "LayoutLMTokenizer": (BERT, BERT),
    "LxmertTokenizer": (BERT, BERT),
    "MobileBertTokenizer": (BERT, BERT),
    "SqueezeBertTokenizer": (BERT, BERT),
    "ConvBertTokenizer": (BERT, BERT_KEEPING_JSON),
    "DPRContextEncoderTokenizer": (BERT, DPR),
    "DPRQuestionEncoderTokenizer": (BERT, DPR),
    "DPRReaderTokenizer": (BERT, DPR),
    **dict.fromkeys(DPR_FAST_CLASSES, (BERT, BERT_KEEPING_JSON)),
    "RealmTokenizer": (BERT, None),
    "RetriBertTokenizer": (BERT, None),
    "RobertaTokenizer": (ROBERTA, ROBERTA),
    "BartTokenizer": (ROBERTA, ROBERTA),
    "LEDTokenizer": (ROBERTA, ROBERTA),
    "LongformerTokenizer": (ROBERTA, ROBERTA),
    "MvpTokenizer": (ROBERTA, ROBERTA),
    "XLMRobertaTokenizer": (XLM_ROBERTA, XLM_ROBERTA),
    "GPT2Tokenizer": (GPT2, GPT2),
    "HerbertTokenizer": (HERBERT, HERBERT),
}
"""Tokenizer class -> its families in versions 4 and 5 of transformers. None: version 5 has no such class and takes
tokenizer.json as it is.
"""

VOCABULARY_FORMATS = (
    VocabularyFormat(("vocab.txt",), BERT, "BertTokenizer", _read_wordpiece),
    VocabularyFormat(("vocab.json", "merges.txt"), ROBERTA, "RobertaTokenizer", _read_bpe),
    VocabularyFormat(("sentencepiece.bpe.model",), XLM_ROBERTA, "XLMRobertaTokenizer", _read_xlm_roberta),
    VocabularyFormat(("spiece.model",), XLM_ROBERTA, None, _read_xlm_roberta),
    VocabularyFormat(("tokenizer.model",), XLM_ROBERTA, None, _read_xlm_roberta),
)
