"""Batches: a function of their number alone; each row once an epoch, no text twice, none of what is held out."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from fake_dataset import fake_dataset, numbered
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gnomon.errors import InputError
from gnomon.train.data import permutation
from gnomon.train.data import sampler as sampling
from gnomon.train.data.sampler import BATCHES_PER_BLOCK, BATCHES_PER_WINDOW, Sampler, select_negatives, shard

SEEDS = st.integers(0, 2**31)

calm = settings(deadline=None, max_examples=50)


@st.composite
def crowded(draw: st.DrawFn, negatives: int | None = None) -> Any:
    """A source in which many rows have texts in common, across columns too."""
    rows, pool = draw(st.integers(8, 80)), draw(st.integers(8, 60))
    rng = np.random.default_rng(draw(SEEDS))
    texts = [[f"t{number}" for number in side] for side in rng.integers(0, pool, (2, rows))]
    if negatives is None and draw(st.booleans()):
        return fake_dataset(*texts)
    counts = [negatives or 2] * rows if draw(st.booleans()) else rng.integers(negatives or 2, 6, rows).tolist()
    return fake_dataset(*texts, [[f"t{number}" for number in rng.integers(0, 4 * pool, count)] for count in counts])


def sampler_of(indexes: list[Any], weights: Any = None, **options: Any) -> Sampler:
    options = {"batch_size": 4, "seed": 1} | options
    if "num_negatives" not in options:
        options["num_negatives"] = [index.negatives or None for index in indexes]
    return Sampler(indexes, weights or [1.0] * len(indexes), **options)


def batch_size_of(draw: st.DataObject, *indexes: Any) -> int:
    most = min(min(index.rows, index.distinct["query"], index.distinct["positive"]) for index in indexes)
    return draw.draw(st.integers(1, most), "batch size")


def facts(draw: Any) -> tuple[Any, ...]:
    return draw.batch_number, draw.source, draw.rows_B.tolist(), draw.replaced


# ---- a function of the batch's number


@calm
@given(data=st.data(), seed=SEEDS, buckets=st.booleans(), keep=st.booleans())
def test_a_batch_is_the_same_whenever_it_is_asked_for(
    data: st.DataObject, seed: int, buckets: bool, keep: bool
) -> None:
    indexes = [data.draw(crowded()) for _ in range(data.draw(st.integers(1, 3)))]
    options = {
        "batch_size": batch_size_of(data, *indexes),
        "seed": seed,
        "group_by_length": buckets,
        "duplicates": "keep" if keep else "skip",
    }
    asked = data.draw(
        st.lists(
            st.sampled_from([0, 1, 5, 17, 40, BATCHES_PER_BLOCK - 1, BATCHES_PER_BLOCK, 3 * BATCHES_PER_BLOCK + 7]),
            min_size=1,
        )
    )
    one = sampler_of(indexes, **options)
    in_order = {number: facts(one.batch_at(number)) for number in sorted(asked)}
    for number in asked:
        assert facts(one.batch_at(number)) == in_order[number]
        assert facts(sampler_of(indexes, **options).batch_at(number)) == in_order[number]


def test_a_far_batch_costs_no_more_than_a_near_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(places: Any, n: int, key: Any) -> Any:
        asked.append(len(places))
        return permutation.permute(places, n, key)

    monkeypatch.setattr(sampling, "permute", counted)
    sampler_of([numbered(1000)], batch_size=32).batch_at(100_000)
    assert sum(asked) == 32


def test_seeds_and_sources_have_orders_of_their_own() -> None:
    equal_sources = [numbered(500), numbered(500)]
    drawn = {
        tuple(sampler_of([*equal_sources], weights, seed=seed, batch_size=50).batch_at(0).rows_B.tolist())
        for seed in (1, 2)
        for weights in ([1, 0], [0, 1])
    }
    assert len(drawn) == 4


# ---- epochs


@calm
@given(rows=st.integers(4, 60), data=st.data(), seed=SEEDS)
def test_an_epoch_has_every_row_once(rows: int, data: st.DataObject, seed: int) -> None:
    """Batches do not end where epochs do: the rows of all batches, end to end, are one epoch after the other."""
    size, epochs = data.draw(st.integers(1, rows)), 3
    sampler = sampler_of([numbered(rows)], batch_size=size, seed=seed, duplicates="keep")
    drawn = np.concatenate([sampler.batch_at(batch).rows_B for batch in range(-(-epochs * rows // size))])
    orders = [drawn[epoch * rows : (epoch + 1) * rows].tolist() for epoch in range(epochs)]
    assert all(sorted(one) == [*range(rows)] for one in orders)
    assert rows < 10 or len({*map(tuple, orders)}) == epochs


@calm
@given(data=st.data(), index=crowded(), seed=SEEDS, buckets=st.booleans(), world=st.integers(1, 2))
def test_a_window_has_the_rows_of_its_stream_but_for_those_that_are_counted(
    data: st.DataObject, index: Any, seed: int, buckets: bool, world: int
) -> None:
    """Rows move among the batches of a window; what is missing is replaced, or makes a batch shorter."""
    size = batch_size_of(data, index)
    options = {"batch_size": size, "seed": seed, "group_by_length": buckets}
    skips, keeps = (sampler_of([index], duplicates=how, **options) for how in ("skip", "keep"))
    batches = skips._streams[0].window(size)
    for window in range(3):
        span = range(window * batches, (window + 1) * batches)
        drawn, whole = ([one.batch_at(batch) for batch in span] for one in (skips, keeps))
        assert all(each.replaced == 0 and len(each.rows_B) == size for each in whole)
        stream = Counter(row for each in whole for row in each.rows_B.tolist())
        own = Counter(row for each in drawn for row in each.rows_B[: len(each.rows_B) - each.replaced].tolist())
        assert own <= stream
        assert (stream - own).total() == sum(size - len(each.rows_B) + each.replaced for each in drawn)
        assert all(len(each.rows_B) <= size for each in drawn)


# ---- no text twice


def texts_of(index: Any, row: int, entries: list[int]) -> set[str]:
    at = np.array([row])
    return {
        *index.texts("query", at),
        *index.texts("positive", at),
        *(index.texts("negative", np.array(entries)) if entries else []),
    }


@calm
@given(data=st.data(), index=crowded(), seed=SEEDS, batch=st.integers(0, 50), masked=st.booleans())
def test_no_query_or_positive_stands_in_two_rows(
    data: st.DataObject, index: Any, seed: int, batch: int, masked: bool
) -> None:
    """Nor, where the loss masks nothing, as a negative of another row. A negative may well be that of several rows."""
    drawn = sampler_of(
        [index], batch_size=batch_size_of(data, index), seed=seed, loss_masks_duplicates=masked
    ).batch_at(batch)
    rows = drawn.rows_B.tolist()
    pairs = [texts_of(index, row, []) for row in rows]
    assert sum(map(len, pairs)) == len(set().union(*pairs))
    assert len(rows) >= 1
    if not masked:
        negatives_BK = select_negatives(index, drawn.rows_B, index.negatives, seed=seed, batch=batch).tolist()
        negatives = [texts_of(index, row, own) - pair for row, own, pair in zip(rows, negatives_BK, pairs, strict=True)]
        for place, own in enumerate(negatives):
            assert not own & set().union(*pairs[:place], *pairs[place + 1 :])


@calm
@given(data=st.data(), index=crowded(), seed=SEEDS, batch=st.integers(0, 50))
def test_rows_are_taken_as_a_slow_reference_takes_them(data: st.DataObject, index: Any, seed: int, batch: int) -> None:
    size = batch_size_of(data, index)
    sampler = sampler_of([index], batch_size=size, seed=seed)
    stream, spares = sampler._streams[0], max(64, size)
    window = min(BATCHES_PER_WINDOW, max(1, index.rows // size))
    first = batch // window * window

    def fits(row: int, others: list[int]) -> bool:
        return not any(texts_of(index, row, []) & texts_of(index, other, []) for other in others)

    batches: list[list[int]] = [[] for _ in range(window)]
    moving: list[tuple[int, int]] = []
    for place in range(window):
        for row in stream.rows_at((first + place) * size, size, "main").tolist():
            if fits(row, batches[place]):
                batches[place].append(row)
            else:
                moving.append((place, row))
    for place, row in moving:
        for further in range(1, window):
            other = batches[(place + further) % window]
            if len(other) < size and fits(row, other):
                other.append(row)
                break
    mine = batches[batch - first]
    before = len(mine)
    for row in stream.rows_at(batch * spares, spares, "spare").tolist():
        if len(mine) < size and fits(row, mine):
            mine.append(row)
    drawn = sampler.batch_at(batch)
    assert (drawn.rows_B.tolist(), drawn.replaced) == (mine, len(mine) - before)


def test_a_row_that_repeats_itself_is_kept() -> None:
    index = fake_dataset(["a", "b", "c"], ["a", "b", "c"])
    drawn = sampler_of([index], batch_size=3).batch_at(0)
    assert sorted(drawn.rows_B.tolist()) == [0, 1, 2]
    assert drawn.replaced == 0


def test_only_negatives_that_are_drawn_count_as_texts() -> None:
    """Without masks a row whose positive is a negative of another stands beside it where that is not drawn."""
    index = fake_dataset(["a", "b"], ["c", "d"], [["d", "e"], ["f", "g"]])
    sampler = sampler_of([index], batch_size=2, num_negatives=[1], loss_masks_duplicates=False)
    lengths = Counter(len(sampler.batch_at(batch).rows_B) for batch in range(200))
    assert 70 < lengths[1] < 130, "the one of two negatives, every second time"
    assert lengths[2] == 200 - lengths[1]
    for masked, length in ((False, 1), (True, 2)):
        everything = sampler_of([index], batch_size=2, num_negatives=[None], loss_masks_duplicates=masked)
        assert {len(everything.batch_at(batch).rows_B) for batch in range(20)} == {length}


def test_c6_rows_that_share_their_negatives_fill_their_batches_and_are_all_seen() -> None:
    """400 rows with four negatives each of 60 documents, and with positives of 200: each stands in two rows."""
    rng = np.random.default_rng(0)
    negatives = [[f"d{each}" for each in rng.choice(60, 4, replace=False)] for _ in range(400)]
    index = fake_dataset([f"q{row}" for row in range(400)], [f"d{row % 200}" for row in range(400)], negatives)
    sampler = sampler_of([index], batch_size=32)
    drawn = [sampler.batch_at(batch) for batch in range(25)]  # two epochs
    assert [len(each.rows_B) for each in drawn] == [32] * 25
    assert sum(each.replaced for each in drawn) <= 2
    assert len({row for each in drawn[:13] for row in each.rows_B.tolist()}) >= 398
    assert sampler.mean_batch_rows(0) == 32
    among = fake_dataset([f"q{row}" for row in range(400)], [f"d{row % 60}" for row in range(400)], negatives)
    assert sampler_of([among], batch_size=32).mean_batch_rows(0) == 32
    assert 5 < sampler_of([among], batch_size=32, loss_masks_duplicates=False).mean_batch_rows(0) < 20


def test_c6_what_fills_a_batch_is_known_before_it_is_drawn() -> None:
    """Six positives: no batch holds more rows."""
    index = fake_dataset([f"q{row}" for row in range(96)], [f"p{min(row, 7)}" for row in range(96)])
    sampler = sampler_of([index], batch_size=8, duplicates="skip")
    drawn = [sampler.batch_at(batch) for batch in range(12)]
    rows = sum(len(each.rows_B) for each in drawn)
    assert 12 * 4 < rows < 96
    assert sampler.mean_batch_rows(0) == rows / 12
    shared = sampler_of([index], batch_size=8, world_size=4)
    assert shared.mean_batch_rows(0) == sum(len(each.rows_B) // 4 * 4 for each in drawn) / 12
    assert sampler_of([index], batch_size=8, duplicates="keep").mean_batch_rows(0) == 8


def test_c14_texts_that_an_uncased_model_reads_alike_do_not_stand_together() -> None:
    names = ["Paris", "PARIS", " pa\u0301ris\n", "Paris\u200b", "Rome", "Oslo", "Bern", "Wien"]
    index = fake_dataset(names, [f"p{row}" for row in range(8)])
    sampler = sampler_of([index], batch_size=4)
    for batch in range(40):
        rows = sampler.batch_at(batch).rows_B.tolist()
        assert len(rows) == 4 and sum(row < 4 for row in rows) <= 1


def test_a_batch_is_shorter_where_the_spare_rows_do_not_suffice() -> None:
    rows = 5000
    index = fake_dataset([f"q{row}" for row in range(rows)], ["same"] * (rows - 7) + [f"p{row}" for row in range(7)])
    drawn = [sampler_of([index], batch_size=8).batch_at(batch) for batch in range(20)]
    assert all(1 <= len(each.rows_B) < 8 for each in drawn)


def test_spare_rows_carry_nothing_over() -> None:
    """A batch's stand-ins do not depend on how many the batch in front of it took."""
    index = fake_dataset([f"q{row % 25}" for row in range(100)], [f"p{row}" for row in range(100)])
    skipping = sampler_of([index], batch_size=20)
    drawn = [skipping.batch_at(batch) for batch in range(5)]
    assert sum(each.replaced for each in drawn) > 0
    assert [len(each.rows_B) for each in drawn] == [20] * 5
    alone = sampler_of([index], batch_size=20).batch_at(4)
    assert facts(alone) == facts(drawn[4])


