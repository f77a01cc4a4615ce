"""Reads the JSON files beside a vocabulary or a tokenizer.json, as transformers does."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from gnomon.errors import GnomonError, NotAModelError

Json = dict[str, Any]

SIDE_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""The small files beside a tokenizer.json that change how texts are tokenized. `save` writes them back."""

DECODER = "added_tokens_decoder"
"""The key of tokenizer_config.json that replaces the two older files."""

# The order in which transformers appends the special tokens that a vocabulary lacks.
SPECIAL_TOKEN_KEYS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA_KEYS = ("additional_special_tokens", "extra_special_tokens")
TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

BACKEND = "TokenizersBackend"
"""A class that only version 5 has."""
GENERIC_CLASSES = ("PreTrainedTokenizer", BACKEND)
"""Classes that do not name a family; both take tokenizer.json as it is."""

DPR_FAST_CLASSES = tuple(f"DPR{part}TokenizerFast" for part in ("ContextEncoder", "QuestionEncoder", "Reader"))
"""Classes that version 5 reads differently from those without "Fast"."""

# Without a tokenizer_class, model_type identifies families whose files have the names of another family's.
CLASS_BY_MODEL_TYPE = {
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
DEFAULT_CLASS_BY_MODEL_TYPE = CLASS_BY_MODEL_TYPE | {
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "roberta": "RobertaTokenizer",
}
"""The class that transformers takes for a model_type, where no file names one."""


@contextmanager
def wrap_errors(path: Path) -> Generator[None, None, None]:
    """Turn any error inside into a NotAModelError that names the file: `tokenizers` raises bare Exceptions."""
    try:
        yield
    except GnomonError:
        raise
    except Exception as error:
        raise NotAModelError(f"{path} cannot be used: {error}. Download the file again or save it again.") from error


def read_json(path: Path) -> Json:
    """The object in a JSON file; {} if the file does not exist."""
    if not path.is_file():
        return {}
    with wrap_errors(path):
        return parse_json_object(path.read_bytes())  # bytes: json skips a byte order mark


def parse_json_object(text: str | bytes) -> Json:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"it holds {type(content).__name__}, not an object")
    return content


def _read_side_file(path: Path) -> Json:
    content = read_json(path)
    with wrap_errors(path):
        if path.name == SIDE_FILES[2]:
            _check_ids(content)
        else:
            check_tokens(content)
    return content


def _check_ids(added: Json) -> None:
    for text, index in added.items():
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise ValueError(f"the id of {text!r} is {index!r}; it must be a whole number")


def check_tokens(config: Json) -> None:
    """Check the keys of tokenizer_config.json or special_tokens_map.json that must hold tokens.

    Raises:
        ValueError: a key holds something else; names the key and the value.
    """
    name = config.get("tokenizer_class")
    if name is not None and not isinstance(name, str):
        raise ValueError(f"tokenizer_class is {name!r}; it must be a name")
    for role in SPECIAL_TOKEN_KEYS:
        if config.get(role) is not None:
            _check_token(role, config[role])
    for key in EXTRA_KEYS:
        value = config.get(key)
        is_mapping = isinstance(value, dict) and key == "extra_special_tokens"
        if value is not None and not is_mapping and not isinstance(value, list):
            forms = "a list of tokens" + (", or map names to tokens" if key == "extra_special_tokens" else "")
            raise ValueError(f"{key} is {value!r}; it must be {forms}")
        for token in list_tokens(value):
            _check_token(key, token)
    decoder = config.get(DECODER, {})
    if not isinstance(decoder, dict):
        raise ValueError(f"{DECODER} is {decoder!r}; it must map ids to tokens")
    for index, token in decoder.items():
        if not (index.isascii() and index.isdigit()):
            raise ValueError(f"{DECODER} has the id {index!r}; it must be a whole number")
        _check_token(f"{DECODER}, id {index}", token)


