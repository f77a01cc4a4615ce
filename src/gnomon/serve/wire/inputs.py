"""Reads the inputs of a request: texts or token ids, in the forms that clients send; and checks their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gnomon.serve.options import Empty
from gnomon.serve.requests import Inputs, RequestError, TextRequest
from gnomon.serve.wire.fields import MAX_TOKEN_ID, Fields, describe, too_many

FORMS = "a text, a list of texts, or token ids (a list, or a list of lists)"


def read_inputs(fields: Fields, name: str) -> Inputs:
    """Texts, or token ids: one text, a list of texts, the ids of one text, or a list of those.

    Raises:
        RequestError: "invalid"; names the first input of another type.
    """
    value = fields.value(name)
    if value is None:
        raise fields.missing(name, FORMS)
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise fields.error(name, value, FORMS)
    return sort_out(fields, name, value)


def sort_out(fields: Fields, name: str, items: list[Any]) -> Inputs:
    """Inputs from a list: of texts, of ids, or of lists of ids; an empty list is an empty one of texts."""
    if items and type(items[0]) is int:
        check_ids(fields, name, items)
        return [items]
    fields.check_number(name, items)
    if all(type(item) is str for item in items):
        return items
    if type(items[0]) is list:
        fields.check_items(name, items, lambda item: type(item) is list, "a list of token ids, as the first input is")
        for index, ids in enumerate(items):
            check_ids(fields, name, ids, index)
        return items
    index = next(index for index, item in enumerate(items) if type(item) is not str)
    raise fields.error(name, items[index], "a text", index=index)


def check_ids(fields: Fields, name: str, ids: list[Any], index: int | None = None) -> None:
    """
    Raises:
        RequestError: "invalid", for the first value that cannot be a token id.
    """
    for position, value in enumerate(ids):
        if type(value) is not int or not 0 <= value <= MAX_TOKEN_ID:
            place = fields.path(name) if index is None else f"{fields.path(name)}[{index}]"
            message = f"{place}[{position}] is {describe(value)}. Token ids are whole numbers from 0 to {MAX_TOKEN_ID}."
            raise RequestError(message, "invalid", param=fields.path(name), index=index)


def read_id_lists(fields: Fields, name: str) -> list[list[int]]:
    """Token ids of one text or of several, as lists.

    Raises:
        RequestError: "invalid" where they are missing or not ids.
    """
    rule = "token ids (a list, or a list of lists)"
    value = fields.value(name)
    if value is None:
        raise fields.missing(name, rule)
    if not isinstance(value, list):
        raise fields.error(name, value, rule)
    items: list[Any] = value
    lists = items if items and type(items[0]) is list else [items]
    fields.check_number(name, lists)
    fields.check_items(name, lists, lambda item: type(item) is list, "a list of token ids")
    for index, ids in enumerate(lists):
        check_ids(fields, name, ids, index)
    return lists


def read_model(fields: Fields) -> str | None:
    """The model's name; None for an empty one."""
    return fields.text("model") or None


def read_texts(fields: Fields, name: str) -> list[str]:
    """A text or a list of texts, which must be there.

    Raises:
        RequestError: "invalid"; names the first item that is not a text.
    """
    if isinstance(texts := fields.value(name), list):
        fields.check_number(name, texts)
    texts = fields.texts(name)
    if texts is None:
        raise fields.missing(name, "a text or a list of texts")
    return texts


def check_inputs(request: TextRequest, max_inputs: int, empty: Empty, field: str = "input") -> None:
    """Check how many inputs a request has, and that no text is empty where the server refuses those.

    Args:
        request: of any dialect.
        max_inputs: at most so many inputs per request.
        empty: "error" refuses empty texts.
        field: what the dialect calls its inputs.

    Raises:
        RequestError: "empty" or "too_many".
    """
    check_texts(request.inputs, max_inputs, empty, field)


def check_texts(texts: Inputs, max_inputs: int, empty: Empty, field: str = "input") -> None:
    """`check_inputs` for texts alone."""
    if not len(texts):
        message = f"{field} holds 0 texts. A request must have at least one. Send one."
        raise RequestError(message, "empty", param=field)
    if len(texts) > max_inputs:
        raise too_many(field, len(texts), max_inputs)
    if empty == "error" and (index := _first_empty(texts)) is not None:
        message = (
            f"{field}[{index}] is empty. Every text must have at least one character. "
            "Leave it out, or start the server with --empty embed."
        )
        raise RequestError(message, "empty", param=field, index=index)


def _first_empty(texts: Sequence[Sequence[Any]]) -> int | None:
    return next((index for index, text in enumerate(texts) if not text), None)
