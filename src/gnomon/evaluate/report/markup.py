"""Builds markup out of text that others wrote. Every str that is not `Html` is escaped."""

from __future__ import annotations

import re
from html import escape

FORBIDDEN_CHARACTERS = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def clean(text: str) -> str:
    """Replace what a page must not hold: control and direction characters, and halves of surrogate pairs."""
    return FORBIDDEN_CHARACTERS.sub("\ufffd", text)


VOID_ELEMENTS = {"meta", "link"}


class Html(str):
    """Markup. Any other str is text, and is escaped."""


def escape_text(text: str) -> Html:
    return Html(escape(clean(text)))


def add_word_breaks(name: str, *, capitals: bool = False) -> Html:
    """Escape a name and allow line breaks after _ / . and, with `capitals`, before inner capitals."""
    parts = re.split(r"(?<=[_/.])|(?<=[a-z])(?=[A-Z])" if capitals else r"(?<=[_/.])", name)
    return Html("<wbr>".join(escape_text(part) for part in parts))


def join(*parts: str) -> Html:
    return Html("".join(part if isinstance(part, Html) else escape_text(part) for part in parts))


def tag(name: str, /, *inner: str, **attributes: str | float | None) -> Html:
    """An element. What is within it is escaped unless it is Html.

    `class_` is written as class, and `data_value` as data-value. Attributes that are None or False are left out.
    """
    attributes_text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape_text(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(
        f"<{name}{attributes_text}>" if name in VOID_ELEMENTS else f"<{name}{attributes_text}>{join(*inner)}</{name}>"
    )


def scroll_box(name: str, table: Html, *, tall: bool = False) -> Html:
    """Put a table that may be wider than the page into a box that scrolls, by keyboard too."""
    return tag("div", table, class_="box tall" if tall else "box", role="region", aria_label=name, tabindex=0)
