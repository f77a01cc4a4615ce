"""What published models say on their cards and their folders lack: a short table, used loudly.

Facts: the models' cards. Only prompts are supplied, since only they change vectors without a trace in the folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gnomon.errors import InputError
from gnomon.spec import SYMMETRIC


@dataclass(frozen=True)
class Card:
    """A published model. `prompts` and `query_prompt_names` fill what the folder lacks."""

    name: str
    hub_ids: tuple[str, ...]
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    query_prompt_names: Mapping[str, str] = field(default_factory=dict[str, str])


_E5_PROMPTS = {"query": "query: ", "document": "passage: "}
_E5_TASKS = {SYMMETRIC: "query"}
"""The card: "for tasks other than retrieval, you can simply use the query: prefix"."""
_STELLA_PROMPTS = {
    "s2p_query": "Instruct: Given a web search query, retrieve relevant passages that answer the query.\nQuery: ",
    "s2s_query": "Instruct: Retrieve semantically similar text.\nQuery: ",
}
_E5_NAMES = (
    *(f"multilingual-e5-{size}" for size in ("small", "base", "large")),
    *(f"e5-{size}" for size in ("small", "base", "large")),
    *(f"e5-{size}-v2" for size in ("small", "base", "large")),
)

CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        Card(
            "stella_en_400M_v5",
            ("dunzhang/stella_en_400M_v5", "NovaSearch/stella_en_400M_v5"),
            _STELLA_PROMPTS,
            {
                "": "s2p_query",
                "s2p": "s2p_query",
                "retrieval": "s2p_query",
                "s2s": "s2s_query",
                "sts": "s2s_query",
                SYMMETRIC: "s2s_query",
            },
        ),
        Card("gte-large-en-v1.5", ("Alibaba-NLP/gte-large-en-v1.5",)),
        Card("gte-base-en-v1.5", ("Alibaba-NLP/gte-base-en-v1.5",)),
        Card("GIST-Embedding-v0", ("avsolatorio/GIST-Embedding-v0",)),
        Card("multi-qa-distilbert-cos-v1", ("sentence-transformers/multi-qa-distilbert-cos-v1",)),
        *(Card(name, (f"intfloat/{name}",), _E5_PROMPTS, _E5_TASKS) for name in _E5_NAMES),
    )
}


def card_named(name: str) -> Card:
    """The card that a caller names: a name of `CARDS` or a hub id.

    Raises:
        InputError: no such card; lists them.
    """
    card = _by_name(name)
    if card is None:
        raise InputError(f"card {name!r} is not known; gnomon knows {', '.join(CARDS)}.")
    return card


def recognise(candidates: Mapping[str, Any], readme: str) -> tuple[Card, str] | None:
    """The card of a folder and what it was recognised by, or None.

    `candidates` maps a way of knowing ("its hub id") to a name, surest first; a README counts by its front matter's
    base_model and by its first heading.
    """
    for way, name in {**candidates, **_readme_names(readme)}.items():
        card = _by_name(name) if isinstance(name, str) and name else None
        if card:
            return card, way
    return None


def _by_name(name: str) -> Card | None:
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    whole = name.lower()
    for card in CARDS.values():
        if whole in (hub_id.lower() for hub_id in card.hub_ids) or last == card.name.lower():
            return card
    return None


def _readme_names(readme: str) -> dict[str, str]:
    names: dict[str, str] = {}
    if base := re.search(r"^base_model:\s*\n?\s*-?\s*[\"']?([\w./-]+)", readme, re.MULTILINE):
        names["base_model in its README"] = base.group(1)
    if heading := re.search(r"^#+\s+([\w./-]+)\s*$", readme, re.MULTILINE):
        names["the heading of its README"] = heading.group(1)
    return names