# ---- held out


@calm
@given(rows=st.integers(8, 60), seed=SEEDS, data=st.data(), buckets=st.booleans())
def test_held_out_rows_are_never_drawn(rows: int, seed: int, data: st.DataObject, buckets: bool) -> None:
    twice = fake_dataset([f"q{row // 2}" for row in range(4 * rows)], [f"p{row}" for row in range(4 * rows)])
    index, held_out = data.draw(st.sampled_from([numbered(rows), twice])), 5
    keep = data.draw(st.sampled_from(["keep", "skip"]))
    sampler = sampler_of(
        [index], batch_size=2, seed=seed, num_held_out=held_out, group_by_length=buckets, duplicates=keep
    )
    held = sampler.held_out_rows(0).tolist()
    assert len({*held}) == len(held) == held_out
    drawn = {row for batch in range(index.rows) for row in sampler.batch_at(batch).rows_B.tolist()}
    hashes = index.hashes("query")
    asked = {*hashes[held].tolist()}
    free = {row for row in range(index.rows) if hashes[row] not in asked}
    assert drawn <= free
    if keep == "keep" or index is not twice:  # else a row may be replaced by another, in each of the two epochs
        assert drawn == free
    assert len(free) == sampler.rows_per_epoch(0) == index.rows - held_out - sampler.count_excluded(0)


