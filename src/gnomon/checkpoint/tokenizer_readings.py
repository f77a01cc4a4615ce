"""How versions 4 and 5 of transformers each read a tokenizer.json together with its side files.

Version 4 takes tokenizer.json and applies what the side files say: case and accents (BERT), the prefix space, added
tokens. Version 5 takes only the vocabulary of tokenizer.json where a family has a class of its own, and builds the rest
from the side files.

Source: transformers 4.57.6 (tokenization_utils_fast.py, models/*/tokenization_*_fast.py) and 5.23.0
(tokenization_utils_tokenizers.py, models/*/tokenization_*.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from gnomon.checkpoint.tokenizer_families import BERT, ROBERTA, XLM_ROBERTA, TokenizerFamily
from gnomon.checkpoint.tokenizer_parts import get_state, read_model_settings, tokenizer_parts
from gnomon.checkpoint.tokenizer_settings import SPECIAL_TOKEN_KEYS, Json, SideFiles, TokenizerSettings, parse_token


@dataclass(frozen=True)
class VersionReading:
    """How one version reads the files."""

    tokenizer: Tokenizer
    model_settings: Json
    """Apart from the tokenizer, since both readings share one model."""
    case_changed_tokens: tuple[str, ...] = ()
    """Version 4 only: added tokens that the tokenizers library before 0.23 looks for in another case."""

    @property
    def parts(self) -> dict[str, Any]:
        return tokenizer_parts(self.tokenizer) | {"vocabulary settings": self.model_settings}


# ---- version 4


def read_version_4(loaded: Tokenizer, files: SideFiles, family: TokenizerFamily | None) -> VersionReading:
    """The reading of version 4. Changes `loaded`."""
    _add_tokens(loaded, _collect_tokens(loaded, files, family, version=4), version=4)
    changed_tokens: tuple[str, ...] = ()
    if family is BERT and (before := loaded.normalizer) is not None:
        loaded.normalizer = after = _bert_normalizer_4(before, files)
        texts = [token.content for token in loaded.get_added_tokens_decoder().values() if token.normalized]
        changed_tokens = tuple(text for text in texts if before.normalize_str(text) != after.normalize_str(text))
    state = get_state(loaded.pre_tokenizer)
    prefix_space = files.flag("add_prefix_space", False)
    if state and state["type"] == "ByteLevel" and state["add_prefix_space"] != prefix_space:
        loaded.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=state["use_regex"])
    loaded.encode_special_tokens = files.flag("split_special_tokens", False)
    return VersionReading(loaded, read_model_settings(loaded), changed_tokens)


def _bert_normalizer_4(normalizer: Any, files: SideFiles) -> Any:
    """A BertNormalizer with the settings of the side files; any other normalizer stays as it is."""
    state = cast(Json, get_state(normalizer))
    settings: Json = {
        "handle_chinese_chars": files.flag("tokenize_chinese_chars", True),
        "strip_accents": _build_settings(files, {}).strip_accents,
        "lowercase": files.flag("do_lower_case", True),
    }
    if state["type"] != "BertNormalizer" or all(state[key] == value for key, value in settings.items()):
        return normalizer
    return normalizers.BertNormalizer(clean_text=state["clean_text"], **settings)


# ---- version 5


def read_version_5(loaded: Tokenizer, files: SideFiles, family: TokenizerFamily | None) -> VersionReading | str:
    """The reading of version 5, or the reason why it cannot read the files. `loaded` stays as it is."""
    tokens = _collect_tokens(loaded, files, family, version=5)
    if family is None or family.keeps_json:
        return _read_unchanged_5(loaded, files, family, tokens)
    if not isinstance(loaded.model, family.model_class):
        model_class = type(loaded.model).__name__
        return f"its class builds a {family.model_class.__name__}, and tokenizer.json holds a {model_class}"
    tokenizer = Tokenizer(loaded.model)
    if family.keeps_charsmap and (charsmap := _charsmap(loaded)) is not None:
        tokenizer.normalizer = charsmap
    if family.build_post_processor is None and loaded.post_processor is not None:
        tokenizer.post_processor = loaded.post_processor
    return _build_on_vocabulary(tokenizer, files, family, tokens)


def _read_unchanged_5(
    loaded: Tokenizer, files: SideFiles, family: TokenizerFamily | None, tokens: _Tokens
) -> VersionReading | str:
    """The reading of version 5 for a class that keeps tokenizer.json."""
    tokenizer = copy_vocabulary(loaded)
    for part in ("pre_tokenizer", "post_processor", "decoder"):
        if (value := getattr(loaded, part)) is not None:
            setattr(tokenizer, part, value)
    _add_tokens(tokenizer, tokens, version=5)
    if family and family.build_post_processor:
        try:
            tokenizer.post_processor = family.build_post_processor(
                tokenizer, _build_settings(files, tokens.special_tokens)
            )
        except ValueError as error:
            return str(error)
    tokenizer.encode_special_tokens = files.flag("split_special_tokens", False)
    return VersionReading(tokenizer, read_model_settings(loaded))


def build_version_5(vocabulary: Tokenizer, files: SideFiles, family: TokenizerFamily) -> VersionReading | str:
    """What version 5 builds on a vocabulary without tokenizer.json, or the reason why it cannot."""
    tokens = _collect_tokens(vocabulary, files, family, version=5)
    return _build_on_vocabulary(copy_vocabulary(vocabulary), files, family, tokens)


def _build_on_vocabulary(
    tokenizer: Tokenizer, files: SideFiles, family: TokenizerFamily, tokens: _Tokens
) -> VersionReading | str:
    """What a class builds on a vocabulary, or the reason why it cannot."""
    settings = _build_settings(files, tokens.special_tokens)
    try:
        family.set_components(tokenizer, settings)
        _add_tokens(tokenizer, tokens, version=5)
        if family.build_post_processor:
            tokenizer.post_processor = family.build_post_processor(tokenizer, settings)
        model_settings = family.build_model_settings(settings)
    except ValueError as error:
        return str(error)
    tokenizer.encode_special_tokens = files.flag("split_special_tokens", False)
    return VersionReading(tokenizer, model_settings)


def copy_vocabulary(tokenizer: Tokenizer) -> Tokenizer:
    """A new tokenizer with the same vocabulary, normalizer and added tokens."""
    copy = Tokenizer(tokenizer.model)
    if tokenizer.normalizer is not None:
        copy.normalizer = tokenizer.normalizer
    copy.add_tokens([token for _, token in sorted(tokenizer.get_added_tokens_decoder().items())])
    return copy


def _build_settings(files: SideFiles, special_tokens: Mapping[str, str | AddedToken]) -> TokenizerSettings:
    return TokenizerSettings(
        files,
        {role: _to_added_token(token) for role, token in special_tokens.items() if role in SPECIAL_TOKEN_KEYS},
        {},
        [],
    )


def _charsmap(loaded: Tokenizer) -> Any:
    """The first compiled character map in the file's normalizer, or None."""
    state = get_state(loaded.normalizer)
    parts = [] if state is None else state["normalizers"] if state["type"] == "Sequence" else [state]
    charsmap = next((part for part in parts if part["type"] == "Precompiled"), None)
    if charsmap is None:
        return None
    return Tokenizer.from_str(json.dumps(EMPTY_TOKENIZER_JSON | {"normalizer": charsmap})).normalizer


