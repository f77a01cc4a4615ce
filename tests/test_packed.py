"""Texts end to end, and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from gnomon.packed import pack, padded_places, padded_tokens, slice_texts, split_per_text

texts = st.lists(st_np.arrays(np.int64, st.integers(0, 12), elements=st.integers(0, 2**40)), max_size=8)


@given(texts)
def test_split_gives_back_what_was_packed(ids: list[np.ndarray]) -> None:
    packed = pack(ids)
    assert [part.tolist() for part in split_per_text(packed.ids_T, packed)] == [text.tolist() for text in ids]  # pyright: ignore
    assert packed.lengths_B.tolist() == [len(text) for text in ids]
    assert packed.positions_T.tolist() == [position for text in ids for position in range(len(text))]
    for array in (packed.ids_T, packed.positions_T, packed.bounds):
        assert array.dtype == np.int64


@given(texts, st.data())
def test_skips_and_types_go_along_with_their_texts(ids: list[np.ndarray], data: st.DataObject) -> None:
    skip_B = data.draw(st.lists(st.integers(0, 9), min_size=len(ids), max_size=len(ids)))
    types = [text % 2 for text in ids]
    start = data.draw(st.integers(0, len(ids)))
    stop = data.draw(st.integers(start, len(ids)))
    part = slice_texts(pack(ids, skip_B=skip_B, types_per_text=types), start, stop)
    wanted = pack(ids[start:stop], skip_B=skip_B[start:stop], types_per_text=types[start:stop])
    assert part.skip_B is not None
    assert part.types_T is not None
    assert part.skip_B.tolist() == skip_B[start:stop]
    assert part.types_T.tolist() == wanted.types_T.tolist()  # pyright: ignore
    assert len(part.types_T) == len(part.ids_T)
    assert part.skip_B.dtype == part.types_T.dtype == np.int64
    assert (pack(ids).skip_B, pack(ids).types_T) == (None, None)


@given(texts.map(lambda ids: [text for text in ids if len(text)]))
def test_padding_repeats_the_last_token_of_a_text(ids: list[np.ndarray]) -> None:
    packed = pack(ids)
    token_BS, place_T = padded_tokens(packed), padded_places(packed)
    longest = max((len(text) for text in ids), default=0)
    assert token_BS.shape == (len(ids), longest)
    padded = packed.ids_T[token_BS]
    assert padded.tolist() == [[*text.tolist(), *[text[-1]] * (longest - len(text))] for text in ids]
    assert padded.reshape(-1)[place_T].tolist() == packed.ids_T.tolist()


@pytest.mark.parametrize("width", [1, 3])
def test_split_takes_values_of_any_width(width: int) -> None:
    packed = pack([np.arange(2), np.arange(0), np.arange(3)])
    values_TH = np.arange(5 * width, dtype=np.float32).reshape(5, width)
    parts = split_per_text(values_TH, packed)
    assert [part.shape for part in parts] == [(2, width), (0, width), (3, width)]
    assert np.array_equal(np.concatenate(parts), values_TH)


@given(texts, st.data())
def test_a_part_is_the_batch_of_its_texts(ids: list[np.ndarray], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(ids)))
    stop = data.draw(st.integers(start, len(ids)))
    found, wanted = slice_texts(pack(ids), start, stop), pack(ids[start:stop])
    for name in ("ids_T", "positions_T", "bounds"):
        assert getattr(found, name).tolist() == getattr(wanted, name).tolist()
        assert getattr(found, name).dtype == np.int64


@given(texts, st.data())
def test_a_part_of_a_part(ids: list[np.ndarray], data: st.DataObject) -> None:
    """As halves of halves are made where memory is short."""
    cut = data.draw(st.integers(0, len(ids)))
    upper = slice_texts(pack(ids), cut, len(ids))
    inner = data.draw(st.integers(0, len(ids) - cut))
    assert slice_texts(upper, inner, len(ids) - cut).bounds.tolist() == pack(ids[cut + inner :]).bounds.tolist()
    assert slice_texts(upper, inner, len(ids) - cut).ids_T.tolist() == pack(ids[cut + inner :]).ids_T.tolist()


def test_a_part_copies_no_ids_and_leaves_the_whole_alone() -> None:
    whole = pack([np.arange(2), np.arange(3), np.arange(4)])
    tail = slice_texts(whole, 1, 3)
    assert np.shares_memory(tail.ids_T, whole.ids_T)
    assert np.shares_memory(tail.positions_T, whole.positions_T)
    assert (tail.bounds.tolist(), whole.bounds.tolist()) == ([0, 3, 7], [0, 2, 5, 9])