@calm
@given(data=st.data(), seed=SEEDS, keep=st.booleans(), buckets=st.booleans(), masked=st.booleans())
def test_c3_no_held_out_query_of_any_source_is_trained_on(
    data: st.DataObject, seed: int, keep: bool, buckets: bool, masked: bool
) -> None:
    """In no column of no row of any source that is drawn, whatever its case; and each other row of an epoch is."""
    indexes = [data.draw(crowded()) for _ in range(3)]
    cased = [
        fake_dataset(
            [f"T{text[1:]} " for text in each.texts("query", np.arange(each.rows))],
            each.texts("positive", np.arange(each.rows)),
        )
        for each in indexes[:1]
    ]
    indexes = [*cased, *indexes]
    options: dict[str, Any] = {
        "batch_size": 1,
        "seed": seed,
        "num_held_out": 3,
        "duplicates": "keep" if keep else "skip",
        "loss_masks_duplicates": masked,
        "group_by_length": buckets,
    }
    try:
        sampler = sampler_of(indexes, [1.0, 1.0, 1.0, 0.0], **options)
    except InputError as error:
        assert "validation.rows" in str(error)
        return
    held = {
        text.strip().lower()
        for source in range(3)
        for text in indexes[source].texts("query", sampler.held_out_rows(source))
    }
    for source, index in enumerate(indexes[:3]):
        bounds = index.negative_bounds
        free = {
            row
            for row in range(index.rows)
            if not held
            & {
                text.strip().lower()
                for text in texts_of(index, row, [] if bounds is None else [*range(bounds[row], bounds[row + 1])])
            }
        }
        turns = 2 * index.rows  # an epoch may end within a window, whose batches come in an order of their own
        drawn = {row for turn in range(turns) for row in sampler._draw(turn, source, turn).rows_B.tolist()}
        assert drawn == free - {*sampler.held_out_rows(source).tolist()}
        assert sampler.rows_per_epoch(source) == len(drawn)


