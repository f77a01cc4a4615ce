"""Prompts that a run trains with, as the model that it writes declares them: whoever encodes with it uses the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gnomon.spec import ModelSpec
from gnomon.train.rules import GRADED
from gnomon.train.settings import Recipe

SIDES = ("query", "document")
DEFAULT = "default"
"""The name of the prompt for texts that are neither queries nor documents, where the model has none."""


def with_prompts(spec: ModelSpec, recipe: Recipe) -> ModelSpec:
    """The spec with the prompts that all sources have in common and the model had not.

    Graded pairs that have one prompt on both sides give it to every text: it becomes the default prompt.
    """
    sides = _used(spec, recipe)
    both = {text for texts in sides.values() for text in texts}
    if recipe.loss.name in GRADED and len(both) == 1:
        (text,) = both
        name = spec.symmetric_prompt_name or DEFAULT
        if spec.prompts.get(spec.symmetric_prompt_name or "", "") == text:
            return spec
        return replace(spec, prompts={**spec.prompts, name: text}, default_prompt_name=name)
    names = _names(spec)
    new = {names[side]: texts[0] for side, texts in sides.items() if len({*texts}) == 1}
    new = {name: text for name, text in new.items() if spec.prompts.get(name, "") != text}
    if not new:
        return spec
    # a model without prompts gets both, so that the side without one is known to have none
    first = {} if spec.prompts else dict.fromkeys(SIDES, "")
    return replace(spec, prompts=first | dict(spec.prompts) | new)


def undeclared_prompts(spec: ModelSpec, recipe: Recipe) -> list[str]:
    """What is to be said of prompts that the model cannot declare, in sentences."""
    told: list[str] = []
    for side, texts in _used(spec, recipe).items():
        if len({*texts}) > 1:
            listed = ", ".join(repr(text) for text in dict.fromkeys(texts))
            own = spec.prompts.get(_names(spec)[side])
            keeps = f"keeps its own, {own!r}" if own else "declares none"
            told.append(
                f"the sources have different prompts for a {side}: {listed}. The trained model {keeps}. Encode with "
                "prompt=, or give every source the same."
            )
    sides = _used(spec, recipe)
    if recipe.loss.name in GRADED and not told and sides["query"][:1] != sides["document"][:1]:
        told.append(
            "graded pairs were given a prompt for each side, so encode() adds none to their texts: use encode_query "
            "and encode_document, or give both sides the same prompt."
        )
    return told


def _used(spec: ModelSpec, recipe: Recipe) -> dict[str, Sequence[str]]:
    """Side -> the prompt that each source puts in front of its texts."""
    names = _names(spec)
    if recipe.loss.name in GRADED:
        names = dict.fromkeys(SIDES, spec.symmetric_prompt_name)
    own = {side: spec.prompts.get(name, "") if name else "" for side, name in names.items()}
    given = {side: [getattr(source, f"{side}_prompt") for source in recipe.sources] for side in SIDES}
    return {side: [own[side] if text is None else text for text in texts] for side, texts in given.items()}


def _names(spec: ModelSpec) -> dict[str, str]:
    """Side -> the name of its prompt in the model."""
    return {"query": spec.query_prompt_name() or "query", "document": spec.document_prompt_name or "document"}
