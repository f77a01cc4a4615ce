"""Data sets in memory with the attributes that the sampler and the collator read."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from gnomon.train.data.dataset import hash_text


def fake_dataset(
    queries: Sequence[str],
    positives: Sequence[str],
    negatives: Sequence[Sequence[str]] | None = None,
    *,
    labels: Any = None,
    scores: Any = None,
    lines: Sequence[int] | None = None,
    own: Sequence[int] = (),
    name: str = "source",
) -> Any:
    """Stands in for `gnomon.train.data.dataset.Dataset`.

    Args:
        scores: a list for each row.
        lines: the line of each row in its file.
        own: negatives that are texts of their own row.
    """
    lines = lines or range(1, len(queries) + 1)
    texts = {"query": [*queries], "positive": [*positives]}
    bounds = None
    if negatives is not None:
        texts["negative"] = [text for row in negatives for text in row]
        bounds = np.cumsum([0, *map(len, negatives)])
    hashes = {column: np.array([hash_text(text) for text in each], np.int64) for column, each in texts.items()}
    sizes = {column: np.array([len(text.encode()) for text in each], np.int64) for column, each in texts.items()}

    def score_lists(rows_B: Any, negatives_BK: Any) -> Any:
        assert bounds is not None
        rows = zip(rows_B.tolist(), negatives_BK.tolist(), strict=True)
        return np.array([[scores[row][0], *(scores[row][1 + each - bounds[row]] for each in own)] for row, own in rows])

    return SimpleNamespace(
        name=name,
        rows=len(queries),
        lines=len({*lines}),
        negatives=min(map(len, negatives)) if negatives else 0,
        columns=tuple(texts),
        distinct={column: len({*each}) for column, each in texts.items()},
        negative_bounds=bounds,
        score_kind="labels" if labels is not None else "lists" if scores is not None else None,
        labels=None if labels is None else np.array(labels, np.float64),
        score_lists=score_lists,
        false_negatives=len(own),
        false_negative_entries=np.array(own, np.int64),
        rows_of_negatives=lambda entries: np.searchsorted(bounds, entries, side="right") - 1,
        texts=lambda column, entries: [texts[column][entry] for entry in entries.tolist()],
        hashes=hashes.__getitem__,
        sizes=sizes.__getitem__,
        location=lambda row: f"{name}.jsonl, line {lines[row]}",
    )


def numbered(rows: int, name: str = "source") -> Any:
    """Rows of which no two have a text in common."""
    return fake_dataset([f"q{row}" for row in range(rows)], [f"p{row}" for row in range(rows)], name=name)
