"""GradCache against one graph over all texts: the same gradient, whatever the chunks, parts, heads and ranks.

N: texts; P: width of a pooled vector; D: width of a vector.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rank_processes import in_threads
from small_runs import BERT, bert, checkpoint
from torch import Tensor

from gnomon.packed import pack
from gnomon.spec import PoolingSpec
from gnomon.train.data.collate import BatchRows, CollatedBatch
from gnomon.train.distributed import Ranks
from gnomon.train.model import Model
from gnomon.train.objectives import gradcache
from gnomon.train.objectives.gradcache import (
    Chunk,
    encode_chunks,
    encode_in_one_graph,
    forward_backward,
    skipped_prompt_tokens,
    split_into_chunks,
)

Grads = dict[str, Tensor]
SHAPES = {
    "mean": bert(),
    "first token": bert(pooling=PoolingSpec(("cls",))),
    "two modes without the prompt": bert(pooling=PoolingSpec(("max", "mean"), include_prompt=False), normalizes=False),
    "heads": bert(wide=(12, 5)),
}


def model_of(shape: str = "mean", dropout: float = 0.0) -> Model:
    return Model(checkpoint(SHAPES[shape]), dropout=dropout, attention_dropout=dropout).double().train()


def ids_of(lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(lengths)
    return [rng.integers(0, BERT.vocab_size, length) for length in lengths]


def a_loss(vectors: Mapping[int, tuple[Tensor, ...]], parts: int, start: int = 0, rows: int | None = None) -> Any:
    """A loss in which all vectors meet, in so many parts; of some of the queries. Each part, when it is asked for.

    Its gradient vanishes nowhere: by the first score it is between -2 and -1, and the score is no plain cosine, whose
    own gradient is zero where two texts are equal.
    """
    for dim, (queries_QD, *documents) in vectors.items():
        docs_CD = torch.cat(documents)
        weights_D = torch.linspace(1, 2, queries_QD.shape[1], dtype=queries_QD.dtype)
        places = range(start, start + (len(queries_QD) if rows is None else rows))
        for part in range(parts):
            scores = (queries_QD[[*places[part::parts]]] * weights_D) @ docs_CD.T
            yield (scores.logsumexp(1) - 2 * scores[:, 0]).sum() / dim


def grads(model: Model) -> Grads:
    return {name: torch.zeros(1) if each.grad is None else each.grad for name, each in model.named_parameters()}


def one_graph(model: Model, ids: list[np.ndarray], prompts: list[int], sides: Any, dims: tuple[int, ...]) -> Grads:
    """The reference implementation: each text alone, no chunk, no cache, and torch's own differentiation."""
    pooled_NP = torch.cat([model(pack([ids_T], skip_B=[prompt])) for ids_T, prompt in zip(ids, prompts, strict=True)])
    widths = model.apply_modules(pooled_NP, dims)
    torch.stack([*a_loss({dim: each.split(sides) for dim, each in widths.items()}, 1)]).sum().backward()
    return grads(model)


def assert_near(found: Grads, wanted: Grads) -> None:
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(
            found[name], grad, rtol=1e-9, atol=1e-10, msg=lambda message, name=name: f"{name}: {message}"
        )
    # of 3,000 batches, a third of them one pair, some of equal texts, the least was 4.6e-3
    assert max(grad.abs().max().item() for grad in wanted.values()) > 1e-6, "nothing was compared"


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    rows, negatives = draw(st.integers(1, 5)), draw(st.integers(0, 2))
    lengths = draw(st.lists(st.integers(1, 14), min_size=rows * (2 + negatives), max_size=rows * (2 + negatives)))
    query, document = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    return {
        "ids": ids_of(lengths),
        "prompts": [query] * rows + [document] * (len(lengths) - rows),
        "sides": (rows, rows, rows * negatives),
    }


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    batch=batches(),
    shape=st.sampled_from([*SHAPES]),
    chunk_tokens=st.integers(1, 80),
    parts=st.integers(1, 6),
    cached=st.sampled_from([True, False, None]),
)
@example(
    batch={"ids": [np.array([56]), np.array([3, 45, 31, 18, 44, 39, 39, 39, 38, 26, 19])]}
    | {"prompts": [0, 0], "sides": (1, 1, 0)},
    shape="mean",
    chunk_tokens=80,
    parts=1,
    cached=True,
)
@example(
    batch={"ids": [np.array([5])] * 2, "prompts": [0, 0], "sides": (1, 1, 0)},
    shape="mean",
    chunk_tokens=80,
    parts=1,
    cached=True,
)
def test_the_gradient_is_that_of_one_graph(
    batch: dict[str, Any], shape: str, chunk_tokens: int, parts: int, cached: bool | None
) -> None:
    dims = (12, 5) if shape == "heads" else ()
    ids, prompts, sides = batch["ids"], batch["prompts"], batch["sides"]
    wanted = one_graph(model_of(shape), ids, prompts, sides, dims)
    model = model_of(shape)
    chunks = split_into_chunks(ids, prompts, chunk_tokens=chunk_tokens, seed=(1,))
    losses: list[float] = []

    def loss_parts(vectors: Mapping[int, tuple[Tensor, ...]]) -> Iterator[Tensor]:
        for part in a_loss(vectors, parts):
            losses.append(part.item())
            yield part

    loss = forward_backward(model, chunks, sides, loss_parts, ranks=Ranks(), dims=dims, cached=cached)
    assert_near(grads(model), wanted)
    assert loss == pytest.approx(sum(losses), abs=1e-12 * sum(map(abs, losses)))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(batch=batches(), shape=st.sampled_from([*SHAPES]), chunk_tokens=st.integers(1, 60), parts=st.integers(1, 3))
