"""Indexes in memory, of the attributes that the sampler and the collator read."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from gnomon.train.index import text_hash


def fake_index(
    queries: Sequence[str],
    positives: Sequence[str],
    negatives: Sequence[Sequence[str]] | None = None,
    *,
    scores: Any = None,
    name: str = "source",
) -> Any:
    """Twin of `gnomon.train.index.Index`."""
    texts = {"query": [*queries], "positive": [*positives]}
    bounds = None
    if negatives is not None:
        texts["negative"] = [text for row in negatives for text in row]
        bounds = np.cumsum([0, *map(len, negatives)])
    hashes = {column: np.array([text_hash(text) for text in each], np.int64) for column, each in texts.items()}
    sizes = {column: np.array([len(text.encode()) for text in each], np.int64) for column, each in texts.items()}
    return SimpleNamespace(
        name=name,
        rows=len(queries),
        negatives=min(map(len, negatives)) if negatives else 0,
        columns=tuple(texts),
        distinct={column: len({*each}) for column, each in texts.items()},
        negative_bounds=bounds,
        scores=None if scores is None else np.array(scores, np.float64),
        texts=lambda column, entries: [texts[column][entry] for entry in entries.tolist()],
        hashes=hashes.__getitem__,
        sizes=sizes.__getitem__,
        place=lambda row: f"{name}.jsonl, line {row + 1}",
    )


def numbered(rows: int, name: str = "source") -> Any:
    """Rows of which no two have a text in common."""
    return fake_index([f"q{row}" for row in range(rows)], [f"p{row}" for row in range(rows)], name=name)