def test_c11_a_source_whose_queries_are_all_held_out_names_validation_rows() -> None:
    index = fake_dataset([f"q{row % 10}" for row in range(200)], [f"p{row}" for row in range(200)])
    with pytest.raises(InputError, match=r"200 rows: 40 held out \(validation.rows\), 160 more .* 0 left"):
        sampler_of([index], batch_size=8, num_held_out=40)
    few = fake_dataset([f"q{row % 10}" for row in range(200)], [f"p{row}" for row in range(200)])
    with pytest.raises(
        InputError, match=r"4 held out .* 7[0-9] more .* 6 different texts in the column query.* validation.rows"
    ):
        sampler_of([few], batch_size=8, num_held_out=4)


def test_nothing_is_held_out_unless_asked() -> None:
    assert sampler_of([numbered(9)]).held_out_rows(0).tolist() == []


# ---- the mix


@calm
@given(weights=st.lists(st.integers(0, 20), min_size=1, max_size=6), seed=SEEDS)
def test_the_realised_mix_is_near_the_asked_one(weights: list[int], seed: int) -> None:
    assume(any(weights))
    batches, shares = 20_000, np.array(weights) / sum(weights)
    found = sampler_of([numbered(4)] * len(weights), weights, seed=seed).count_batches_per_source(batches)
    assert found.sum() == batches
    assert (found[shares == 0] == 0).all()
    assert (np.abs(found - batches * shares) <= 6 * np.sqrt(batches * shares * (1 - shares))).all()