def test_dropout_is_replayed(batch: dict[str, Any], shape: str, chunk_tokens: int, parts: int) -> None:
    """Against the same chunks and seeds with their graphs kept; random numbers drawn by the loss change nothing."""
    dims = (12, 5) if shape == "heads" else ()
    chunks = split_into_chunks(batch["ids"], batch["prompts"], chunk_tokens=chunk_tokens, seed=(1,))
    whole = model_of(shape, dropout=0.3)
    widths = encode_in_one_graph(whole, chunks, dims)
    vectors = {dim: each.split(batch["sides"]) for dim, each in widths.items()}
    torch.stack([*a_loss(vectors, 1)]).sum().backward()

    def drawing(vectors: Mapping[int, tuple[Tensor, ...]]) -> Iterator[Tensor]:
        for part in a_loss(vectors, parts):
            torch.rand(5)
            yield part

    model = model_of(shape, dropout=0.3)
    forward_backward(model, chunks, batch["sides"], drawing, ranks=Ranks(), dims=dims, cached=True)
    assert_near(grads(model), grads(whole))


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 14), min_size=1, max_size=9), chunk_tokens=st.integers(1, 60))
def test_vectors_are_in_the_order_of_the_texts(lengths: list[int], chunk_tokens: int) -> None:
    model, ids = model_of("heads").eval(), ids_of(lengths)
    chunks = split_into_chunks(ids, [0] * len(ids), chunk_tokens=chunk_tokens, seed=(1,))
    alone_NP = torch.cat([model(pack([ids_T])) for ids_T in ids])
    for dims in ((), (5, 12)):
        found, wanted = encode_in_one_graph(model, chunks, dims), model.apply_modules(alone_NP, dims)
        assert [*found] == [*wanted]
        for dim in wanted:
            torch.testing.assert_close(found[dim], wanted[dim], rtol=1e-10, atol=1e-12)
    placed = {
        text: vector_D
        for texts, some in encode_chunks(model, chunks)
        for text, vector_D in zip(texts, some, strict=True)
    }
    (whole,) = model.apply_modules(alone_NP).values()
    assert sorted(placed) == [*range(len(ids))]
    torch.testing.assert_close(torch.stack([placed[text] for text in range(len(ids))]), whole, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["mean", "heads"])
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("negatives", [0, 2])
def test_ranks_add_up_to_one_graph(world: int, shape: str, negatives: int) -> None:
    """Each has its rows and the vectors of all; the sum over the ranks is the gradient of the sum of their losses."""
    dims = (12, 5) if shape == "heads" else ()
    rows = 2 * world
    ids = ids_of([1 + text % 7 for text in range(rows * (2 + negatives))])
    wanted = one_graph(model_of(shape), ids, [0] * len(ids), (rows, rows, rows * negatives), dims)

    def rank(ranks: Ranks) -> tuple[Grads, float]:
        own = slice(2 * ranks.rank, 2 * ranks.rank + 2)
        theirs = slice(2 * rows + own.start * negatives, 2 * rows + own.stop * negatives)
        texts = [*ids[own], *ids[rows + own.start : rows + own.stop], *ids[theirs]]
        chunks = split_into_chunks(texts, [0] * len(texts), chunk_tokens=9, seed=(1, ranks.rank))
        model = model_of(shape)

        def parts(vectors: Mapping[int, tuple[Tensor, ...]]) -> Iterator[Tensor]:
            return a_loss(vectors, 2, own.start, 2)

        loss = forward_backward(model, chunks, (2, 2, 2 * negatives), parts, ranks=ranks, dims=dims)
        found = grads(model)
        ranks.all_reduce(found.values())
        return found, loss

    for found, _ in in_threads(rank, world):
        assert_near(found, wanted)