def apply_model_settings(version: VersionReading) -> Tokenizer:
    """The tokenizer of a reading, with that reading's settings in its model."""
    tokenizer = version.tokenizer
    if read_model_settings(tokenizer) == version.model_settings:
        return tokenizer
    content = json.loads(tokenizer.to_str())
    changed = Tokenizer.from_str(json.dumps(content | {"model": content["model"] | version.model_settings}))
    changed.encode_special_tokens = tokenizer.encode_special_tokens
    return changed


EMPTY_TOKENIZER_JSON: Json = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {}, "unk_token": ""},
}
"""The smallest tokenizer.json, to build one part with."""


# ---- added tokens


@dataclass(frozen=True)
class _Tokens:
    """What the side files say about tokens. Strings stay strings, since transformers gives them other flags."""

    special_tokens: dict[str, str | AddedToken]
    """First by role, then by the names that version 5 takes from keys that end in _token."""
    declared_tokens: dict[int, AddedToken]
    extra_tokens: list[str | AddedToken]


def _collect_tokens(loaded: Tokenizer, files: SideFiles, family: TokenizerFamily | None, *, version: int) -> _Tokens:
    with_decoder = "added_tokens_decoder" in files.tokenizer_config
    older = {} if with_decoder else {k: v for k, v in files.special_tokens_map.items() if not files.overrides.get(k)}
    config = files.tokenizer_config | older
    names = [*SPECIAL_TOKEN_KEYS]
    if version == 5:
        names += [key for key, value in config.items() if key.endswith("_token") and isinstance(value, str)]
    named = {name: config[name] for name in dict.fromkeys(names) if name in config}
    extra, special_extra = (_extra_tokens_5 if version == 5 else _extra_tokens_4)(files.tokenizer_config, older)
    if with_decoder:
        declared = {int(key): parse_token(value, ()) for key, value in config["added_tokens_decoder"].items()}
    else:
        with_role = [value for role, value in named.items() if role in SPECIAL_TOKEN_KEYS and value]
        special = {get_token_text(value) for value in (*with_role, *special_extra)}
        declared = {
            int(index): AddedToken(text, normalized=text not in special, special=text in special)
            for text, index in files.added_tokens.items()
        }
        declared |= loaded.get_added_tokens_decoder()
    by_text = {token.content: token for token in declared.values()}
    roles: dict[str, str | AddedToken] = {
        role: token.content for role, token in (family.special_tokens if family else {}).items()
    }
    for name, value in named.items():
        if value is None:
            roles.pop(name, None)
        else:
            own = by_text.get(get_token_text(value)) if name in SPECIAL_TOKEN_KEYS else None
            roles[name] = own or _parse_plain_token(value)
    mapping = config.get("extra_special_tokens")
    if isinstance(mapping, dict):
        roles |= {name: _parse_plain_token(value) for name, value in mapping.items()}
    if version == 4 and family in (ROBERTA, XLM_ROBERTA) and isinstance(mask := roles.get("mask_token"), str):
        roles["mask_token"] = AddedToken(mask, lstrip=True, normalized=family is XLM_ROBERTA)
    return _Tokens(roles, declared, extra)