@calm
@given(
    batches=st.sampled_from(
        [0, 1, 100, BATCHES_PER_BLOCK - 1, BATCHES_PER_BLOCK, BATCHES_PER_BLOCK + 1, 2 * BATCHES_PER_BLOCK + 10]
    ),
    seed=SEEDS,
)
def test_realised_counts_the_sources_of_batches(batches: int, seed: int) -> None:
    sampler = sampler_of([numbered(4)] * 3, [1, 2, 3], seed=seed)
    step = max(1, batches // 50)
    counted = Counter(sampler.source_at(batch) for batch in range(0, batches, step))
    assert set(counted) <= {0, 1, 2}
    exact = sampler.count_batches_per_source(batches)
    assert exact.sum() == batches
    if step == 1:
        assert exact.tolist() == [counted[source] for source in range(3)]
    assert (
        sampler_of([numbered(4)] * 3, [1, 2, 3], seed=seed).count_batches_per_source(batches).tolist() == exact.tolist()
    )


def test_each_source_has_its_own_turns() -> None:
    """The batches of a source, and no others, go on with its stream."""
    sampler = sampler_of([numbered(40), numbered(60)], [0.3, 0.7], batch_size=5)
    rows: list[list[int]] = [[], []]
    for batch in range(60):
        drawn = sampler.batch_at(batch)
        assert drawn.source == sampler.source_at(batch)
        rows[drawn.source] += drawn.rows_B.tolist()
    assert sorted(rows[1][:30] + rows[1][30:60]) == [*range(60)]
    assert all(max(Counter(each).values()) - min(Counter(each).values()) <= 1 for each in rows if len(each) >= 60)


def test_a_source_of_weight_0_may_be_too_small() -> None:
    sampler = sampler_of([numbered(1), numbered(9)], [0, 1])
    assert {sampler.source_at(batch) for batch in range(1000)} == {1}


# ---- length buckets


@calm
@given(rows=st.integers(64, 300), seed=SEEDS, window=st.integers(0, 4))
def test_buckets_are_what_the_stream_has_and_sorted_by_length(rows: int, seed: int, window: int) -> None:
    rng = np.random.default_rng(seed)
    index = fake_dataset(*([letter * size for size in rng.integers(1, 40, rows)] for letter in "qé"))
    sizes = index.sizes("query") + index.sizes("positive")
    drawn = {
        buckets: [
            sampler_of([index], seed=seed, duplicates="keep", group_by_length=buckets).batch_at(batch).rows_B
            for batch in range(window * BATCHES_PER_WINDOW, (window + 1) * BATCHES_PER_WINDOW)
        ]
        for buckets in (False, True)
    }
    assert sorted(np.concatenate(drawn[True]).tolist()) == sorted(np.concatenate(drawn[False]).tolist())
    ranges = sorted((sizes[rows_B].min(), sizes[rows_B].max()) for rows_B in drawn[True])
    assert all(one[1] <= other[0] for one, other in pairwise(ranges))


def test_buckets_come_in_no_order_of_length() -> None:
    index = fake_dataset(["q" * row for row in range(1, 65)], ["p"] * 64)
    sampler = sampler_of([index], duplicates="keep", group_by_length=True)
    means = [index.sizes("query")[sampler.batch_at(batch).rows_B].mean() for batch in range(2 * BATCHES_PER_WINDOW)]
    assert means[:BATCHES_PER_WINDOW] != sorted(means[:BATCHES_PER_WINDOW])
    assert np.argsort(means[:BATCHES_PER_WINDOW]).tolist() != np.argsort(means[BATCHES_PER_WINDOW:]).tolist()


def test_a_bucket_is_in_no_order_of_length_within() -> None:
    """So that the share of every rank is alike."""
    index = fake_dataset(["q" * row for row in range(1, 1025)], ["p"] * 1024)
    rows_B = sampler_of([index], batch_size=64, duplicates="keep", group_by_length=True).batch_at(0).rows_B
    assert rows_B.tolist() != sorted(rows_B.tolist())


# ---- ranks


@calm
@given(rows=st.integers(0, 100), world=st.integers(1, 8))
def test_the_shares_of_the_ranks_are_the_batch(rows: int, world: int) -> None:
    rows_B = np.arange(rows) * 3
    shares = [shard(rows_B, rank, world).tolist() for rank in range(world)]
    assert {len(each) for each in shares} == {rows // world}
    assert [row for each in shares for row in each] == rows_B[: rows // world * world].tolist()


# ---- negatives


@calm
@given(counts=st.lists(st.integers(3, 7), min_size=1, max_size=12), number=st.integers(0, 3), seed=SEEDS)
def test_negatives_are_drawn_of_each_row_and_stay_in_order(counts: list[int], number: int, seed: int) -> None:
    index = fake_dataset(["q"] * len(counts), ["p"] * len(counts), [["n"] * count for count in counts])
    rows_B = np.random.default_rng(seed).permutation(len(counts))
    drawn = select_negatives(index, rows_B, number, seed=seed, batch=3)
    assert drawn.shape == (len(counts), number)
    for row, entries in zip(rows_B.tolist(), drawn.tolist(), strict=True):
        assert entries == sorted({*entries})
        assert all(index.negative_bounds[row] <= entry < index.negative_bounds[row + 1] for entry in entries)
        assert select_negatives(index, np.array([row]), number, seed=seed, batch=3).tolist() == [entries]


def test_negatives_are_drawn_evenly_and_anew_for_each_batch() -> None:
    index = fake_dataset(["q"] * 2, ["p"] * 2, [["n"] * 5, ["n"] * 7])
    batches = 2000
    drawn = np.concatenate(
        [select_negatives(index, np.arange(2), 2, seed=1, batch=batch).reshape(-1) for batch in range(batches)]
    )
    expected = np.repeat([batches * 2 / 5, batches * 2 / 7], [5, 7])
    assert (np.abs(np.bincount(drawn) - expected) < 5 * np.sqrt(expected)).all()


def test_all_negatives_where_no_number_is_given() -> None:
    index = fake_dataset(["q"] * 3, ["p"] * 3, [["n"] * 2] * 3)
    assert select_negatives(index, np.array([2, 0]), None, seed=1, batch=0).tolist() == [[4, 5], [0, 1]]
    assert select_negatives(numbered(3), np.array([2, 0]), None, seed=1, batch=0).shape == (2, 0)


# ---- what cannot be sampled


def test_a_source_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(InputError, match=r"'few' has 3 rows.* 4\..*leave it out.*batch_size"):
        sampler_of([numbered(9), numbered(3, "few")])
    with pytest.raises(InputError, match=r"'few' has 3 rows.* 4\. Give it more rows or lower batch_size"):
        sampler_of([numbered(3, "few")])
    with pytest.raises(InputError, match=r"9 rows: 6 held out \(validation.rows\), 3 left.* 4\."):
        sampler_of([numbered(9)], num_held_out=6)
    assert len(sampler_of([numbered(9)], num_held_out=5).batch_at(3).rows_B) <= 4


@pytest.mark.parametrize("column", ["query", "positive"])
def test_a_source_with_too_few_different_texts_is_refused(column: str) -> None:
    many, few = [f"t{row}" for row in range(9)], ["a", "b", "c"] * 3
    index = fake_dataset(few, many) if column == "query" else fake_dataset(many, few)
    with pytest.raises(InputError, match=f"3 different texts in the column {column}.* 4,.*duplicates"):
        sampler_of([index])
    assert len(sampler_of([index], duplicates="keep").batch_at(0).rows_B) == 4


def test_ranks_that_cannot_share_a_batch_are_refused() -> None:
    with pytest.raises(InputError, match=r"batch_size is 4.* 3 ranks.* multiple of 3"):
        sampler_of([numbered(9)], world_size=3)
    sampler_of([numbered(9)], world_size=2)
