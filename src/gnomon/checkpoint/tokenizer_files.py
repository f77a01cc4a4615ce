"""Tokenizer files of a model folder -> `tokenizers.Tokenizer`, with the ids that transformers gives for them.

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
from gnomon.checkpoint.tokenizer_settings import TOKEN_FLAGS, SideFiles, TokenizerSettings, read_settings, wrap_errors
from gnomon.checkpoint.tokenizer_versions import LoadedTokenizer, format_names
from gnomon.errors import NotAModelError, UnsupportedError

NO_OVERRIDES: Mapping[str, Any] = {}


def read_tokenizer(
    folder: Path, warnings: list[str] | None = None, overrides: Mapping[str, Any] = NO_OVERRIDES
) -> Tokenizer:
    """The tokenizer of a model folder, with truncation and padding off.

    Args:
        notices: takes what a caller should know, in sentences: what versions 4 and 5 of transformers read differently.
        overrides: keys to lay over tokenizer_config.json, as transformers takes them in `from_pretrained`.

    Raises NotAModelError for missing, broken or contradicting files, UnsupportedError for a family not built here.
    """
    files = SideFiles.read(folder, overrides)
    if (folder / "tokenizer.json").is_file():
        reading = tokenizer_versions.reconcile_versions(_load_tokenizer(folder), files)
    else:
        reading = _build_tokenizer(folder, _find_format(folder), files)
    said = [*reading.warnings, *_separate_equal_tokens(reading.tokenizer)]
    if warnings is not None:
        warnings += said
    return reading.tokenizer


def read_static_tokenizer(folder: Path, warnings: list[str]) -> Tokenizer:
    """The folder's tokenizer.json alone, as StaticEmbedding and model2vec read it, with truncation and padding off.

    `notices` and errors as in `read_tokenizer`.
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
    """Changes added tokens that the normalizer makes one text; returns what to say about it.

    The library looks for them in the normalized text, and which of them it finds is up to the order of a hash map,
    another in each load. Here the first stays as it is, and the others are looked for in the text as it was written.
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
    notice = (
        f"the normalizer makes added tokens the same: {format_names(pairs)}. transformers takes one of the two by chance, "
        "another in each load. Here a text gets the former of a pair where it is spelled just so, and the latter in "
        'all other spellings. To settle it, set "normalized": false for the former, or take it out.'
    )
    return [notice]


def _find_format(folder: Path) -> VocabularyFormat:
    for form in VOCABULARY_FORMATS:
        if all((folder / name).is_file() for name in form.files):
            return form
    names = ", ".join(" + ".join(form.files) for form in VOCABULARY_FORMATS)
    raise NotAModelError(
        f"no tokenizer in {folder}: looked for tokenizer.json, {names}; "
        "copy the model's tokenizer files there, or " + SAVE_TOKENIZER_HINT
    )


def _build_tokenizer(folder: Path, vocabulary_format: VocabularyFormat, side_files: SideFiles) -> LoadedTokenizer:
    files, family = " + ".join(vocabulary_format.files), vocabulary_format.family
    name = side_files.vocabulary_class or vocabulary_format.default_class
    classes = {name: fifth for name, (fourth, fifth) in FAMILIES_BY_CLASS.items() if fourth is family}
    if name not in classes:
        raise UnsupportedError(
            f"{folder}: {name or 'no tokenizer_class'} with {files} is not built here, only {', '.join(classes)}; "
            + SAVE_TOKENIZER_HINT
        )
    settings = read_settings(side_files, family.special_tokens)
    with wrap_errors(folder / files), utf8_folder(folder) as place:
        vocabulary = vocabulary_format.read([place / file for file in vocabulary_format.files], settings)
        tokenizer = tokenizer_versions.copy_vocabulary(vocabulary)
        family.set_components(tokenizer, settings)
        _check_special_tokens(tokenizer, settings)
        _add_tokens(tokenizer, settings)
        assert family.build_post_processor, "without a tokenizer.json there is no other frame"
        tokenizer.post_processor = family.build_post_processor(tokenizer, settings)
        tokenizer.encode_special_tokens = settings.flag("split_special_tokens", False)
    return tokenizer_versions.reconcile_vocabulary(vocabulary, tokenizer, side_files, classes[name])


def _check_special_tokens(tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    """The tokens around every text have ids of the model's own: never ones appended past its vocabulary."""
    declared = {token.content for token in settings.declared_tokens.values()}
    for role in ("cls_token", "sep_token"):
        text = settings.token_text(role)
        if tokenizer.token_to_id(text) is None and text not in declared:
            raise ValueError(f"it does not hold {text!r}, the {role}, so it is not this model's vocabulary")


def _add_tokens(tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    """Adds in the order of transformers: by declared id, then by role; new ones go to the end of the vocabulary."""
    tokens: dict[str, AddedToken] = {}
    declared = [token for _, token in sorted(settings.declared_tokens.items(), key=lambda item: item[0])]
    for token in (*declared, *settings.special_tokens.values(), *settings.extra_tokens):
        tokens.setdefault(token.content, token)
    named = settings.side_files.tokenizer_config | settings.side_files.special_tokens_map
    for role, token in settings.special_tokens.items():
        if token.lstrip and role not in named:  # the family's own mask is added once more, and takes its flags along
            tokens[token.content] = token
    tokenizer.add_tokens(list(tokens.values()))
    for expected, token in settings.declared_tokens.items():
        index = tokenizer.token_to_id(token.content)
        if index != expected:
            raise ValueError(
                f"the added token {token.content!r} is declared with id {expected} but the vocabulary gives {index}, "
                "so the tokenizer files are not of one model"
            )
