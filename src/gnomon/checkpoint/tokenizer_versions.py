"""Chooses between the two ways in which versions 4 and 5 of transformers read the same tokenizer files.

Both readings (`tokenizer_readings`) are built and compared part by part (`tokenizer_parts`). They nearly always agree.
Where they differ, the version that wrote the folder is followed, or version 5 where no file names one, with a warning.
`build_side_files` writes files that both versions read in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import Tokenizer

from gnomon.checkpoint.tokenizer_families import FAMILIES_BY_CLASS, TokenizerFamily
from gnomon.checkpoint.tokenizer_parts import get_state, read_model_settings
from gnomon.checkpoint.tokenizer_readings import (
    VersionReading,
    apply_model_settings,
    build_version_5,
    get_token_text,
    read_version_4,
    read_version_5,
)
from gnomon.checkpoint.tokenizer_settings import (
    BACKEND,
    EXTRA_KEYS,
    SIDE_FILES,
    SPECIAL_TOKEN_KEYS,
    Json,
    SideFiles,
    wrap_errors,
)
from gnomon.messages import list_some

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
"""How many added tokens a warning spells out."""


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer, and sentences that warn the caller about how it was read."""

    tokenizer: Tokenizer
    warnings: list[str]


def reconcile_versions(loaded: Tokenizer, files: SideFiles) -> LoadedTokenizer:
    """The tokenizer of a folder with a tokenizer.json. `loaded` is read from that file; it is changed and must not be
    used afterwards.

    Raises:
        NotAModelError: side files that cannot be read.
    """
    fourth, fifth = _families(files)
    warnings: list[str] = []
    with wrap_errors(files.folder / SIDE_FILES[0]):
        # version 5 first: version 4 changes `loaded`
        by_5, by_4 = read_version_5(loaded, files, fifth), read_version_4(loaded, files, fourth)
        if _is_unknown(files):
            chosen = _choose_for_unknown_class(by_4, by_5, files, warnings)
        else:
            chosen = _choose(by_4, by_5, files, warnings)
        _warn_misplaced(chosen, files, warnings)
    return LoadedTokenizer(chosen, warnings)


def reconcile_vocabulary(
    vocabulary: Tokenizer, built: Tokenizer, files: SideFiles, family: TokenizerFamily | None
) -> LoadedTokenizer:
    """The tokenizer of a folder without tokenizer.json.

    Args:
        built: what version 4 builds on the vocabulary.
        family: what version 5 builds; None where it has no such class.
    """
    warnings: list[str] = []
    with wrap_errors(files.folder / SIDE_FILES[0]):
        if family is None:
            fifth = f"it has no class {files.vocabulary_class}"
        else:
            fifth = build_version_5(vocabulary, files, family)
        chosen = _choose(VersionReading(built, read_model_settings(built)), fifth, files, warnings)
    return LoadedTokenizer(chosen, warnings)


def _warn_misplaced(tokenizer: Tokenizer, files: SideFiles, warnings: list[str]) -> None:
    if misplaced := _find_misplaced(tokenizer, files):
        warnings.append(
            f"added tokens get the next free ids, as in transformers, which differ from the declared ones: "
            f"{list_some(misplaced, MAX_NAMES)}. The tokenizer files may belong to different models."
        )


def _choose(fourth: VersionReading, fifth: VersionReading | str, files: SideFiles, warnings: list[str]) -> Tokenizer:
    if isinstance(fifth, str):
        warnings.append(f"transformers 5 cannot read this tokenizer ({fifth}); it is read as version 4 reads it.")
        return fourth.tokenizer
    differing = [name for name, part in fourth.parts.items() if part != fifth.parts[name]]
    writer = files.writer_version
    if fourth.case_changed_tokens and (writer == 4 or not differing):
        warnings.append(
            f"the added tokens {list_some(fourth.case_changed_tokens, MAX_NAMES)} are looked for in the case that the "
            "side files set. The tokenizers library before 0.23 used the case that tokenizer.json sets."
        )
    if not differing:
        return fourth.tokenizer
    reason = f"version {writer} wrote them and is followed" if writer else "no file names a version, so 5 is followed"
    warnings.append(
        f"versions 4 and 5 of transformers read these tokenizer files differently ({', '.join(differing)}): {reason}. "
        "gnomon save writes a folder that both read in this way."
    )
    return fourth.tokenizer if writer == 4 else apply_model_settings(fifth)


