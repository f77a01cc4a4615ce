"""Prompts of published models that are on their cards but not in their folders. Using one gives a warning.

Source: the models' cards. Only prompts are supplied, since a folder without them gives no sign that it needs them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gnomon.errors import InputError
from gnomon.messages import did_you_mean
from gnomon.spec import SYMMETRIC


@dataclass(frozen=True)
class KnownModel:
    """A published model. `prompts` and `query_prompt_names` are used where its folder has none."""

    name: str
    hub_ids: tuple[str, ...]
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    query_prompt_names: Mapping[str, str] = field(default_factory=dict[str, str])


_E5_PROMPTS = {"query": "query: ", "document": "passage: "}
_E5_TASK_PROMPTS = {SYMMETRIC: "query"}
"""From the card: "for tasks other than retrieval, you can simply use the query: prefix"."""
_STELLA_PROMPTS = {
    "s2p_query": "Instruct: Given a web search query, retrieve relevant passages that answer the query.\nQuery: ",
    "s2s_query": "Instruct: Retrieve semantically similar text.\nQuery: ",
}
_E5_NAMES = (
    *("multilingual-e5-small", "multilingual-e5-base", "multilingual-e5-large"),
    *("e5-small", "e5-base", "e5-large"),
    *("e5-small-v2", "e5-base-v2", "e5-large-v2"),
)

KNOWN_MODELS: dict[str, KnownModel] = {
    card.name: card
    for card in (
        KnownModel(
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
        KnownModel("gte-large-en-v1.5", ("Alibaba-NLP/gte-large-en-v1.5",)),
        KnownModel("gte-base-en-v1.5", ("Alibaba-NLP/gte-base-en-v1.5",)),
        KnownModel("GIST-Embedding-v0", ("avsolatorio/GIST-Embedding-v0",)),
        KnownModel("multi-qa-distilbert-cos-v1", ("sentence-transformers/multi-qa-distilbert-cos-v1",)),
        *(KnownModel(name, (f"intfloat/{name}",), _E5_PROMPTS, _E5_TASK_PROMPTS) for name in _E5_NAMES),
    )
}


def get_known_model(name: str) -> KnownModel:
    """The known model with this name or hub id.

    Raises:
        InputError: the name is not known; lists the names.
    """
    card = _find_by_name(name)
    if card is None:
        raise InputError(
            f"card {name!r} is not known; gnomon knows {', '.join(KNOWN_MODELS)}.{did_you_mean(name, KNOWN_MODELS)}"
        )
    return card


def recognise_model(candidates: Mapping[str, Any], readme: str) -> tuple[KnownModel, str] | None:
    """The known model in a folder and what it was recognised by, or None.

    Args:
        candidates: what a name was read from ("its hub id") -> the name, most reliable first.
        readme: its front matter's base_model and its first heading are names too.
    """
    for evidence, name in {**candidates, **_readme_names(readme)}.items():
        card = _find_by_name(name) if isinstance(name, str) and name else None
        if card:
            return card, evidence
    return None


def _find_by_name(name: str) -> KnownModel | None:
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    whole = name.lower()
    for card in KNOWN_MODELS.values():
        if whole in (hub_id.lower() for hub_id in card.hub_ids) or last == card.name.lower():
            return card
    return None


def front_matter(readme: str) -> list[str]:
    """The lines between the two `---` at the start of a README; empty without them."""
    lines = readme.splitlines()
    if not lines or lines[0].rstrip() != "---":
        return []
    ends = [index for index, line in enumerate(lines) if index and line.rstrip() == "---"]
    return lines[1 : ends[0]] if ends else []


HEADING = re.compile(
    r"^ {0,3}#{1,6}[ \t]+(.*?)[ \t#]*$"  # a line that begins with #
    r"|^ {0,3}(\S.*)\n {0,3}(?:=+|-+)[ \t]*$"  # a line that is underlined
    r"|<h[1-6]\b[^>]*>((?s:.*?))(?:</h[1-6]\s*>|\n[ \t]*\n|\Z)",  # HTML
    re.MULTILINE | re.IGNORECASE,
)
"""A heading in Markdown or HTML; one of the groups holds its text."""


def _readme_names(readme: str) -> dict[str, str]:
    """Names of the model in its README: the base_model in its front matter, if only one, and its first heading."""
    head = front_matter(readme)
    names: dict[str, str] = {}
    if len(bases := _base_models(head)) == 1:
        names["base_model in its README"] = bases[0]
    body = "\n".join(readme.splitlines()[len(head) + 2 :] if head else readme.splitlines())
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"^ {0,3}(```+|~~~+).*?(^ {0,3}\1[`~]*\s*$|\Z)", "", body, flags=re.DOTALL | re.MULTILINE)
    first = HEADING.search(body)
    heading = html.unescape(re.sub(r"<[^>]*>", "", "".join(filter(None, first.groups())))).strip() if first else ""
    if re.fullmatch(r"[\w./-]+", heading):
        names["the heading of its README"] = heading
    return names


def _base_models(front_matter_lines: list[str]) -> list[str]:
    """The names under `base_model:`, on its line (one, or several in brackets) or in the list below."""
    start = next((index for index, line in enumerate(front_matter_lines) if line.startswith("base_model:")), None)
    if start is None:
        return []
    inline = _strip_comment(front_matter_lines[start].partition(":")[2])
    below: list[str] = []
    for line in front_matter_lines[start + 1 :]:
        if not (item := re.match(r"\s*-\s+(.*)|\s+(\S.*)", line)):
            break
        below.append(_strip_comment(item[1] or item[2]))
    names = inline.strip("[]").split(",") if inline else below
    return [bare for name in names if (bare := name.strip().strip("\"'"))]


def _strip_comment(text: str) -> str:
    return re.sub(r"(^|\s)#.*", "", text).strip()
