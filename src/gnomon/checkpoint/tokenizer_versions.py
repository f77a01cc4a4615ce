"""A tokenizer.json beside its side files, as versions 4 and 5 of transformers read the two together.

Version 4 takes tokenizer.json and changes in it what the side files say otherwise: case and accents (BERT), the prefix
space, added tokens. Version 5 takes the vocabulary of tokenizer.json alone where a family has a class of its own, and
builds the rest from the side files. Both readings are made and compared part by part. Where they agree, which is
nearly always, there is one tokenizer. Where they differ, the version that wrote the folder is followed, or version 5
where no file names one, with a notice.

Source: transformers 4.57.6 (tokenization_utils_fast.py, models/*/tokenization_*_fast.py) and 5.23.0
(tokenization_utils_tokenizers.py, models/*/tokenization_*.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import Unigram

from gnomon.checkpoint.tokenizer_families import BERT, FAMILIES_BY_CLASS, ROBERTA, XLM_ROBERTA, TokenizerFamily
from gnomon.checkpoint.tokenizer_settings import (
    BACKEND,
    EXTRA_KEYS,
    SIDE_FILES,
    SPECIAL_TOKEN_KEYS,
    Json,
    SideFiles,
    TokenizerSettings,
    parse_token,
    wrap_errors,
)

EFFECTIVE_KEYS = (
    *SPECIAL_TOKEN_KEYS,
    *EXTRA_KEYS,
    "added_tokens_decoder",
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
    "add_prefix_space",
    "split_special_tokens",
    "backend",
    "tokenizer_class",
)
"""Keys of tokenizer_config.json that change how a tokenizer.json is read."""


MAX_NAMES = 5
"""Added tokens that a notice spells out."""


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer, and what a caller should know about how it was read, in sentences."""

    tokenizer: Tokenizer
    warnings: list[str]


@dataclass(frozen=True)
class _VersionReading:
    """How one version reads the files; the model's settings apart, since both readings share one model."""

    tokenizer: Tokenizer
    model_settings: Json
    case_changed_tokens: tuple[str, ...] = ()
    """Added tokens that the tokenizers library before 0.23 looks for in other letters (version 4 only)."""

    @property
    def parts(self) -> dict[str, Any]:
        return _parts(self.tokenizer) | {"vocabulary settings": self.model_settings}


def reconcile_versions(loaded: Tokenizer, files: SideFiles) -> LoadedTokenizer:
    """The tokenizer that the folder means. `loaded` is tokenizer.json, and is used up.

    Raises:
        NotAModelError: side files that cannot be read.
    """
    fourth, fifth = _families(files)
    notices: list[str] = []
    with wrap_errors(files.folder / SIDE_FILES[0]):
        # version 5 first: version 4 uses up `loaded`
        by_5, by_4 = _read_version_5(loaded, files, fifth), _read_version_4(loaded, files, fourth)
        if _is_unknown(files):
            chosen = _choose_for_unknown_class(by_4, by_5, files, notices)
        else:
            chosen = _choose(by_4, by_5, files, notices)
        _warn_misplaced(chosen, files, notices)
    return LoadedTokenizer(chosen, notices)


def reconcile_vocabulary(
    vocabulary: Tokenizer, built: Tokenizer, files: SideFiles, family: TokenizerFamily | None
) -> LoadedTokenizer:
    """As `read`, for a folder without tokenizer.json: `built` is what version 4 builds on the vocabulary, `family` what
    version 5 builds (None: nothing).
    """
    notices: list[str] = []
    with wrap_errors(files.folder / SIDE_FILES[0]):
        if family is None:
            fifth = f"it has no class {files.vocabulary_class}"
        else:
            tokens = _collect_tokens(vocabulary, files, family, version=5)
            fifth = _build_version_5(copy_vocabulary(vocabulary), files, family, tokens)
        chosen = _choose(_VersionReading(built, _read_model_settings(built)), fifth, files, notices)
    return LoadedTokenizer(chosen, notices)


def _warn_misplaced(tokenizer: Tokenizer, files: SideFiles, warnings: list[str]) -> None:
    if misplaced := _find_misplaced(tokenizer, files):
        warnings.append(
            f"added tokens get the next free ids, as in transformers, which are not the declared ones: "
            f"{format_names(misplaced)}. The tokenizer files may not be of one model."
        )


