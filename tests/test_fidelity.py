"""The measure of int8: what it reports is what the two engines give, and it is kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gnomon import Encoder, fidelity
from gnomon.checkpoint.folder import read_folder
from gnomon.checkpoint.hub import resolve_source
from gnomon.errors import InputError
from gnomon.spec import StaticSpec

Golden = Callable[[str], Path]


def test_the_texts_are_64_and_differ() -> None:
    texts = fidelity.read_texts()
    assert len(texts) == len(set(texts)) == 64
    assert min(map(len, texts)) == 1
    assert max(map(len, texts)) > 400


def test_the_report_is_the_cosine_of_the_two_precisions(golden_folder: Golden, tmp_path: Path) -> None:
    folder = golden_folder("GIST-Embedding-v0")
    found = fidelity.measure_fidelity(read_folder(resolve_source(folder)), cache_folder=tmp_path)
    exact, rough = (
        Encoder.load(folder, dtype=dtype).encode(fidelity.read_texts(), on_truncate="silent", normalize_embeddings=True)
        for dtype in ("float32", "int8")
    )
    cosines = (exact * rough).sum(axis=1)
    assert found.lowest == pytest.approx(float(cosines.min()), abs=1e-6)
    assert found.mean == pytest.approx(float(cosines.mean()), abs=1e-6)
    assert 0.99 < found.lowest < 1
    assert (found.texts, found.cached) == (64, False)


def test_it_is_kept_by_model(golden_folder: Golden, tmp_path: Path) -> None:
    first = read_folder(resolve_source(golden_folder("GIST-Embedding-v0")))
    other = read_folder(resolve_source(golden_folder("multi-qa-distilbert-cos-v1")))
    measured = fidelity.measure_fidelity(first, cache_folder=tmp_path)
    again = fidelity.measure_fidelity(first, cache_folder=tmp_path)
    assert again.cached
    assert (again.lowest, again.mean) == (measured.lowest, measured.mean)
    assert not fidelity.measure_fidelity(other, cache_folder=tmp_path).cached
    assert len(list(tmp_path.iterdir())) == 2


def test_one_changed_weight_is_another_model(golden_folder: Golden, tmp_path: Path) -> None:
    checkpoint = read_folder(resolve_source(golden_folder("GIST-Embedding-v0")))
    fidelity.measure_fidelity(checkpoint, cache_folder=tmp_path)
    changed = dict(checkpoint.arrays)
    changed["embed.tokens"] = np.array(changed["embed.tokens"])
    changed["embed.tokens"][0, 0] += 1
    assert not fidelity.measure_fidelity(replace(checkpoint, arrays=changed), cache_folder=tmp_path).cached


def test_a_static_model_has_no_int8(golden_folder: Golden) -> None:
    checkpoint = read_folder(resolve_source(golden_folder("GIST-Embedding-v0")))
    static = replace(checkpoint, spec=replace(checkpoint.spec, trunk=StaticSpec(2, 3)))
    with pytest.raises(InputError, match="static model"):
        fidelity.measure_fidelity(static)