def _extra_tokens_4(config: Json, older: Json) -> tuple[list[str | AddedToken], list[str | AddedToken]]:
    """Version 4: the special tokens without a role, and which of them make a token of added_tokens.json special."""
    lists = [config.get("additional_special_tokens"), older.get("additional_special_tokens")]
    tokens = [_parse_plain_token(value) for values in lists for value in values or []]
    return tokens, tokens


def _extra_tokens_5(config: Json, older: Json) -> tuple[list[str | AddedToken], list[str | AddedToken]]:
    """Version 5, as `_extra_tokens_4`. "additional" tokens of the older file count only where the newer has none."""
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    extra = [] if isinstance(extra, dict) else [*extra]
    more = older.get("extra_special_tokens") or []
    extra += [] if isinstance(more, dict) else more
    special = [_parse_plain_token(value) for value in extra]
    additional = [] if "extra_special_tokens" in config or extra else older.get("additional_special_tokens") or []
    return special + [_parse_plain_token(value) for value in additional], special


def _parse_plain_token(value: Any) -> str | AddedToken:
    return value if isinstance(value, str) else parse_token(value)


def get_token_text(value: Any) -> str:
    """The text of a token that is written as a string, an AddedToken or {"content": ...}."""
    return value if isinstance(value, str) else value.content if isinstance(value, AddedToken) else value["content"]


def _to_added_token(value: str | AddedToken) -> AddedToken:
    return AddedToken(value, special=True) if isinstance(value, str) else value


def _add_tokens(tokenizer: Tokenizer, tokens: _Tokens, *, version: int) -> None:
    """Add tokens by declared id, then by role, then the rest. A token that is there takes the declared flags."""
    present = tokenizer.get_added_tokens_decoder()
    # also those that are present with equal flags: one that a role names becomes special
    adding = [token for _, token in sorted(tokens.declared_tokens.items())]
    known = {token.content for token in (*present.values(), *adding)}
    for value in (*tokens.special_tokens.values(), *tokens.extra_tokens):
        # version 4 compares only strings: a token with its own flags is added again, with these flags
        if get_token_text(value) not in known or (version == 4 and isinstance(value, AddedToken)):
            known.add(get_token_text(value))
            adding.append(_to_added_token(value))
    special = {
        get_token_text(value)
        for value in (*tokens.special_tokens.values(), *(tokens.extra_tokens if version == 4 else ()))
    }
    for token in adding:
        token.special = token.special or token.content in special
    tokenizer.add_tokens(adding)
