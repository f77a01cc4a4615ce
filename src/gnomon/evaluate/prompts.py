"""Which prompt goes where: the model's own rules, by mteb's names of tasks and sides. Does not import mteb.

mteb encodes queries and documents apart, and texts of symmetric tasks (STS, clustering, classification, pairs, bitext,
summaries) as neither. The cards say: e5 takes "query: " on both sides of symmetric tasks; stella its `s2p_query` on the
queries of retrieval and its `s2s_query` on both sides of symmetric tasks; gte, GIST and multi-qa take none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gnomon.errors import InputError
from gnomon.inputs import check_encodable
from gnomon.messages import did_you_mean
from gnomon.spec import ModelSpec

PromptSide = Literal["query", "document"]
"""mteb's prompt types."""

SIDE_NAMES: dict[PromptSide | None, str] = {"query": "queries", "document": "documents", None: "texts"}


@dataclass(frozen=True)
class Prompt:
    """A prompt that is added before texts."""

    of: str
    """ "queries", "documents", or "texts" of a symmetric task."""
    name: str | None
    """Its name in the model, or the caller's key for it; None without a prompt."""
    text: str


def choose_prompt(
    spec: ModelSpec, *, task: str, kind: str, side: PromptSide | None, overrides: Mapping[str, str] | None = None
) -> Prompt:
    """The prompt of one side of a task.

    The first of these that exists: one of `overrides`, by mteb's keys (task-side, task, kind-side, kind, side); one of
    the model's own under a key that names the task or the kind; the model's rule for that side.

    Args:
        kind: mteb's task type, such as "Retrieval" or "STS".
        side: None for the texts of a symmetric task.
        overrides: prompts of the caller; they replace the model's wherever they have a key.
    """
    of, narrow = SIDE_NAMES[side], _candidate_keys(task, kind, side)
    keys = [*narrow, side] if side else narrow
    if overrides and (name := next((key for key in keys if key in overrides), None)):
        return Prompt(of, name, overrides[name])
    name = next((key for key in narrow if key in spec.prompts), _model_prompt_name(spec, side))
    return Prompt(of, name, spec.prompt_text(name))


def _model_prompt_name(spec: ModelSpec, side: PromptSide | None) -> str | None:
    if side == "query":
        return spec.query_prompt_name()
    return spec.document_prompt_name if side == "document" else spec.symmetric_prompt_name


def _candidate_keys(task: str, kind: str, side: PromptSide | None) -> list[str]:
    """mteb's keys that name the task or its kind, the narrowest first."""
    return [task, kind] if side is None else [f"{task}-{side}", task, f"{kind}-{side}", kind]


def check_prompt_keys(overrides: Mapping[str, str], *, tasks: Sequence[str], kinds: Sequence[str]) -> None:
    """
    Raises:
        InputError: a key that names neither a side nor one of these tasks and kinds (the message offers the nearest);
            a prompt that is not a text.
    """
    names = [*tasks, *kinds]
    known = ["query", "document", *names, *(f"{name}-{side}" for name in names for side in ("query", "document"))]
    for key, text in overrides.items():
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"the prompt {key!r} is {text!r}; it must be a text.")
        check_encodable(text, f"the prompt {key!r}")
        if key not in known:
            raise InputError(
                f"the prompt {key!r} applies to none of these tasks. Keys are query, document, a task's name or a kind "
                f"of task ({', '.join(kinds)}), the last two also with -query or -document.{did_you_mean(key, known)}"
            )
