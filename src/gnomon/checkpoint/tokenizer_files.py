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
from gnomon.checkpoint.tokenizer_families import CLASSES, FORMS, SAVE_TOKENIZER_JSON, Form
from gnomon.checkpoint.tokenizer_json import load_tokenizer_json, utf8_folder
from gnomon.checkpoint.tokenizer_settings import TOKEN_FLAGS, Settings, SideFiles, blamed_on, read_settings
from gnomon.checkpoint.tokenizer_versions import Reading, shown
from gnomon.errors import NotAModelError, UnsupportedError

NOTHING: Mapping[str, Any] = {}


def read_tokenizer(folder: Path, notices: list[str] | None = None, overrides: Mapping[str, Any] = NOTHING) -> Tokenizer:
    """The tokenizer of a model folder, with truncation and padding off.

    Args:
        notices: takes what a caller should know, in sentences: what versions 4 and 5 of transformers read differently.
        overrides: keys to lay over tokenizer_config.json, as transformers takes them in `from_pretrained`.

    Raises NotAModelError for missing, broken or contradicting files, UnsupportedError for a family not built here.
    """
    files = SideFiles.read(folder, overrides)
    if (folder / "tokenizer.json").is_file():
        reading = tokenizer_versions.read(_read_json(folder), files)
    else:
        reading = _build(folder, _find_form(folder), files)
    said = [*reading.notices, *_separate_alike(reading.tokenizer)]
    if notices is not None:
        notices += said
    return reading.tokenizer


def read_static_tokenizer(folder: Path, notices: list[str]) -> Tokenizer:
    """The folder's tokenizer.json alone, as StaticEmbedding and model2vec read it, with truncation and padding off.

    `notices` and errors as in `read_tokenizer`.
    """
    tokenizer = _read_json(folder)
    notices += _separate_alike(tokenizer)
    return tokenizer


def _read_json(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    with blamed_on(path):
        tokenizer = load_tokenizer_json(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _separate_alike(tokenizer: Tokenizer) -> list[str]:
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
        f"the normalizer makes added tokens the same: {shown(pairs)}. transformers takes one of the two by chance, "
        "another in each load. Here a text gets the former of a pair where it is spelled just so, and the latter in "
        'all other spellings. To settle it, set "normalized": false for the former, or take it out.'
    )
    return [notice]


def _find_form(folder: Path) -> Form:
    for form in FORMS:
        if all((folder / name).is_file() for name in form.files):
            return form
    names = ", ".join(" + ".join(form.files) for form in FORMS)
    raise NotAModelError(
        f"no tokenizer in {folder}: looked for tokenizer.json, {names}; "
        "copy the model's tokenizer files there, or " + SAVE_TOKENIZER_JSON
    )


def _build(folder: Path, form: Form, side_files: SideFiles) -> Reading:
    files, family = " + ".join(form.files), form.family
    name = side_files.vocabulary_class or form.assumed
    classes = {name: fifth for name, (fourth, fifth) in CLASSES.items() if fourth is family}
    if name not in classes:
        raise UnsupportedError(
            f"{folder}: {name or 'no tokenizer_class'} with {files} is not built here, only {', '.join(classes)}; "
            + SAVE_TOKENIZER_JSON
        )
    settings = read_settings(side_files, family.tokens)
    with blamed_on(folder / files), utf8_folder(folder) as place:
        vocabulary = form.read([place / file for file in form.files], settings)
        tokenizer = tokenizer_versions.copy_vocabulary(vocabulary)
        family.dress(tokenizer, settings)
        _check_frame(tokenizer, settings)
        _add_tokens(tokenizer, settings)
        assert family.frame, "without a tokenizer.json there is no other frame"
        tokenizer.post_processor = family.frame(tokenizer, settings)
        tokenizer.encode_special_tokens = settings.flag("split_special_tokens", False)
    return tokenizer_versions.read_vocabulary(vocabulary, tokenizer, side_files, classes[name])


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
    named = settings.files.config | settings.files.special_map
    for role, token in settings.roles.items():
        if token.lstrip and role not in named:  # the family's own mask is added once more, and takes its flags along
            tokens[token.content] = token
    tokenizer.add_tokens(list(tokens.values()))
    for expected, token in settings.declared.items():
        index = tokenizer.token_to_id(token.content)
        if index != expected:
            raise ValueError(
                f"the added token {token.content!r} is declared with id {expected} but the vocabulary gives {index}, "
                "so the tokenizer files are not of one model"
            )