def _choose(fourth: _VersionReading, fifth: _VersionReading | str, files: SideFiles, warnings: list[str]) -> Tokenizer:
    if isinstance(fifth, str):
        warnings.append(f"transformers 5 cannot read this tokenizer ({fifth}); it is read as version 4 reads it.")
        return fourth.tokenizer
    differing = [name for name, part in fourth.parts.items() if part != fifth.parts[name]]
    writer = files.writer_version
    if fourth.case_changed_tokens and (writer == 4 or not differing):
        warnings.append(
            f"the added tokens {format_names(fourth.case_changed_tokens)} are looked for in the case that the side files set; the "
            "tokenizers library before 0.23 looked for them in that of tokenizer.json."
        )
    if not differing:
        return fourth.tokenizer
    reason = f"version {writer} wrote them and is followed" if writer else "no file names a version, so 5 is followed"
    warnings.append(
        f"versions 4 and 5 of transformers read these tokenizer files differently ({', '.join(differing)}): {reason}. "
        "gnomon save writes a folder that both read in this way."
    )
    return fourth.tokenizer if writer == 4 else _apply_model_settings(fifth)


def _choose_for_unknown_class(
    fourth: _VersionReading, fifth: _VersionReading | str, files: SideFiles, warnings: list[str]
) -> Tokenizer:
    """For a class that is in no table here: what the version does with a class that says nothing."""
    assert not isinstance(fifth, str), "nothing is built"
    warnings.append(
        f"tokenizer_class {files.json_class} is not known here: tokenizer.json is read as it is, with the added tokens "
        "of the files beside it. transformers may read this folder in another way, and its vectors may differ. "
        "gnomon save writes a folder that every version reads as it is read here."
    )
    return (fourth if files.writer_version == 4 else fifth).tokenizer


def format_names(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _find_misplaced(tokenizer: Tokenizer, files: SideFiles) -> list[str]:
    """Added tokens whose id is another than the side files say."""
    if "added_tokens_decoder" in files.tokenizer_config:
        declared = {
            _get_token_text(value): int(key) for key, value in files.tokenizer_config["added_tokens_decoder"].items()
        }
    else:
        declared = {text: int(index) for text, index in files.added_tokens.items()}
    ids = {text: tokenizer.token_to_id(text) for text in declared}
    return [f"{text} has id {ids[text]}, not {declared[text]}" for text in declared if ids[text] != declared[text]]


def build_side_files(tokenizer: Tokenizer, texts: Mapping[str, str], model_config: Json) -> dict[str, str]:
    """Side files to write beside `tokenizer` as tokenizer.json, so that both versions of transformers read just that:
    those of `texts` where they do no harm, else a tokenizer_config.json whose class takes tokenizer.json as it is.
    """
    files = SideFiles.parse(texts, model_config)
    of_both = files.named_class != BACKEND and not _is_unknown(files)
    if of_both and _reads_the_same(tokenizer, files):
        return dict(texts)
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    kept = {
        key: value
        for key, value in files.tokenizer_config.items()
        if key not in EFFECTIVE_KEYS and not key.endswith("_token")
    }
    named = files.tokenizer_config | files.special_tokens_map
    roles = {role: _get_token_text(named[role]) for role in SPECIAL_TOKEN_KEYS if named.get(role)}
    kept |= {role: text for role, text in roles.items() if text in known}
    if pad := _find_pad_token(tokenizer, files, roles.get("pad_token")):
        kept["pad_token"] = pad
    state = _get_state(tokenizer.pre_tokenizer)
    if state and "add_prefix_space" in state:
        kept["add_prefix_space"] = state["add_prefix_space"]
    if tokenizer.encode_special_tokens:
        kept["split_special_tokens"] = True
    kept["tokenizer_class"] = "PreTrainedTokenizerFast"
    written = {SIDE_FILES[0]: json.dumps(kept, indent=2, ensure_ascii=False) + "\n"}
    # a pad token that was a plain word of the vocabulary becomes a special one, which a text may not hold
    assert kept.get("pad_token", "") not in known or _reads_the_same(tokenizer, SideFiles.parse(written, model_config))
    return written


def _find_pad_token(tokenizer: Tokenizer, files: SideFiles, named: str | None) -> str | None:
    """A token to pad with: without one, a batch of texts is an error in transformers."""
    family, _ = _families(files)
    own = family.special_tokens.get("pad_token") if family else None
    by_id = tokenizer.get_added_tokens_decoder().get(files.model_config.get("pad_token_id", -1))
    texts = (named, own and own.content, "[PAD]", "<pad>", by_id and by_id.content)
    return next((text for text in texts if text and tokenizer.token_to_id(text) is not None), None)


def _reads_the_same(tokenizer: Tokenizer, files: SideFiles) -> bool:
    copy = Tokenizer.from_str(tokenizer.to_str())
    families = _families(files)
    fifth, fourth = _read_version_5(copy, files, families[1]), _read_version_4(copy, files, families[0])
    if isinstance(fifth, str) or _find_misplaced(tokenizer, files):
        return False
    wanted = _VersionReading(tokenizer, _read_model_settings(tokenizer)).parts
    return fourth.parts == wanted == fifth.parts


def _families(files: SideFiles) -> tuple[TokenizerFamily | None, TokenizerFamily | None]:
    """How versions 4 and 5 read the class; None for one that takes tokenizer.json as it is."""
    return FAMILIES_BY_CLASS.get(files.json_class or "", (None, None))


def _is_unknown(files: SideFiles) -> bool:
    """Whether the class is one of which nothing is known here."""
    return files.json_class is not None and files.json_class not in FAMILIES_BY_CLASS


# ---- version 4


def _read_version_4(loaded: Tokenizer, files: SideFiles, family: TokenizerFamily | None) -> _VersionReading:
    """Changes `loaded`."""
    _add_tokens(loaded, _collect_tokens(loaded, files, family, version=4), version=4)
    rematched: tuple[str, ...] = ()
    if family is BERT and (before := loaded.normalizer) is not None:
        loaded.normalizer = after = _bert_normalizer_4(before, files)
        texts = [token.content for token in loaded.get_added_tokens_decoder().values() if token.normalized]
        rematched = tuple(text for text in texts if before.normalize_str(text) != after.normalize_str(text))
    state = _get_state(loaded.pre_tokenizer)
    prefix_space = files.flag("add_prefix_space", False)
    if state and state["type"] == "ByteLevel" and state["add_prefix_space"] != prefix_space:
        loaded.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=state["use_regex"])
    loaded.encode_special_tokens = files.flag("split_special_tokens", False)
    return _VersionReading(loaded, _read_model_settings(loaded), rematched)


