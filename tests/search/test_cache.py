"""The cache of vectors, against a dict; what it drops; damaged, locked, full and read-only files."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.errors import InputError, Notice
from gnomon.search import cache as cache_module
from gnomon.search.cache import DEFAULT_BYTES, PAGE_BYTES, CorpusCache, cache_folder, max_cache_bytes

DIM = 8


def vectors_of(texts: list[str], space: str = "a", dim: int = DIM) -> np.ndarray:
    """The vectors that a model would give: the same for the same text."""
    seeds = [abs(hash((space, text))) % 2**32 for text in texts]
    return np.array([np.random.default_rng(seed).standard_normal(dim) for seed in seeds], np.float32)


def add(cache: CorpusCache, texts: list[str], space: str = "a", dim: int = DIM) -> bool:
    truncated = [position for position, text in enumerate(texts) if len(text) > 3]
    return cache.add(space, texts, vectors_of(texts, space, dim), truncated)


def present(cache: CorpusCache, texts: list[str], space: str = "a", dim: int = DIM) -> set[str]:
    """The texts that are here; their vectors and flags are checked."""
    cached = cache.get(space, texts, dim)
    rows = np.flatnonzero(cached.present_N)
    here = [texts[row] for row in rows]
    np.testing.assert_array_equal(cached.vectors_ND[rows], vectors_of(here, space, dim).reshape(-1, dim))
    assert cached.truncated_N[rows].tolist() == [len(text) > 3 for text in here]
    return set(here)


def test_what_was_added_is_there_for_the_next_process(tmp_path: Path) -> None:
    with CorpusCache(tmp_path) as cache:
        assert present(cache, ["one", "two", "three"]) == set()
        assert add(cache, ["one", "three"])
        assert add(cache, ["two", "\ud800"])
    with CorpusCache(tmp_path) as cache:
        assert present(cache, ["four", "three", "two", "\ud800", "one"]) == {"one", "two", "three", "\ud800"}
        assert present(cache, ["one"], space="another model") == set()
        assert present(cache, []) == set()
        size = cache.size()
    assert (size.num_texts, size.num_spaces) == (4, 1)
    assert size.num_bytes == cache.path.stat().st_size


TEXTS = st.lists(st.sampled_from([f"text {number}" for number in range(30)]), min_size=1, max_size=6, unique=True)
STEPS = st.lists(st.tuples(st.sampled_from(["add", "get", "reopen"]), TEXTS, st.sampled_from("ab")), max_size=25)


@given(STEPS)
def test_any_sequence_is_that_of_a_dict_with_the_oldest_blocks_dropped(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, list[str], str]]
) -> None:
    """The reference: blocks as a list, the one that was used longest ago first."""
    folder, max_bytes, dim = tmp_path_factory.mktemp("cache"), 24 * PAGE_BYTES, 2048
    blocks: list[dict[str, Any]] = []
    clock = 0
    cache = CorpusCache(folder, max_bytes=max_bytes)
    for action, texts, space in steps:
        if action == "reopen":
            cache.close()
            cache, clock = CorpusCache(folder, max_bytes=max_bytes), clock + 1
            continue
        newest_first = sorted(blocks, key=lambda block: -block["id"])
        if action == "get":
            expected = {
                text: block["id"]
                for text in texts
                for block in [next((b for b in newest_first if b["space"] == space and text in b["texts"]), None)]
                if block
            }
            here = present(cache, texts, space, dim)
            if here != set(expected):  # some blocks were dropped: never one that was used later than one that stays
                gone = {expected[text] for text in set(expected) - here}
                stay = {expected[text] for text in here if text in expected}
                used = {block["id"]: block["used"] for block in blocks}
                assert here <= set(expected)
                assert all(used[one] <= used[other] for one in gone for other in stay)
                assert all(used[one] < clock for one in gone)
                blocks = [block for block in blocks if block["id"] not in gone]
            for block in blocks:
                if block["space"] == space and block["id"] in {expected.get(text) for text in here}:
                    block["used"] = clock
        elif add_quietly(cache, texts, space, dim):
            blocks.append({"id": len(steps) and _next_id(), "space": space, "texts": set(texts), "used": clock})
        assert cache.path.stat().st_size <= max_bytes if cache.path.exists() else True
    cache.close()