def _choose_for_unknown_class(
    fourth: VersionReading, fifth: VersionReading | str, files: SideFiles, warnings: list[str]
) -> Tokenizer:
    """The tokenizer for a class that is not in our tables: tokenizer.json as it is."""
    assert not isinstance(fifth, str), "tokenizer.json stays as it is"
    warnings.append(
        f"tokenizer_class {files.json_class} is not known here: tokenizer.json is read as it is, with the added tokens "
        "of the files beside it. transformers may read this folder in another way, and its vectors may differ. "
        "gnomon save writes a folder that every version reads as it is read here."
    )
    return (fourth if files.writer_version == 4 else fifth).tokenizer


def _find_misplaced(tokenizer: Tokenizer, files: SideFiles) -> list[str]:
    """Added tokens whose ids differ from those in the side files."""
    if "added_tokens_decoder" in files.tokenizer_config:
        declared = {
            get_token_text(value): int(key) for key, value in files.tokenizer_config["added_tokens_decoder"].items()
        }
    else:
        declared = {text: int(index) for text, index in files.added_tokens.items()}
    ids = {text: tokenizer.token_to_id(text) for text in declared}
    return [f"{text} has id {ids[text]}, not {declared[text]}" for text in declared if ids[text] != declared[text]]


def build_side_files(tokenizer: Tokenizer, texts: Mapping[str, str], model_config: Json) -> dict[str, str]:
    """Side files to write beside tokenizer.json, such that both versions of transformers read exactly `tokenizer`.

    These are the files in `texts` where they change nothing, else a tokenizer_config.json whose class takes
    tokenizer.json as it is.
    """
    files = SideFiles.parse(texts, model_config)
    is_in_both = files.named_class != BACKEND and not _is_unknown(files)
    if is_in_both and _reads_the_same(tokenizer, files):
        return dict(texts)
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    config = {
        key: value
        for key, value in files.tokenizer_config.items()
        if key not in EFFECTIVE_KEYS and not key.endswith("_token")
    }
    named = files.tokenizer_config | files.special_tokens_map
    roles = {role: get_token_text(named[role]) for role in SPECIAL_TOKEN_KEYS if named.get(role)}
    config |= {role: text for role, text in roles.items() if text in known}
    if pad := _find_pad_token(tokenizer, files, roles.get("pad_token")):
        config["pad_token"] = pad
    state = get_state(tokenizer.pre_tokenizer)
    if state and "add_prefix_space" in state:
        config["add_prefix_space"] = state["add_prefix_space"]
    if tokenizer.encode_special_tokens:
        config["split_special_tokens"] = True
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    side_files = {SIDE_FILES[0]: json.dumps(config, indent=2, ensure_ascii=False) + "\n"}
    # a pad token that was a plain word of the vocabulary becomes a special one, which a text may not hold
    assert config.get("pad_token", "") not in known or _reads_the_same(
        tokenizer, SideFiles.parse(side_files, model_config)
    )
    return side_files


def _find_pad_token(tokenizer: Tokenizer, files: SideFiles, named: str | None) -> str | None:
    """A token to pad with: without one, transformers cannot read a batch of texts."""
    family, _ = _families(files)
    own = family.special_tokens.get("pad_token") if family else None
    by_id = tokenizer.get_added_tokens_decoder().get(files.model_config.get("pad_token_id", -1))
    texts = (named, own and own.content, "[PAD]", "<pad>", by_id and by_id.content)
    return next((text for text in texts if text and tokenizer.token_to_id(text) is not None), None)


def _reads_the_same(tokenizer: Tokenizer, files: SideFiles) -> bool:
    """Whether both versions read `tokenizer` where these side files lie beside it."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    families = _families(files)
    fifth, fourth = read_version_5(copy, files, families[1]), read_version_4(copy, files, families[0])
    if isinstance(fifth, str) or _find_misplaced(tokenizer, files):
        return False
    expected = VersionReading(tokenizer, read_model_settings(tokenizer)).parts
    return fourth.parts == expected == fifth.parts


def _families(files: SideFiles) -> tuple[TokenizerFamily | None, TokenizerFamily | None]:
    """The families of the class in versions 4 and 5; None for a class that takes tokenizer.json as it is."""
    return FAMILIES_BY_CLASS.get(files.json_class or "", (None, None))


def _is_unknown(files: SideFiles) -> bool:
    """Whether the class is not in our tables."""
    return files.json_class is not None and files.json_class not in FAMILIES_BY_CLASS