def _bert_normalizer_4(normalizer: Any, files: SideFiles) -> Any:
    """A BertNormalizer takes the settings of the side files; any other stays as it is."""
    state = cast(Json, _get_state(normalizer))
    wanted: Json = {
        "handle_chinese_chars": files.flag("tokenize_chinese_chars", True),
        "strip_accents": _build_settings(files, {}).strip_accents,
        "lowercase": files.flag("do_lower_case", True),
    }
    if state["type"] != "BertNormalizer" or all(state[key] == value for key, value in wanted.items()):
        return normalizer
    return normalizers.BertNormalizer(clean_text=state["clean_text"], **wanted)


# ---- version 5


def _read_version_5(loaded: Tokenizer, files: SideFiles, family: TokenizerFamily | None) -> _VersionReading | str:
    """A tokenizer on the vocabulary of `loaded`, which stays as it is; or why there is none."""
    tokens = _collect_tokens(loaded, files, family, version=5)
    if family is None or family.keeps_json:
        return _read_unchanged_5(loaded, files, family, tokens)
    if not isinstance(loaded.model, family.model_class):
        holds = type(loaded.model).__name__
        return f"its class builds a {family.model_class.__name__}, and tokenizer.json holds a {holds}"
    tokenizer = Tokenizer(loaded.model)
    if family.keeps_charsmap and (charsmap := _charsmap(loaded)) is not None:
        tokenizer.normalizer = charsmap
    if family.build_post_processor is None and loaded.post_processor is not None:
        tokenizer.post_processor = loaded.post_processor
    return _build_version_5(tokenizer, files, family, tokens)


def _read_unchanged_5(
    loaded: Tokenizer, files: SideFiles, family: TokenizerFamily | None, tokens: _Tokens
) -> _VersionReading | str:
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
    return _VersionReading(tokenizer, _read_model_settings(loaded))


def _build_version_5(
    tokenizer: Tokenizer, files: SideFiles, family: TokenizerFamily, tokens: _Tokens
) -> _VersionReading | str:
    """What the class builds on a vocabulary; or why it cannot."""
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
    return _VersionReading(tokenizer, model_settings)


def copy_vocabulary(tokenizer: Tokenizer) -> Tokenizer:
    """Another tokenizer of the same vocabulary, normalizer and added tokens."""
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
    """The first compiled character map of the file's normalizer, or None."""
    state = _get_state(loaded.normalizer)
    parts = [] if state is None else state["normalizers"] if state["type"] == "Sequence" else [state]
    found = next((part for part in parts if part["type"] == "Precompiled"), None)
    return Tokenizer.from_str(json.dumps(EMPTY_TOKENIZER_JSON | {"normalizer": found})).normalizer if found else None