# ---- what is kept


class Graphs:
    """Which forwards of a model have tensors that autograd keeps for them, at most, at a time."""

    def __init__(self, model: Model) -> None:
        self.forwards, self.now, self.most, self.live = 0, None, 0, dict[int, int]()
        model.register_forward_pre_hook(self._enter)
        model.register_forward_hook(self._leave)

    def kept(self, tensor: Tensor) -> Any:
        """For `saved_tensors_hooks`: a tensor in a box that says when it is thrown away."""
        if self.now is None:
            return (tensor,)
        box, forward = Box(tensor), self.now
        self.live[forward] = self.live.get(forward, 0) + 1
        self.most = max(self.most, len(self.live))
        weakref.finalize(box, self._gone, forward)
        return box

    def _gone(self, forward: int) -> None:
        self.live[forward] -= 1
        if not self.live[forward]:
            del self.live[forward]

    def _enter(self, *_: Any) -> None:
        self.forwards += 1
        self.now = self.forwards

    def _leave(self, *_: Any) -> None:
        self.now = None


class Box:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __getitem__(self, _: int) -> Tensor:
        return self.tensor


@pytest.mark.parametrize(
    ("chunk_tokens", "cached", "forwards", "alive"),
    [(20, None, 16, 1), (20, True, 16, 1), (20, False, 8, 8), (1000, None, 1, 1), (1000, True, 2, 1)],
)
def test_one_chunk_at_a_time_has_its_activations(
    chunk_tokens: int, cached: bool | None, forwards: int, alive: int
) -> None:
    model, ids = model_of(dropout=0.1), ids_of([5] * 32)
    chunks = split_into_chunks(ids, [0] * 32, chunk_tokens=chunk_tokens, seed=(1,))
    assert len(chunks) == (8 if chunk_tokens == 20 else 1)
    graphs = Graphs(model)
    with torch.autograd.graph.saved_tensors_hooks(graphs.kept, lambda box: box[0]):
        forward_backward(model, chunks, (16, 16, 0), lambda vectors: a_loss(vectors, 3), ranks=Ranks(), cached=cached)
    assert (graphs.forwards, graphs.most) == (forwards, alive)
    assert not graphs.live


def test_a_part_is_gone_before_the_next_is_made() -> None:
    before: list[weakref.ref[Tensor]] = []

    def parts(vectors: Mapping[int, tuple[Tensor, ...]]) -> Iterator[Tensor]:
        for start in range(4):
            assert all(scores() is None for scores in before)
            ((queries_QD, docs_QD, _),) = vectors.values()
            scores = queries_QD[start : start + 1] @ docs_QD.T
            before.append(weakref.ref(scores))
            part = scores.exp().sum()
            del scores
            yield part
            del part

    model = model_of()
    chunks = split_into_chunks(ids_of([4] * 8), [0] * 8, chunk_tokens=8, seed=(1,))
    forward_backward(model, chunks, (4, 4, 0), parts, ranks=Ranks())
    assert len(before) == 4


@pytest.mark.parametrize("cached", [True, False])
def test_what_is_frozen_gets_no_gradient_and_costs_none(cached: bool) -> None:
    ids, sides = ids_of([3, 5, 2, 6]), (2, 2, 0)
    wanted = one_graph(model_of("heads"), ids, [0] * 4, sides, (12, 5))
    model = model_of("heads")
    model.trunk.requires_grad_(False)
    chunks = split_into_chunks(ids, [0] * 4, chunk_tokens=7, seed=(1,))
    forward_backward(
        model, chunks, sides, lambda vectors: a_loss(vectors, 2), ranks=Ranks(), dims=(12, 5), cached=cached
    )
    for name, each in model.named_parameters():
        if name.startswith("trunk"):
            assert each.grad is None
        else:
            torch.testing.assert_close(each.grad, wanted[name], rtol=1e-9, atol=1e-12)


def test_gradients_are_added_to_what_is_there() -> None:
    model, ids = model_of(), ids_of([3, 5, 2, 6])
    chunks = split_into_chunks(ids, [0] * 4, chunk_tokens=7, seed=(1,))
    parts: Callable[..., Any] = lambda vectors: a_loss(vectors, 1)  # noqa: E731
    forward_backward(model, chunks, (2, 2, 0), parts, ranks=Ranks())
    once = {name: grad.clone() for name, grad in grads(model).items()}
    forward_backward(model, chunks, (2, 2, 0), parts, ranks=Ranks())
    assert_near(grads(model), {name: 2 * grad for name, grad in once.items()})


