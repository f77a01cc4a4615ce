"""The proof of the gradient: it holds for every loss, and it fails where a mechanism is broken."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from rank_processes import in_threads
from torch import Tensor

from gnomon.train import gradient_check as module
from gnomon.train.distributed import Ranks
from gnomon.train.gradient_check import TOLERANCE, GradientCheck, check_gradients
from gnomon.train.objectives import batch_loss, gradcache

pytestmark = pytest.mark.slow

ALONE = Ranks()
WAYS = {
    "GradCache, one chunk",
    "GradCache, chunks and parts",
    "no cache, chunks",
    "GradCache, dropout",
    "accumulated",
    "2 ranks",
}


def test_every_loss_passes_in_every_way() -> None:
    """On two real processes too."""
    found = [*check_gradients()]
    assert {row.method for row in found} == WAYS
    assert {row.matryoshka_mode for row in found} == {"-", "prefixes", "modules"}
    losses = {row.loss for row in found}
    assert {loss.partition(",")[0] for loss in losses} == {*batch_loss.LOSS_FUNCTIONS}, (
        "every loss that training offers"
    )
    without_heads = [loss for loss in losses if loss.startswith("cosine_distillation")]
    cases = len(losses) * 3 - len(without_heads)
    assert len(found) == len({(row.loss, row.matryoshka_mode, row.method) for row in found}) == cases * len(WAYS)
    assert TOLERANCE == 1e-6
    for row in found:
        assert row.passed, row
        assert 0 <= row.difference < 1e-12, f"float64 is far more exact than the limit: {row}"


def test_a_difference_that_is_no_number_has_not_passed() -> None:
    assert GradientCheck("l", "-", "w", TOLERANCE).passed
    for difference in (1.1e-6, float("nan"), float("inf")):
        assert not GradientCheck("l", "-", "w", difference).passed


def test_the_callers_random_numbers_are_left_alone(few: None) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    assert [*check_gradients(two_ranks=False)]
    assert torch.equal(torch.rand(2), wanted)


# ---- broken mechanisms


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cases in place of all, and threads in place of processes."""
    whole = {case.label: case for case in module._cases()}
    labels = [("info_nce, negatives, trained scale", "modules"), ("gist", "prefixes"), ("cosine_regression", "-")]
    cases = [whole[label] for label in labels]
    monkeypatch.setattr(module, "_cases", lambda: cases)

    def on_two_ranks() -> dict[int, Any]:
        return {
            place: in_threads(
                lambda ranks, case=case: module._step_gradients(case, module.SMALL, cached=True, ranks=ranks)
            )[0]
            for place, case in enumerate(cases)
        }

    monkeypatch.setattr(module, "_on_two_ranks", on_two_ranks)


def failed() -> set[str]:
    """Ways that fail for a loss at least."""
    return {row.method for row in check_gradients() if not row.passed}


def test_nothing_fails_where_nothing_is_broken(few: None) -> None:
    assert failed() == set()


def test_a_chunk_that_draws_anew_fails(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradcache, "_pool_chunk", lambda model, chunk: model(chunk.packed))
    assert failed() == {"GradCache, dropout"}


def test_a_part_that_is_left_out_fails(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = batch_loss.BatchLoss.compute_parts

    def all_but_the_last(self: Any, *args: Any, **named: Any) -> Iterator[Tensor]:
        parts = [*whole(self, *args, **named)]
        yield from parts[:-1] or parts

    monkeypatch.setattr(batch_loss.BatchLoss, "compute_parts", all_but_the_last)
    assert failed() == {"GradCache, chunks and parts"}


def test_parts_that_are_not_weighed_fail(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = batch_loss.BatchLoss.compute_parts

    def unweighed(self: Any, *args: Any, **named: Any) -> Iterator[Tensor]:
        parts = [*whole(self, *args, **named)]
        yield from (part * len(parts) for part in parts)

    monkeypatch.setattr(batch_loss.BatchLoss, "compute_parts", unweighed)
    assert failed() == {"GradCache, chunks and parts"}


def test_gradients_of_vectors_that_are_not_added_up_fail(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negatives that were gathered without a gradient."""
    inner = gradcache._backward_through_modules

    class Deaf(Ranks):
        def all_reduce(self, tensors: Iterable[Tensor]) -> None:
            pass

    def through_heads(widths: Any, sides: Any, parts: Any, ranks: Ranks) -> float:
        deaf = Deaf(ranks.rank, ranks.world_size)
        object.__setattr__(deaf, "all_gather", ranks.all_gather)
        return inner(widths, sides, parts, deaf)

    monkeypatch.setattr(gradcache, "_backward_through_modules", through_heads)
    assert failed() == {"2 ranks"}


def test_a_sum_over_the_ranks_that_is_not_divided_fails(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = module._step_gradients

    def summed(*args: Any, ranks: Ranks = ALONE, **named: Any) -> Any:
        return {name: grad * ranks.world_size for name, grad in inner(*args, ranks=ranks, **named).items()}

    monkeypatch.setattr(module, "_step_gradients", summed)
    assert failed() == {"2 ranks"}


def test_ranks_that_take_one_place_fail(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each looks for its rows' positives among those of rank 0."""
    inner = module._forward_backward

    def misplaced(model: Any, loss: Any, *args: Any, ranks: Ranks = ALONE, **named: Any) -> None:
        parts = loss.compute_parts
        loss.compute_parts = lambda vectors, inputs, **named: parts(vectors, replace(inputs, first_row=0), **named)
        inner(model, loss, *args, ranks=ranks, **named)

    monkeypatch.setattr(module, "_forward_backward", misplaced)
    assert failed() == {"2 ranks"}


def test_texts_that_lose_their_order_fail(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk gets the gradient of another one."""
    inner = module._chunks

    def swapped(*args: Any) -> Any:
        chunks, sides = inner(*args)
        for first, second in pairwise(chunks):
            if len(first.text_numbers) == len(second.text_numbers):
                first.text_numbers[:], second.text_numbers[:] = second.text_numbers[:], first.text_numbers[:]
                break
        return chunks, sides

    step = module._step_gradients

    def broken(*args: Any, **named: Any) -> Any:
        with monkeypatch.context() as inside:
            inside.setattr(module, "_chunks", swapped)
            return step(*args, **named)

    monkeypatch.setattr(module, "_step_gradients", broken)
    assert {"GradCache, chunks and parts", "no cache, chunks"} <= failed()