def _apply_model_settings(version: _VersionReading) -> Tokenizer:
    """The tokenizer, its model set as this version sets it."""
    tokenizer = version.tokenizer
    if _read_model_settings(tokenizer) == version.model_settings:
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
"""The smallest tokenizer.json, to build a part with."""


# ---- added tokens


@dataclass(frozen=True)
class _Tokens:
    """What the side files say about tokens: strings stay strings, as transformers gives them other flags."""

    special_tokens: dict[str, str | AddedToken]
    """By role, then by the names that version 5 takes from keys that end in _token."""
    declared_tokens: dict[int, AddedToken]
    extra_tokens: list[str | AddedToken]


def _collect_tokens(loaded: Tokenizer, files: SideFiles, family: TokenizerFamily | None, *, version: int) -> _Tokens:
    with_decoder = "added_tokens_decoder" in files.tokenizer_config
    older = {} if with_decoder else {k: v for k, v in files.special_tokens_map.items() if not files.overrides.get(k)}
    config = files.tokenizer_config | older
    names = [*SPECIAL_TOKEN_KEYS]
    if version == 5:
        names += [key for key, value in config.items() if key.endswith("_token") and isinstance(value, str)]
    given = {name: config[name] for name in dict.fromkeys(names) if name in config}
    extra, special_extra = (_extra_tokens_5 if version == 5 else _extra_tokens_4)(files.tokenizer_config, older)
    if with_decoder:
        declared = {int(key): parse_token(value, ()) for key, value in config["added_tokens_decoder"].items()}
    else:
        named = [value for role, value in given.items() if role in SPECIAL_TOKEN_KEYS and value]
        special = {_get_token_text(value) for value in (*named, *special_extra)}
        declared = {
            int(index): AddedToken(text, normalized=text not in special, special=text in special)
            for text, index in files.added_tokens.items()
        }
        declared |= loaded.get_added_tokens_decoder()
    by_text = {token.content: token for token in declared.values()}
    roles: dict[str, str | AddedToken] = {
        role: token.content for role, token in (family.special_tokens if family else {}).items()
    }
    for name, value in given.items():
        if value is None:
            roles.pop(name, None)
        else:
            own = by_text.get(_get_token_text(value)) if name in SPECIAL_TOKEN_KEYS else None
            roles[name] = own or _parse_plain_token(value)
    mapping = config.get("extra_special_tokens")
    if isinstance(mapping, dict):
        roles |= {name: _parse_plain_token(value) for name, value in mapping.items()}
    if version == 4 and family in (ROBERTA, XLM_ROBERTA) and isinstance(mask := roles.get("mask_token"), str):
        roles["mask_token"] = AddedToken(mask, lstrip=True, normalized=family is XLM_ROBERTA)
    return _Tokens(roles, declared, extra)


def _extra_tokens_4(config: Json, older: Json) -> tuple[list[str | AddedToken], list[str | AddedToken]]:
    """Special tokens without a role, and those of them that make a token of added_tokens.json special."""
    lists = [config.get("additional_special_tokens"), older.get("additional_special_tokens")]
    tokens = [_parse_plain_token(value) for values in lists for value in values or []]
    return tokens, tokens


def _extra_tokens_5(config: Json, older: Json) -> tuple[list[str | AddedToken], list[str | AddedToken]]:
    """As `_extra_tokens_4`: what the older file calls "additional" counts only where the newer one has none."""
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    extra = [] if isinstance(extra, dict) else [*extra]
    more = older.get("extra_special_tokens") or []
    extra += [] if isinstance(more, dict) else more
    special = [_parse_plain_token(value) for value in extra]
    additional = [] if "extra_special_tokens" in config or extra else older.get("additional_special_tokens") or []
    return special + [_parse_plain_token(value) for value in additional], special


def _parse_plain_token(value: Any) -> str | AddedToken:
    return value if isinstance(value, str) else parse_token(value)


def _get_token_text(value: Any) -> str:
    return value if isinstance(value, str) else value.content if isinstance(value, AddedToken) else value["content"]


def _to_added_token(value: str | AddedToken) -> AddedToken:
    return AddedToken(value, special=True) if isinstance(value, str) else value


