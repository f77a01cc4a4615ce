"""Masks from hashes of texts."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnomon.losses.masks import duplicates_mask, hash_texts, known_pairs_mask

TEXTS = st.sampled_from(["a", "b", "c", "d", ""])


@pytest.mark.slow
def test_hashes_are_equal_for_equal_texts_in_every_process() -> None:
    texts = ["", "a", "A", "a ", "é", "e\u0301", "中文", "\ud800"]
    hashes = hash_texts(texts)
    assert hashes.dtype == torch.int64
    assert len({*hashes.tolist()}) == len(texts)
    assert hashes.tolist() == hash_texts(iter(texts)).tolist()
    assert hash_texts([]).shape == (0,)
    code = "from gnomon.losses import hash_texts; print(hash_texts(['a', '中文']).tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([hashes[1].item(), hashes[6].item()])


def test_duplicates() -> None:
    mask = duplicates_mask(hash_texts(["a", "b"]), hash_texts(["b", "a", "a"]))
    assert mask.tolist() == [[False, True, True], [True, False, False]]


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8), st.lists(TEXTS, max_size=8), st.data())
def test_answers_are_those_of_equal_keys(pairs: list[tuple[str, str]], others: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(pairs) - 1))
    stop = data.draw(st.integers(start + 1, len(pairs)))
    queries, positives = ([pair[side] for pair in pairs] for side in (0, 1))
    docs = positives + others
    mask = known_pairs_mask(hash_texts(queries[start:stop]), *map(hash_texts, (queries, positives, docs)))
    assert mask.tolist() == [[(query, doc) in pairs for doc in docs] for query in queries[start:stop]]
    asked = known_pairs_mask(hash_texts(positives[start:stop]), *map(hash_texts, (positives, queries, queries)))
    assert asked.tolist() == [[(query, doc) in pairs for query in queries] for doc in positives[start:stop]]
