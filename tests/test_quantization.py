"""Vectors in fewer bytes: as sentence-transformers defines them, and the same for a query as for its corpus."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from gnomon.errors import InputError, NumericError
from gnomon.quantization import Quantized, dequantize, quantize, unpack_signs

RNG = np.random.default_rng(0)
CORPUS = RNG.normal(size=(50, 16)).astype(np.float32)
corpora = st_np.arrays(
    np.float32, st.tuples(st.integers(2, 9), st.just(8)), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
)


@pytest.mark.parametrize("precision", ["float16", "int8", "uint8", "binary", "ubinary"])
@settings(max_examples=40, deadline=None)
@given(corpus=corpora)
def test_one_query_equals_its_row_in_the_corpus(precision: Any, corpus: np.ndarray) -> None:
    values, ranges = quantize(corpus, precision)
    for row_D, of_row in zip(corpus, values, strict=True):
        alone = quantize(row_D, precision, ranges)
        assert np.array_equal(alone.values, of_row)
        assert np.array_equal(quantize(row_D[None], precision, ranges).values, of_row[None])


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("calibrated", [True, False])
def test_as_sentence_transformers(precision: Any, calibrated: bool) -> None:
    quantize_embeddings = pytest.importorskip("sentence_transformers.util.quantization").quantize_embeddings
    ranges = quantize(RNG.normal(size=(9, 16)) * 3, "int8").ranges if calibrated and "int8" in precision else None
    theirs = quantize_embeddings(CORPUS, precision, ranges=ranges)
    ours = quantize(CORPUS, precision, ranges)
    assert ours.values.dtype == theirs.dtype
    assert np.array_equal(ours.values, theirs)


@pytest.mark.parametrize(("precision", "lowest"), [("int8", -128), ("uint8", 0)])
@settings(max_examples=40, deadline=None)
@given(corpus=corpora)
def test_a_value_is_in_its_step(precision: Any, lowest: int, corpus: np.ndarray) -> None:
    values, ranges = quantize(corpus, precision)
    assert ranges is not None
    assert np.array_equal(ranges, [corpus.min(0), corpus.max(0)])
    low, high = ranges.astype(np.float64)
    floor = low + (values.astype(np.float64) - lowest) * (high - low) / 255
    slack = 1e-4 * np.abs(ranges).max() + 1e-6
    assert (floor <= corpus + slack).all()
    assert (corpus <= floor + (high - low) / 255 + slack).all()


def test_values_outside_the_ranges_are_clipped() -> None:
    ranges = quantize(CORPUS, "int8").ranges
    assert quantize(CORPUS[0] + 100, "int8", ranges).values.tolist() == [127] * 16
    assert quantize(CORPUS[0] - 100, "int8", ranges).values.tolist() == [-128] * 16
    assert quantize(CORPUS[0] + 100, "uint8", ranges).values.tolist() == [255] * 16


def test_a_component_that_never_changes_is_the_lowest_step() -> None:
    assert quantize(np.ones((3, 4)), "uint8").values.tolist() == [[0] * 4] * 3


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
@pytest.mark.parametrize("dim", [1, 7, 9, 15])
def test_a14_the_last_byte_of_a_dim_that_8_does_not_divide_ends_in_zeros(precision: Any, dim: int) -> None:
    ours = quantize(CORPUS[:, :dim], precision).values
    bits = np.unpackbits((ours.astype(np.int16) + 128 * (precision == "binary")).astype(np.uint8), axis=1)
    assert np.array_equal(bits[:, :dim], CORPUS[:, :dim] > 0)
    assert not bits[:, dim:].any()
    quantize_embeddings = pytest.importorskip("sentence_transformers.util.quantization").quantize_embeddings
    assert np.array_equal(ours, quantize_embeddings(CORPUS[:, :dim], precision))


def test_signs_are_packed_in_order() -> None:
    vector = np.array([1, -1, 0, 2, -3, 1e-9, -1e-9, 5])
    assert quantize(vector, "ubinary") == Quantized(np.array([0b10010101], np.uint8), None)
    assert quantize(vector, "binary").values.tolist() == [0b10010101 - 128]
    assert quantize(CORPUS, "binary").values.shape == (50, 2)


@pytest.mark.parametrize("precision", ["float16", "binary", "ubinary"])
def test_no_vectors_are_no_error(precision: Any) -> None:
    assert len(quantize(np.zeros((0, 16)), precision).values) == 0


def test_float16_rounds() -> None:
    assert np.array_equal(quantize(CORPUS, "float16").values, CORPUS.astype(np.float16))


@pytest.mark.parametrize(
    ("vectors", "precision", "ranges", "message"),
    [
        (CORPUS, "int4", None, "precision 'int4' is not one of float16, int8, uint8, binary, ubinary."),
        (CORPUS[None], "int8", None, r"vectors have shape (1, 50, 16); give [B, D], or one vector [D]."),
        (np.float32(1), "int8", None, "vectors have shape ()"),
        (CORPUS[0], "int8", None, "int8 of a single vector needs ranges="),
        (CORPUS[:1], "uint8", None, "uint8 of a single vector needs ranges="),
        (CORPUS, "int8", np.zeros((2, 5)), "ranges have shape (2, 5); they must be [2, 16]."),
        (CORPUS, "int8", np.zeros(16), "ranges have shape (16,)"),
        (CORPUS, "int8", np.stack([np.ones(16), np.zeros(16)]), "ranges must be finite, the lowest first."),
        (CORPUS, "int8", np.full((2, 16), np.nan), "ranges must be finite"),
        (CORPUS, "binary", np.zeros((2, 16)), "ranges are not used by binary"),
        (CORPUS, "float16", np.zeros((2, 16)), "ranges are not used by float16"),
    ],
)
def test_bad_input_is_refused(vectors: Any, precision: Any, ranges: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        quantize(vectors, precision, ranges)
    assert message in str(caught.value)


@pytest.mark.parametrize("precision", ["float16", "int8", "binary"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_an_error(precision: Any, value: float) -> None:
    vectors = CORPUS.copy()
    vectors[3, 4] = value
    with pytest.raises(NumericError, match="NaN or infinity"):
        quantize(vectors, precision)


def test_what_float16_cannot_hold_is_an_error() -> None:
    with pytest.raises(NumericError, match=r"1e\+06 .*65504"):
        quantize(CORPUS * 0 + 1e6, "float16")
    assert np.isfinite(quantize([65504.0], "float16").values).all()


def test_ranges_too_near_for_a_step_are_one_step() -> None:
    """(high - low) / 255 is zero in float32."""
    vectors = np.array([[1e-45, 0], [0, 1]], np.float32)
    assert quantize(vectors, "uint8").values[:, 0].tolist() == [0, 0]


# ---- and back


@pytest.mark.parametrize("precision", ["int8", "uint8"])
@settings(max_examples=40, deadline=None)
@given(corpus=corpora)
def test_dequantized_values_are_within_half_a_step(precision: Any, corpus: np.ndarray) -> None:
    values, ranges = quantize(corpus, precision)
    assert ranges is not None
    restored = dequantize(values, ranges)
    assert restored.dtype == np.float32
    steps_D = (ranges[1].astype(np.float64) - ranges[0]) / 255
    assert (np.abs(restored - corpus) <= steps_D / 2 + 1e-4 * np.abs(ranges).max() + 1e-6).all()
    assert np.array_equal(dequantize(values[0], ranges), restored[0])


def test_int8_and_uint8_are_dequantized_alike() -> None:
    restored = [dequantize(*quantize(CORPUS, precision)) for precision in ("int8", "uint8")]
    assert np.array_equal(*restored)


def test_float16_is_dequantized_by_its_type() -> None:
    values = quantize(CORPUS, "float16").values
    assert np.array_equal(dequantize(values), values.astype(np.float32))


@pytest.mark.parametrize("dim", [1, 7, 8, 16])
def test_packed_signs_are_unpacked_to_their_dim(dim: int) -> None:
    signs = unpack_signs(quantize(CORPUS[:, :dim], "ubinary").values, dim)
    assert signs.dtype == np.float32
    assert np.array_equal(signs, np.where(CORPUS[:, :dim] > 0, 1, -1))


def test_what_cannot_be_dequantized() -> None:
    values, ranges = quantize(CORPUS, "int8")
    with pytest.raises(InputError, match=r"int8.*ranges"):
        dequantize(values)
    with pytest.raises(InputError, match=r"ranges.*\(1, 16\).*\[2, 16\]"):
        dequantize(values, ranges[:1])  # pyright: ignore[reportOptionalSubscript]
    with pytest.raises(InputError, match="float32"):
        dequantize(CORPUS)