def _add_tokens(tokenizer: Tokenizer, tokens: _Tokens, *, version: int) -> None:
    """By declared id, then by role, then the rest; what is there with other flags takes the declared ones."""
    there = tokenizer.get_added_tokens_decoder()
    # those that are there alike, too: one that a role names becomes special
    adding = [token for _, token in sorted(tokens.declared_tokens.items())]
    known = {token.content for token in (*there.values(), *adding)}
    for value in (*tokens.special_tokens.values(), *tokens.extra_tokens):
        # version 4 compares strings alone: a token with flags of its own is added once more, and takes its flags along
        if _get_token_text(value) not in known or (version == 4 and isinstance(value, AddedToken)):
            known.add(_get_token_text(value))
            adding.append(_to_added_token(value))
    special = {
        _get_token_text(value)
        for value in (*tokens.special_tokens.values(), *(tokens.extra_tokens if version == 4 else ()))
    }
    for token in adding:
        token.special = token.special or token.content in special
    tokenizer.add_tokens(adding)


# ---- what a reading is, part by part


def _get_state(part: Any) -> Json | None:
    return None if part is None else cast(Json, json.loads(part.__getstate__()))


def _parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """What decides the ids of one text, in a form in which equal parts are equal values."""
    added = {
        token.content: (index, token.single_word, token.lstrip, token.rstrip, token.normalized)
        for index, token in tokenizer.get_added_tokens_decoder().items()
    }
    split: set[str] = set()  # the only place where "special" changes ids
    if tokenizer.encode_special_tokens:
        split = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    pre_tokenizer = _get_state(tokenizer.pre_tokenizer)
    if pre_tokenizer:
        pre_tokenizer.pop("trim_offsets", None)  # changes offsets alone
    return {
        "normalizer": _simplify_normalizer(_get_state(tokenizer.normalizer)),
        "pre-tokenizer": pre_tokenizer,
        "special tokens around a text": _special_ids_around(_get_state(tokenizer.post_processor)),
        "added tokens": (added, split),
    }


MODEL_SETTINGS = {
    "WordPiece": ("unk_token", "continuing_subword_prefix", "max_input_chars_per_word"),
    "BPE": (
        "dropout",
        "unk_token",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "fuse_unk",
        "byte_fallback",
        "ignore_merges",
    ),
    "WordLevel": ("unk_token",),
}
UNIGRAM_UNK_ID_PATTERN, UNIGRAM_FALLBACK_PATTERN = (
    re.compile(rb'"unk_id":(\w+)'),
    re.compile(rb'"byte_fallback":(\w+)\}$'),
)


def _read_model_settings(tokenizer: Tokenizer) -> Json:
    """What a vocabulary's model holds beside the vocabulary."""
    model = tokenizer.model
    if isinstance(model, Unigram):  # gives them in JSON alone, which is megabytes long
        state = model.__getstate__()
        unk_id, fallback = UNIGRAM_UNK_ID_PATTERN.search(state[:100]), UNIGRAM_FALLBACK_PATTERN.search(state[-100:])
        assert unk_id and fallback, "a Unigram in a form that is not known"
        return {"unk_id": json.loads(unk_id[1]), "byte_fallback": json.loads(fallback[1])}
    values = {name: getattr(model, name) for name in MODEL_SETTINGS[type(model).__name__]}
    affixes = ("continuing_subword_prefix", "end_of_word_suffix")
    return {name: "" if value is None and name in affixes else value for name, value in values.items()}


def _simplify_normalizer(state: Json | None) -> Json | None:
    if state is None:
        return None
    if state["type"] == "Sequence":
        parts = [part for part in map(_simplify_normalizer, state["normalizers"]) if part is not None]
        return parts[0] if len(parts) == 1 else {"normalizers": parts} if parts else None
    if state["type"] == "BertNormalizer" and state["strip_accents"] is None:
        return state | {"strip_accents": state["lowercase"]}
    return state


def _special_ids_around(state: Json | None) -> Any:
    """Ids before and after a text; the whole state where it is of another kind."""
    if state is None or state["type"] == "ByteLevel":
        return [], []
    if state["type"] in ("BertProcessing", "RobertaProcessing"):
        return [state["cls"][1]], [state["sep"][1]]
    if state["type"] == "Sequence":
        frames = [_special_ids_around(part) for part in state["processors"]]
        if not all(isinstance(frame, tuple) for frame in frames):
            return state
        return [i for frame in reversed(frames) for i in frame[0]], [i for frame in frames for i in frame[1]]
    if state["type"] != "TemplateProcessing":
        return state
    before: list[int] = []
    after: list[int] = []
    place = before
    for piece in state["single"]:
        if "Sequence" in piece:
            place = after
        else:
            place += state["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    return before, after
