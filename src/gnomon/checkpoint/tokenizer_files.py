"""Reads the tokenizer files of a model folder, such that texts get the ids that transformers gives them.

A `tokenizer.json` is read with the small files beside it, which can change case, accents, prefix space and added
tokens (`tokenizer_versions`). Folders older than that file hold a vocabulary and settings (`tokenizer_families`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from gnomon.checkpoint import tokenizer_versions
from gnomon.checkpoint.tokenizer_families import (
    FAMILIES_BY_CLASS,
    SAVE_TOKENIZER_HINT,
    VOCABULARY_FORMATS,
    VocabularyFormat,
)
from gnomon.checkpoint.tokenizer_json import load_tokenizer_json, utf8_folder
from gnomon.checkpoint.tokenizer_readings import copy_vocabulary
from gnomon.checkpoint.tokenizer_settings import TOKEN_FLAGS, SideFiles, TokenizerSettings, read_settings, wrap_errors
from gnomon.checkpoint.tokenizer_versions import MAX_NAMES, LoadedTokenizer
from gnomon.errors import NotAModelError, UnsupportedError
from gnomon.messages import list_some

NO_OVERRIDES: Mapping[str, Any] = {}


def read_tokenizer(
    folder: Path, warnings: list[str] | None = None, overrides: Mapping[str, Any] = NO_OVERRIDES
) -> Tokenizer:
    """The tokenizer of a model folder, with truncation and padding off.

    Args:
        warnings: sentences are added to it, such as what versions 4 and 5 of transformers read differently.
        overrides: keys that replace those of tokenizer_config.json, as in `from_pretrained` of transformers.

    Raises:
        NotAModelError: files are missing, broken or contradict each other.
        UnsupportedError: a family that is not implemented.
    """
    files = SideFiles.read(folder, overrides)
    if (folder / "tokenizer.json").is_file():
        reading = tokenizer_versions.reconcile_versions(_load_tokenizer(folder), files)
    else:
        reading = _build_tokenizer(folder, _find_format(folder), files)
    equal_token_warnings = _separate_equal_tokens(reading.tokenizer)
    if warnings is not None:
        warnings += [*reading.warnings, *equal_token_warnings]
    return reading.tokenizer


def read_static_tokenizer(folder: Path, warnings: list[str]) -> Tokenizer:
    """The tokenizer of tokenizer.json without its side files, as StaticEmbedding and model2vec read it.

    Truncation and padding are off. `warnings` and errors are those of `read_tokenizer`.
    """
    tokenizer = _load_tokenizer(folder)
    warnings += _separate_equal_tokens(tokenizer)
    return tokenizer


def _load_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    with wrap_errors(path):
        tokenizer = load_tokenizer_json(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _separate_equal_tokens(tokenizer: Tokenizer) -> list[str]:
    """Change added tokens that the normalizer makes equal; return warnings about them.

    The library looks for such tokens in the normalized text. Which one it finds depends on the order of a hash map,
    which differs in each load. Here the first token stays as it is, and the others are looked for in the text as it was
    written.
    """
    if (normalizer := tokenizer.normalizer) is None:
        return []
    first: dict[str, str] = {}
    later: list[AddedToken] = []
    pairs: list[str] = []
    for _, token in sorted(tokenizer.get_added_tokens_decoder().items()):
        if token.normalized:
            before = first.setdefault(normalizer.normalize_str(token.content), token.content)
            if before != token.content:
                flags = {flag: getattr(token, flag) for flag in TOKEN_FLAGS}
                later.append(AddedToken(token.content, **(flags | {"normalized": False})))
                pairs.append(f"{token.content!r} like {before!r}")
    if not later:
        return []
    tokenizer.add_tokens(later)
    message = (
        f"the normalizer makes added tokens the same: {list_some(pairs, MAX_NAMES)}. transformers takes one of the two "
        "by chance, another in each load. Here the former of a pair is found where it is spelled exactly so, and the "
        'latter in all other spellings. To settle it, set "normalized": false for the former, or remove it.'
    )
    return [message]


def _find_format(folder: Path) -> VocabularyFormat:
    for form in VOCABULARY_FORMATS:
        if all((folder / name).is_file() for name in form.files):
            return form
    names = ", ".join(" + ".join(form.files) for form in VOCABULARY_FORMATS)
    raise NotAModelError(
        f"{folder} has no tokenizer: neither tokenizer.json nor {names}. "
        "Copy the model's tokenizer files there, or " + SAVE_TOKENIZER_HINT
    )


def _build_tokenizer(folder: Path, vocabulary_format: VocabularyFormat, side_files: SideFiles) -> LoadedTokenizer:
    """Build the tokenizer of a folder that has a vocabulary and no tokenizer.json."""
    files, family = " + ".join(vocabulary_format.files), vocabulary_format.family
    name = side_files.vocabulary_class or vocabulary_format.default_class
    classes = {name: fifth for name, (fourth, fifth) in FAMILIES_BY_CLASS.items() if fourth is family}
    if name not in classes:
        raise UnsupportedError(
            f"{folder}: {name or 'no tokenizer_class'} with {files} is not implemented, only {', '.join(classes)}; "
            + SAVE_TOKENIZER_HINT
        )
    settings = read_settings(side_files, family.special_tokens)
    with wrap_errors(folder / files), utf8_folder(folder) as readable_folder:
        vocabulary = vocabulary_format.read([readable_folder / file for file in vocabulary_format.files], settings)
        tokenizer = copy_vocabulary(vocabulary)
        family.set_components(tokenizer, settings)
        _check_special_tokens(tokenizer, settings)
        _add_tokens(tokenizer, settings)
        assert family.build_post_processor, "only tokenizer.json can supply one"
        tokenizer.post_processor = family.build_post_processor(tokenizer, settings)
        tokenizer.encode_special_tokens = settings.flag("split_special_tokens", False)
    return tokenizer_versions.reconcile_vocabulary(vocabulary, tokenizer, side_files, classes[name])


def _check_special_tokens(tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    """Check that the tokens around every text are in the model's vocabulary, not appended after it."""
    declared = {token.content for token in settings.declared_tokens.values()}
    for role in ("cls_token", "sep_token"):
        text = settings.token_text(role)
        if tokenizer.token_to_id(text) is None and text not in declared:
            raise ValueError(f"it does not hold {text!r}, the {role}, so it is not this model's vocabulary")


def _add_tokens(tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    """Add tokens in the order of transformers: by declared id, then by role. New ones come after the vocabulary."""
    tokens: dict[str, AddedToken] = {}
    declared = [token for _, token in sorted(settings.declared_tokens.items(), key=lambda item: item[0])]
    for token in (*declared, *settings.special_tokens.values(), *settings.extra_tokens):
        tokens.setdefault(token.content, token)
    named = settings.side_files.tokenizer_config | settings.side_files.special_tokens_map
    for role, token in settings.special_tokens.items():
        if token.lstrip and role not in named:  # the family's own mask is added again, with its flags
            tokens[token.content] = token
    tokenizer.add_tokens(list(tokens.values()))
    for expected, token in settings.declared_tokens.items():
        index = tokenizer.token_to_id(token.content)
        if index != expected:
            raise ValueError(
                f"the added token {token.content!r} is declared with id {expected} but the vocabulary gives {index}, "
                "so the tokenizer files belong to different models"
            )