def _check_token(key: str, value: Any) -> None:
    try:
        parse_token(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


@dataclass(frozen=True)
class SideFiles:
    """The side files of one folder, parsed."""

    folder: Path
    """For messages."""
    tokenizer_config: Json
    """tokenizer_config.json, with `overrides` in it."""
    special_tokens_map: Json
    """special_tokens_map.json; {} where tokenizer_config.json has an added_tokens_decoder."""
    added_tokens: Json
    """added_tokens.json; {} in the same case."""
    model_config: Json
    """config.json"""
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def read(cls, folder: Path, overrides: Mapping[str, Any]) -> SideFiles:
        config = _read_side_file(folder / SIDE_FILES[0]) | dict(overrides)
        special_map, added = ({} if DECODER in config else _read_side_file(folder / name) for name in SIDE_FILES[1:])
        return cls(folder, config, special_map, added, read_json(folder / "config.json"), overrides)

    @classmethod
    def parse(cls, texts: Mapping[str, str], model_config: Json) -> SideFiles:
        """Side files from their texts, by name."""
        config = parse_json_object(texts.get(SIDE_FILES[0], "{}"))
        older = ("{}" if DECODER in config else texts.get(name, "{}") for name in SIDE_FILES[1:])
        special_map, added = map(parse_json_object, older)
        return cls(Path(), config, special_map, added, model_config)

    @property
    def named_class(self) -> str | None:
        """The tokenizer class that a file names, without "Fast"; None where no file does."""
        name = self.tokenizer_config.get("tokenizer_class") or self.model_config.get("tokenizer_class")
        return _strip_fast(str(name)) if name else None

    @property
    def vocabulary_class(self) -> str | None:
        """The class for a folder without tokenizer.json. model_type decides where the name does not say a family."""
        for name in (self.tokenizer_config.get("tokenizer_class"), self.model_config.get("tokenizer_class")):
            if name and _strip_fast(str(name)) not in GENERIC_CLASSES:
                return _strip_fast(str(name))
        return CLASS_BY_MODEL_TYPE.get(str(self.model_config.get("model_type")))

    @property
    def json_class(self) -> str | None:
        """The class for a folder with a tokenizer.json; None for a class that takes it as it is."""
        name = self.named_class or DEFAULT_CLASS_BY_MODEL_TYPE.get(str(self.model_config.get("model_type")))
        return None if name in GENERIC_CLASSES else name

    @property
    def writer_version(self) -> int | None:
        """The major version of transformers that wrote these files, 4 (or older) or 5; None if unknown."""
        extra_list = isinstance(self.tokenizer_config.get("extra_special_tokens"), list)
        if self.named_class == BACKEND or "backend" in self.tokenizer_config or extra_list:
            return 5  # version 4 writes none of these
        major = str(self.model_config.get("transformers_version") or "").partition(".")[0]
        return max(4, min(5, int(major))) if major.isdigit() else None

    def flag(self, name: str, default: bool) -> bool:
        """A setting of tokenizer_config.json that is true or false.

        Raises:
            ValueError: it is something else.
        """
        value = self.tokenizer_config.get(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"{name} in tokenizer_config.json is {value!r}; it must be true or false")
        return value


def _strip_fast(name: str) -> str:
    return name if name in DPR_FAST_CLASSES else name.removesuffix("Fast")


@dataclass(frozen=True)
class TokenizerSettings:
    """What the side files say, for a tokenizer that is built from a vocabulary."""

    side_files: SideFiles
    special_tokens: dict[str, AddedToken]
    """By role, in the order of SPECIAL_TOKEN_KEYS."""
    declared_tokens: dict[int, AddedToken]
    """By the id that each must have."""
    extra_tokens: list[AddedToken]

    def token_text(self, key: str) -> str:
        if key not in self.special_tokens:
            raise ValueError(f"tokenizer_config.json sets {key} to null, but this tokenizer needs it")
        return self.special_tokens[key].content

    def flag(self, name: str, default: bool) -> bool:
        return self.side_files.flag(name, default)

    @property
    def strip_accents(self) -> bool | None:
        """None where `do_lower_case` decides."""
        return (
            None if self.side_files.tokenizer_config.get("strip_accents") is None else self.flag("strip_accents", False)
        )


def read_settings(files: SideFiles, defaults: Mapping[str, AddedToken]) -> TokenizerSettings:
    """The settings in the side files, merged as in transformers. `defaults` are the family's tokens by role."""
    folder, config = files.folder, files.tokenizer_config
    with_decoder = "added_tokens_decoder" in config
    # a caller's overrides replace keys of the older file, too
    special_map = {key: value for key, value in files.special_tokens_map.items() if not files.overrides.get(key)}
    sources = [("tokenizer_config.json", config)]
    sources += [] if with_decoder else [("special_tokens_map.json", special_map)]
    tokens: dict[str, AddedToken | None] = {**defaults}
    extra: list[AddedToken] = []
    for name, content in sources:
        with wrap_errors(folder / name):
            tokens |= {
                role: _parse_special_token(content[role], defaults.get(role))
                for role in SPECIAL_TOKEN_KEYS
                if role in content
            }
            extra += [parse_token(value) for key in EXTRA_KEYS for value in list_tokens(content.get(key))]
    roles = {role: token for role in SPECIAL_TOKEN_KEYS if (token := tokens.get(role))}
    special = {token.content for token in (*roles.values(), *extra)}
    if not with_decoder:
        with wrap_errors(folder / "added_tokens.json"):
            declared = {int(key): AddedToken(text, special=text in special) for text, key in files.added_tokens.items()}
        return TokenizerSettings(files, roles, declared, extra)
    with wrap_errors(folder / "tokenizer_config.json"):
        declared = {int(key): parse_token(value, special) for key, value in config["added_tokens_decoder"].items()}
    return TokenizerSettings(files, roles, declared, extra)


def list_tokens(value: Any) -> list[Any]:
    """The tokens of a list or of a mapping from names to tokens."""
    return list(value.values()) if isinstance(value, dict) else list(value or [])


def _parse_special_token(value: Any, default: AddedToken | None) -> AddedToken | None:
    """The token of a role. A bare string gets the family's lstrip; null removes the role."""
    if isinstance(value, str):
        return AddedToken(value, lstrip=default is not None and default.lstrip, special=True)
    return None if value is None else parse_token(value)


def parse_token(value: Any, special: Sequence[str] | set[str] | None = None) -> AddedToken:
    """A token written as a string or as {"content": ...}. It is special if it says so or is in `special` (None: all).

    Raises:
        ValueError: another form, or a flag that is neither true nor false.
    """
    content = value if isinstance(value, str) else value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, str):
        raise ValueError(f'a token is a string or {{"content": ...}}, not {value!r}')
    flags = {} if isinstance(value, str) else {flag: value[flag] for flag in TOKEN_FLAGS if flag in value}
    for flag, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f"{flag} of the token {content!r} is {value!r}; it must be true or false")
    if special is None or content in special:
        flags["special"] = True
    return AddedToken(content, **flags)