# ---- chunks


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 2)), min_size=1, max_size=30),
    chunk_tokens=st.integers(1, 100),
)
def test_chunks_hold_every_text_once_within_the_budget(texts: list[tuple[int, int]], chunk_tokens: int) -> None:
    ids, prompts = ids_of([length for length, _ in texts]), [prompt for _, prompt in texts]
    chunks = split_into_chunks(ids, prompts, chunk_tokens=chunk_tokens, seed=(3, 1))
    assert sorted(chain.from_iterable(chunk.text_numbers for chunk in chunks)) == [*range(len(texts))]
    assert len({chunk.seed for chunk in chunks}) == len(chunks)
    for chunk in chunks:
        assert len(chunk.packed.ids_T) <= chunk_tokens or len(chunk.text_numbers) == 1
        assert [prompts[text] for text in chunk.text_numbers] == chunk.packed.skip_B.tolist()  # pyright: ignore
        assert len({*chunk.packed.skip_B.tolist()}) == 1  # pyright: ignore
        assert np.array_equal(chunk.packed.ids_T, np.concatenate([ids[text] for text in chunk.text_numbers]))
        assert 0 <= chunk.seed < 1 << 63
    again = split_into_chunks(ids, prompts, chunk_tokens=chunk_tokens, seed=(3, 1))
    assert [(chunk.text_numbers, chunk.seed) for chunk in again] == [
        (chunk.text_numbers, chunk.seed) for chunk in chunks
    ]


def test_every_batch_and_rank_draws_its_own_random_numbers() -> None:
    ids = ids_of([3] * 8)

    def seeds(*seed: int) -> list[int]:
        return [chunk.seed for chunk in split_into_chunks(ids, [0] * 8, chunk_tokens=3, seed=seed)]

    found = [seeds(*seed) for seed in ((1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0), (1, 10, 0), (11, 0, 0))]
    assert len({*chain.from_iterable(found)}) == 6 * 8
    torch.manual_seed(found[0][0])
    first = torch.rand(1000, dtype=torch.float64)
    torch.manual_seed(found[0][1])
    second = torch.rand(1000, dtype=torch.float64)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15


def test_chunks_of_one_text_each_do_not_share_their_dropout() -> None:
    model = model_of(dropout=0.5)
    same = [ids_of([6])[0]] * 3
    first, second, third = (
        model(chunk.packed) for chunk in _seeded(split_into_chunks(same, [0] * 3, chunk_tokens=1, seed=(1,)))
    )
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def _seeded(chunks: list[Chunk]) -> Iterator[Chunk]:
    for chunk in chunks:
        torch.manual_seed(chunk.seed)
        yield chunk


def collated(queries: int, positives: int, prompt_tokens: tuple[int, int]) -> CollatedBatch:
    none = np.zeros(0, np.int64)
    rows = BatchRows(0, 0, "s", none, ["q"] * queries, ["p"] * positives, [], 0, none, none, none, none, None, none, 0)
    ids = ids_of([2] * (queries + positives))
    return CollatedBatch(rows, ids, prompt_tokens, 0, (none, none, none), np.zeros(0, np.bool_))


@pytest.mark.parametrize(("included", "wanted"), [(True, [0] * 5), (False, [4, 4, 2, 2, 2])])
def test_the_prompts_tokens_count_where_pooling_leaves_them_out(included: bool, wanted: list[int]) -> None:
    pooling = PoolingSpec(("mean",), include_prompt=included)
    assert skipped_prompt_tokens(collated(2, 3, (4, 2)), pooling) == wanted


def test_encoding_is_without_dropout_and_leaves_training_as_it_was() -> None:
    model = model_of(dropout=0.5)
    chunks = split_into_chunks(ids_of([3, 4, 5]), [0] * 3, chunk_tokens=4, seed=(1,))
    first, second = ([vectors for _, vectors in encode_chunks(model, chunks)] for _ in range(2))
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(first, second, strict=True))
    assert model.training
    left = encode_chunks(model, chunks)
    next(left)
    left.close()
    assert model.training
    model.eval()
    assert [*encode_chunks(model, chunks)]
    assert not model.training


def test_a_seed_spreads_over_63_bits() -> None:
    seeds = [gradcache._seed(1, step, 0) for step in range(2000)]
    shares = np.array([[seed >> bit & 1 for bit in range(63)] for seed in seeds]).mean(0)
    assert (abs(shares - 0.5) < 0.07).all()
