"""Which prompts stand in front of a run's texts, and which of them the trained model keeps as its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gnomon.spec import SYMMETRIC, ModelSpec
from gnomon.train.data import default_name
from gnomon.train.rules import GRADED
from gnomon.train.settings import DataSource, Recipe


def prompts_of(source: DataSource, spec: ModelSpec, *, graded: bool) -> tuple[str, str]:
    """In front of the queries of a source, and of its documents; both sides of graded pairs are texts of one sort."""
    names = spec.query_prompt_name(), spec.document_prompt_name
    if graded:
        names = spec.symmetric_prompt_name, spec.symmetric_prompt_name
    own = [spec.prompts[name] if name is not None else "" for name in names]
    query, document = source.query_prompt, source.document_prompt
    return own[0] if query is None else query, own[1] if document is None else document


def with_prompts(spec: ModelSpec, recipe: Recipe) -> ModelSpec:
    """The spec with the prompts that the run's sources give, on each side that all of them have the same on.

    Where every text had one and the same prompt, it is the default prompt as well: `encode`, STS and the like use it.
    """
    sources, graded = _sources(recipe), recipe.loss.name in GRADED
    if not any(_gives(source) for source in sources):
        return spec
    used = [prompts_of(source, spec, graded=graded) for source in sources]
    queries, documents = ({pair[side] for pair in used} for side in (0, 1))
    one = queries | documents
    query, document = spec.query_prompt_name(), spec.document_prompt_name
    if graded and len(one) == 1 and (query or document):  # those are for another use, on which nothing was learnt
        text, own = one.pop(), spec.symmetric_prompt_name
        name = own if own is not None and spec.prompts[own] == text else SYMMETRIC
        return _with_default(spec, {name: text}, name)
    names = query or "query", document or "document"
    said = {name: min(side) for name, side in zip(names, (queries, documents), strict=True) if len(side) == 1}
    if len(one) == 1:
        return _with_default(spec, said, names[0])
    return spec if all(text == spec.prompts.get(name, "") for name, text in said.items()) else _with(spec, said)


def notes_on_prompts(spec: ModelSpec, recipe: Recipe) -> Iterator[str]:
    """What a run has to say of prompts that differ from one source to another, and so cannot be saved."""
    sources, graded = _sources(recipe), recipe.loss.name in GRADED
    if not any(_gives(source) for source in sources):
        return
    own = prompts_of(DataSource(()), spec, graded=False)
    for side, key in enumerate(("query_prompt", "document_prompt")):
        named: dict[str, str] = {}
        for source in sources:
            named.setdefault(prompts_of(source, spec, graded=graded)[side], source.name or default_name(source))
        if len(named) > 1:
            shown = ", ".join(f"{text!r} ({name})" for text, name in named.items())
            yield (
                f"sources differ in {key}: {shown}. A model has one, so the trained model keeps what it had, "
                f"{own[side]!r}. Give prompt= when you encode, or the same {key} to all sources."
            )


def _sources(recipe: Recipe) -> Sequence[DataSource]:
    """Those that are drawn."""
    return [source for source in recipe.sources if source.weight != 0]


def _gives(source: DataSource) -> bool:
    return source.query_prompt is not None or source.document_prompt is not None


def _with_default(spec: ModelSpec, prompts: dict[str, str], name: str) -> ModelSpec:
    """Of these prompts, which are one text, the one of this name is for texts of any sort; no default, if it is ""."""
    text = prompts[name]
    by_task = {task: own for task, own in spec.query_prompt_names.items() if task != SYMMETRIC}
    if text:
        by_task |= {SYMMETRIC: name} if SYMMETRIC in spec.query_prompt_names else {}
        return replace(_with(spec, prompts), default_prompt_name=name, query_prompt_names=by_task)
    sides = {key: "" for key in prompts if key in spec.prompts}
    spec = replace(spec, default_prompt_name=None, query_prompt_names=by_task)
    return _with(spec, sides) if sides else spec


def _with(spec: ModelSpec, prompts: dict[str, str]) -> ModelSpec:
    """ "query" and "document" are there where any is, as sentence-transformers writes them."""
    sides = {} if spec.prompts else {"query": "", "document": ""}
    return replace(spec, prompts=sides | dict(spec.prompts) | prompts)
