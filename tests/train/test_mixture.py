"""Weights of sources: as given, as a data_config.json has them, or by their rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.errors import InputError
from gnomon.train.data.mixture import compute_weights, max_lines
from gnomon.train.recipe.schema import DataSource, MixtureSettings


def sources_of(*weights: float | None) -> list[DataSource]:
    return [DataSource((f"data/s{number}.jsonl.gz",), weight=weight) for number, weight in enumerate(weights)]


def configured(folder: Path, entries: Any) -> MixtureSettings:
    path = folder / "data_config.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries), "utf-8")
    return MixtureSettings(data_config=str(path))


# ---- given


@given(weights=st.lists(st.floats(0, 1e300), min_size=1, max_size=8))
def test_weights_that_are_given_become_shares(weights: list[float]) -> None:
    sources = sources_of(*weights)
    if not any(weights):
        with pytest.raises(InputError, match="The weight of every source is 0"):
            compute_weights(sources, [1] * len(sources), MixtureSettings())
        return
    found = compute_weights(sources, [1] * len(sources), MixtureSettings(alpha=0.3, cap=1))
    parts = np.array(weights) / max(weights)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, parts / parts.sum())


def test_weights_for_some_are_refused() -> None:
    with pytest.raises(InputError, match="'s1' has no weight"):
        compute_weights(sources_of(1.0, None, 2.0), [1, 2, 3], MixtureSettings())


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_what_is_no_weight_is_refused(weight: float) -> None:
    with pytest.raises(InputError, match=rf"weight of source 's1' is {weight}"):
        compute_weights(sources_of(1.0, weight), [1, 2], MixtureSettings())


# ---- by rows


@given(
    rows=st.lists(st.integers(1, 2**40), min_size=1, max_size=8),
    alpha=st.floats(0, 3),
    cap=st.none() | st.integers(1, 2**30),
)
def test_shares_are_powers_of_rows_up_to_the_cap(rows: list[int], alpha: float, cap: int | None) -> None:
    found = compute_weights(sources_of(*[None] * len(rows)), rows, MixtureSettings(alpha=alpha, cap=cap))
    powers = [float(min(count, cap or count)) ** alpha for count in rows]
    np.testing.assert_allclose(found, np.array(powers) / sum(powers), rtol=1e-9)


@pytest.mark.parametrize("alpha", [-0.5, float("nan"), float("inf")])
def test_an_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(InputError, match=rf"mixture\.alpha is {alpha}"):
        compute_weights(sources_of(None), [1], MixtureSettings(alpha=alpha))


def test_a_cap_below_1_is_refused() -> None:
    with pytest.raises(InputError, match=r"mixture\.cap is 0\..* at least 1"):
        compute_weights(sources_of(None), [1], MixtureSettings(cap=0))


# ---- data_config.json


def test_a_data_config_is_matched_by_name_and_by_file(tmp_path: Path) -> None:
    """Names of files as the multi-qa models have them: with a folder, and the same file in two folders."""
    entries = [
        {"name": "gooaq_pairs.jsonl.gz", "weight": 3, "lines": 3012496},
        {"name": "title_body/cooking.jsonl.gz", "weight": 2, "lines": 23705},
        {"name": "title_answer/cooking.jsonl.gz", "weight": 1},
        {"name": "by hand", "weight": 4, "lines": 7},
    ]
    settings = configured(tmp_path, entries)
    sources = [
        DataSource(("x.parquet",), name="by hand"),
        DataSource(("/data/title_answer/cooking.jsonl.gz",), name="answers"),
        DataSource(("/data/title_body/cooking.jsonl.gz",), name="bodies"),
        DataSource(("/other/gooaq_pairs.parquet",)),
    ]
    assert compute_weights(sources, [9] * 4, settings).tolist() == [0.4, 0.1, 0.2, 0.3]
    assert [max_lines(settings, source) for source in sources] == [7, None, 23705, 3012496]
    assert max_lines(MixtureSettings(), sources[0]) is None


def refused(tmp_path: Path, entries: Any, sources: list[DataSource], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compute_weights(sources, [1] * len(sources), configured(tmp_path, entries))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"name": "s0", "weight": 1}], r"has no weight for source 's1'"),
        (
            [{"name": "s0", "weight": 1}, {"name": "s1", "weight": 1}, {"name": "s1x", "weight": 1}],
            r"has a weight for 's1x'.* Did you mean 's1'\?",
        ),
        (
            [{"name": "s0", "weight": 1}, {"name": "s1", "weight": 1}, {"name": "s1.jsonl.gz", "weight": 1}],
            r"has 's1' and 's1.jsonl.gz', and each matches source 's1'",
        ),
        ([{"name": "s0", "weight": 0}, {"name": "s1", "weight": 0}], "The weight of every source is 0"),
        ([{"name": "s0", "weight": -2}, {"name": "s1", "weight": 1}], r"weight of source 's0' is -2"),
        ('[{"name": "s0", "weight": NaN}, {"name": "s1", "weight": 1}]', r"weight of source 's0' is nan"),
        ([{"name": "s0", "weight": "2"}], r"Entry 0 of .*data_config\.json, 's0', has the weight '2'"),
        ([{"name": "s0"}], r"'s0', has the weight None"),
        ([{"name": "s0", "weight": True}], r"has the weight True"),
        ([{"name": "s0", "weigth": 1}], r"has 'weigth'.* name, weight, lines\. Did you mean 'weight'\?"),
        ([{"name": "s0", "weight": 1, "lines": 0}], r"'s0', has lines 0\..* at least 1"),
        ([{"name": "s0", "weight": 1, "lines": 2.5}], r"has lines 2\.5"),
        ([{"weight": 1}], r"has the name None"),
        (["s0"], r"Entry 0 of .* is 's0'"),
        ({"s0": 1}, r"is not a list of sources"),
        ([], r"is not a list of sources"),
        ("{", r"is not JSON"),
    ],
)
def test_a_data_config_that_does_not_fit_is_refused(tmp_path: Path, entries: Any, message: str) -> None:
    refused(tmp_path, entries, sources_of(None, None), message)


def test_an_entry_that_may_be_two_sources_is_refused(tmp_path: Path) -> None:
    sources = [DataSource(("a/x.jsonl",), name="one"), DataSource(("b/x.jsonl",), name="two")]
    refused(
        tmp_path, [{"name": "x.jsonl", "weight": 1}], sources, r"has 'x\.jsonl', which matches the sources one and two"
    )


def test_weights_in_two_places_are_refused(tmp_path: Path) -> None:
    refused(
        tmp_path,
        [{"name": "s0", "weight": 1}],
        sources_of(1.0),
        r"sources and mixture\.data_config=.*data_config\.json",
    )


def test_a_data_config_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"data_config none\.json cannot be read: No such file"):
        max_lines(MixtureSettings(data_config="none.json"), DataSource(("x.jsonl",)))
