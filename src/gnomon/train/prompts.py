"""The prompts that a trained model is written with: those that its texts had in training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gnomon.spec import SYMMETRIC, ModelSpec


@dataclass(frozen=True)
class SourcePrompts:
    """The prompts that a source adds to its texts."""

    source: str
    query: str
    document: str
    has_labels: bool
    """Whether its rows are scored pairs."""

    @property
    def is_symmetric(self) -> bool:
        """Whether both texts of a pair are of the same kind, and have the same prompt."""
        return self.has_labels and self.query == self.document


def apply_prompts(spec: ModelSpec, source_prompts: Sequence[SourcePrompts]) -> tuple[ModelSpec, list[str]]:
    """The model's spec with the prompts that all sources agree about, and warnings where they do not.

    Pairs and triplets have queries and documents. A prompt on both sides of scored pairs becomes the default prompt,
    which `encode` uses. Where only such pairs were trained, and the model has no other prompts, it becomes that of
    queries and documents, too.
    """
    pairs = [each for each in source_prompts if not each.is_symmetric]
    symmetric_pairs = [each for each in source_prompts if each.is_symmetric]
    query, document, symmetric = spec.query_prompt_name(), spec.document_prompt_name, spec.symmetric_prompt_name
    messages: list[str] = []

    def agreed(what: str, texts: Iterable[tuple[str, str]], own: str | None) -> str | None:
        """The prompt of all sources; None where they differ, or have the model's own."""
        sources: dict[str, list[str]] = {}
        for source, text in texts:
            sources.setdefault(text, []).append(source)
        if len(sources) > 1:
            messages.append(_describe_disagreement(what, sources, own))
        text = next(iter(sources)) if len(sources) == 1 else None
        return None if text == (own or "") else text

    def prompt_of(name: str | None) -> str | None:
        return None if name is None else spec.prompts[name]

    new = {
        query or "query": agreed("queries", ((each.source, each.query) for each in pairs), prompt_of(query)),
        document or "document": agreed(
            "documents", ((each.source, each.document) for each in pairs), prompt_of(document)
        ),
    }
    default = agreed(
        "texts of scored pairs", ((each.source, each.query) for each in symmetric_pairs), prompt_of(symmetric)
    )
    if default and not pairs:
        new |= {name: default for name, own in (("query", query), ("document", document)) if own is None}
    spec = _add_prompts(spec, {name: text for name, text in new.items() if text is not None})
    return (spec if default is None else _with_default(spec, default)), messages


def _add_prompts(spec: ModelSpec, new: dict[str, str]) -> ModelSpec:
    if not new:
        return spec
    first = {} if spec.prompts else {"query": "", "document": ""}  # as sentence-transformers writes them
    return replace(spec, prompts=first | dict(spec.prompts) | new)


def _with_default(spec: ModelSpec, text: str) -> ModelSpec:
    """The spec with this prompt for texts of one kind; "" for no prompt."""
    tasks = {task: name for task, name in spec.query_prompt_names.items() if task != SYMMETRIC}
    if not text:
        return replace(spec, default_prompt_name=None, query_prompt_names=tasks)
    name = spec.symmetric_prompt_name
    if name is None or name in (spec.query_prompt_name(), spec.document_prompt_name, *tasks.values()):
        name = next(each for each in ("default", "symmetric", "pairs") if each not in spec.prompts)
    tasks |= {SYMMETRIC: name} if SYMMETRIC in spec.query_prompt_names else {}
    spec = _add_prompts(spec, {name: text})
    return replace(spec, default_prompt_name=name, query_prompt_names=tasks)


def _describe_disagreement(what: str, sources: dict[str, list[str]], own: str | None) -> str:
    prompts = ", ".join(f"{text!r} ({', '.join(names)})" for text, names in sources.items())
    result = f"keeps its own, {own!r}" if own else "is written without one"
    return (
        f"the sources have different prompts for {what}: {prompts}. The model {result}. Give all sources the same "
        "prompt, or encode with prompt=."
    )
