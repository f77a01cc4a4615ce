"""Markup out of foreign text: what is not `Html` already is escaped."""

from __future__ import annotations

import re
from html import escape

FORBIDDEN_CHARACTERS = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def clean(foreign: str) -> str:
    """Without what no page may hold: control characters, also those of direction, and halves of surrogate pairs."""
    return FORBIDDEN_CHARACTERS.sub("\ufffd", foreign)


VOID_ELEMENTS = {"meta", "link"}


class Html(str):
    """Markup. Any other str is text."""


def escape_text(foreign: str) -> Html:
    return Html(escape(clean(foreign)))


def add_word_breaks(name: str, *, capitals: bool = False) -> Html:
    """With places to break a line: after _ / . and, if wanted, in front of inner capitals."""
    parts = re.split(r"(?<=[_/.])|(?<=[a-z])(?=[A-Z])" if capitals else r"(?<=[_/.])", name)
    return Html("<wbr>".join(escape_text(part) for part in parts))


def join(*parts: str) -> Html:
    return Html("".join(part if isinstance(part, Html) else escape_text(part) for part in parts))


def tag(name: str, /, *inner: str, **attributes: str | float | None) -> Html:
    """An element, what is within it escaped unless it is Html; `class_` is class, `data_value` data-value.

    Attributes that are None or False are left out.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape_text(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{said}>" if name in VOID_ELEMENTS else f"<{name}{said}>{join(*inner)}</{name}>")


def scroll_box(name: str, table: Html, *, tall: bool = False) -> Html:
    """A box of its own for what may be wider than the page; by keyboard too."""
    return tag("div", table, class_="box tall" if tall else "box", role="region", aria_label=name, tabindex=0)
