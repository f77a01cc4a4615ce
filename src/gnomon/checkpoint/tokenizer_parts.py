"""What decides a tokenizer's ids, part by part, in a form in which equal parts are equal values."""

from __future__ import annotations

import json
import re
from typing import Any, cast

from tokenizers import Tokenizer
from tokenizers.models import Unigram

from gnomon.checkpoint.tokenizer_settings import Json

MODEL_SETTINGS = {
    "WordPiece": ("unk_token", "continuing_subword_prefix", "max_input_chars_per_word"),
    "BPE": (
        "dropout",
        "unk_token",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "fuse_unk",
        "byte_fallback",
        "ignore_merges",
    ),
    "WordLevel": ("unk_token",),
}
"""Model class -> its settings beside the vocabulary."""

UNIGRAM_UNK_ID_PATTERN = re.compile(rb'"unk_id":(\w+)')
UNIGRAM_FALLBACK_PATTERN = re.compile(rb'"byte_fallback":(\w+)\}$')


def get_state(part: Any) -> Json | None:
    """A part of a tokenizer as tokenizer.json holds it."""
    return None if part is None else cast(Json, json.loads(part.__getstate__()))


def tokenizer_parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """The parts that decide the ids of a text, the model apart: two tokenizers with equal parts read texts the same."""
    added = {
        token.content: (index, token.single_word, token.lstrip, token.rstrip, token.normalized)
        for index, token in tokenizer.get_added_tokens_decoder().items()
    }
    split_tokens: set[str] = set()  # the only place where "special" changes ids
    if tokenizer.encode_special_tokens:
        split_tokens = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    pre_tokenizer = get_state(tokenizer.pre_tokenizer)
    if pre_tokenizer:
        pre_tokenizer.pop("trim_offsets", None)  # changes only offsets
    return {
        "normalizer": _simplify_normalizer(get_state(tokenizer.normalizer)),
        "pre-tokenizer": pre_tokenizer,
        "special tokens around a text": _special_ids_around(get_state(tokenizer.post_processor)),
        "added tokens": (added, split_tokens),
    }


def read_model_settings(tokenizer: Tokenizer) -> Json:
    """The settings of a tokenizer's model beside its vocabulary."""
    model = tokenizer.model
    if isinstance(model, Unigram):  # only its JSON holds them, which is megabytes long
        state = model.__getstate__()
        unk_id, fallback = UNIGRAM_UNK_ID_PATTERN.search(state[:100]), UNIGRAM_FALLBACK_PATTERN.search(state[-100:])
        assert unk_id and fallback, "an unknown JSON form of Unigram"
        return {"unk_id": json.loads(unk_id[1]), "byte_fallback": json.loads(fallback[1])}
    values = {name: getattr(model, name) for name in MODEL_SETTINGS[type(model).__name__]}
    affixes = ("continuing_subword_prefix", "end_of_word_suffix")
    return {name: "" if value is None and name in affixes else value for name, value in values.items()}


def _simplify_normalizer(state: Json | None) -> Json | None:
    """A normalizer's state without what can be written in two ways."""
    if state is None:
        return None
    if state["type"] == "Sequence":
        parts = [part for part in map(_simplify_normalizer, state["normalizers"]) if part is not None]
        return parts[0] if len(parts) == 1 else {"normalizers": parts} if parts else None
    if state["type"] == "BertNormalizer" and state["strip_accents"] is None:
        return state | {"strip_accents": state["lowercase"]}
    return state


def _special_ids_around(state: Json | None) -> Any:
    """Ids before and after a text; for another kind of post-processor, its whole state."""
    if state is None or state["type"] == "ByteLevel":
        return [], []
    if state["type"] in ("BertProcessing", "RobertaProcessing"):
        return [state["cls"][1]], [state["sep"][1]]
    if state["type"] == "Sequence":
        frames = [_special_ids_around(part) for part in state["processors"]]
        if not all(isinstance(frame, tuple) for frame in frames):
            return state
        return [i for frame in reversed(frames) for i in frame[0]], [i for frame in frames for i in frame[1]]
    if state["type"] != "TemplateProcessing":
        return state
    before: list[int] = []
    after: list[int] = []
    side = before
    for piece in state["single"]:
        if "Sequence" in piece:
            side = after
        else:
            side += state["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    return before, after
