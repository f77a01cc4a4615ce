"""Groups of parameters, learning rates against those of transformers, and the moving average against its formula."""

import math
from collections.abc import Iterator

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from reference_model import model
from torch import nn

from gnomon.engines.torch.modules import OutputModules
from gnomon.engines.torch.trunk import Trunk
from gnomon.errors import InputError
from gnomon.spec import DenseSpec, ModelSpec, PoolingSpec, TokenizerSpec
from gnomon.train.optim import (
    Blend,
    Ema,
    count_warmup_steps,
    learning_rate_factor_at,
    parameter_groups,
    scale_learning_rates,
)
from gnomon.train.recipe.schema import DataSource, Recipe


@pytest.fixture
def module() -> nn.Module:
    spec, arrays = model("roberta")
    dense = DenseSpec("2_Dense", spec.hidden_size, 8)
    weights = {"2_Dense.weight": torch.ones(8, spec.hidden_size).numpy(), "2_Dense.bias": torch.ones(8).numpy()}
    whole = ModelSpec(spec, PoolingSpec(), (dense,), TokenizerSpec(None))
    return nn.ModuleDict({"trunk": Trunk.from_arrays(spec, arrays), "heads": OutputModules.from_arrays(whole, weights)})


def of_each(module: nn.Module, **options: float) -> dict[str, tuple[float, float]]:
    """Name -> (learning rate, weight decay)."""
    groups = parameter_groups(module, learning_rate=1.0, weight_decay=0.1, layers=2, **options)
    settings = {id(one): (group["lr"], group["weight_decay"]) for group in groups for one in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(settings), "a parameter in two groups"
    return {name: settings[id(one)] for name, one in module.named_parameters() if id(one) in settings}


def test_matrices_decay_and_nothing_else_does(module: nn.Module) -> None:
    found = of_each(module)
    assert found.keys() == dict(module.named_parameters()).keys()
    decaying = {name for name, (_, decay) in found.items() if decay}
    plain = {name for name in found if name.endswith("bias") or "norm" in name}
    assert decaying == found.keys() - plain
    assert {"trunk.embed.tokens", "trunk.layers.1.query.weight", "heads.dense.2_Dense.weight"} <= decaying
    assert {rate for rate, _ in found.values()} == {1.0}


def test_each_layer_has_a_share_of_the_rate_of_the_one_above(module: nn.Module) -> None:
    for name, (rate, _) in of_each(module, layer_decay=0.5).items():
        if name.startswith("trunk.embed"):
            assert rate == 0.25
        elif name.startswith("trunk.layers.0"):
            assert rate == 0.5
        else:
            assert name.startswith(("trunk.layers.1", "heads."))
            assert rate == 1


def test_a_table_has_the_whole_rate() -> None:
    table = nn.Module()
    table.trunk = nn.Module()
    table.trunk.embed = nn.Module()
    table.trunk.embed.tokens = nn.Parameter(torch.ones(3, 2))
    (group,) = parameter_groups(table, learning_rate=0.5, weight_decay=0.1, layer_decay=0.5, layers=0)
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.1)


def test_frozen_parameters_are_left_out_and_those_of_the_loss_do_not_decay(module: nn.Module) -> None:
    module["trunk"].requires_grad_(False)
    scale = nn.Parameter(torch.ones(1, 1))
    groups = parameter_groups(module, learning_rate=1.0, weight_decay=0.1, layers=2, extra=[scale])
    assert {id(one) for group in groups for one in group["params"]} == {
        id(scale),
        *map(id, module["heads"].parameters()),
    }
    (decay,) = (group["weight_decay"] for group in groups if any(one is scale for one in group["params"]))
    assert decay == 0


def test_nothing_to_learn_is_an_error(module: nn.Module) -> None:
    with pytest.raises(InputError, match=r"every parameter is frozen.*freeze="):
        parameter_groups(module.requires_grad_(False), learning_rate=1.0, weight_decay=0.1, layers=2)


def test_the_rate_of_each_group_is_scaled(module: nn.Module) -> None:
    groups = parameter_groups(module, learning_rate=0.1, weight_decay=0.1, layer_decay=0.5, layers=2)
    optimizer = torch.optim.AdamW(groups)
    scale_learning_rates(optimizer, 0.5)
    scale_learning_rates(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.025, 0.0125, 0.00625}


# ---- the learning rate


def theirs(scheduler: str, warmup: int, total: int) -> Iterator[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    name = "constant_with_warmup" if scheduler == "constant" else scheduler
    schedule = transformers.get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    for _ in range(total + 3):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("scheduler", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 7), (3, 20), (1, 1), (20, 20), (0, 1)])
def test_rates_are_those_of_transformers(scheduler: str, warmup: int, total: int) -> None:
    ours = [learning_rate_factor_at(step, total=total, warmup=warmup, scheduler=scheduler) for step in range(total + 3)]
    assert ours == pytest.approx(list(theirs(scheduler, warmup, total)), abs=1e-12)


@given(st.integers(1, 10**9), st.floats(0, 1), st.sampled_from(["linear", "cosine", "constant"]), st.floats(0, 1.2))
def test_a_factor_is_within_0_and_1(total: int, share: float, scheduler: str, at: float) -> None:
    warmup = math.ceil(share * total)
    assert 0 <= learning_rate_factor_at(int(at * total), total=total, warmup=warmup, scheduler=scheduler) <= 1


def recipe(**changes: float) -> Recipe:
    return Recipe(model="m", output="o", sources=(DataSource(("x.jsonl",)),), **changes)


def test_warm_up_by_steps_or_ratio() -> None:
    assert count_warmup_steps(recipe(), 100) == 0
    assert count_warmup_steps(recipe(warmup_ratio=0.05), 90) == 5
    assert count_warmup_steps(recipe(warmup_steps=7, warmup_ratio=0.5), 90) == 7
    with pytest.raises(InputError, match="warmup_steps 101 is more than the 100 steps of this run"):
        count_warmup_steps(recipe(warmup_steps=101), 100)


# ---- the moving average


def small() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()


def moved(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def test_the_average_is_that_of_the_formula() -> None:
    module = small()
    ema = Ema(module, 0.9)
    wanted = {name: one.detach().clone() for name, one in module.named_parameters()}
    for step in range(20):
        moved(module, step)
        ema.update()
        decay = min(0.9, (1 + step) / (10 + step))
        wanted = {name: decay * wanted[name] + (1 - decay) * one.detach() for name, one in module.named_parameters()}
    for name, average in wanted.items():
        torch.testing.assert_close(ema.tensors()[f"ema.{name}"], average, rtol=1e-13, atol=1e-13)


def test_averages_are_in_the_model_inside_and_the_weights_are_back_behind() -> None:
    module = small().float()
    ema = Ema(module, 0.5)
    before = {name: one.detach().clone() for name, one in module.named_parameters()}
    moved(module, 1)
    after = {name: one.detach().clone() for name, one in module.named_parameters()}
    with pytest.raises(RuntimeError, match="within"), ema.swap_weights():
        for name, one in module.named_parameters():
            assert torch.equal(one, before[name])
        raise RuntimeError("within")
    for name, one in module.named_parameters():
        assert torch.equal(one, after[name])
        assert torch.equal(ema.tensors()[f"ema.{name}"], before[name])


def test_an_average_goes_on_where_it_was() -> None:
    module = small()
    module[0].weight.requires_grad_(False)
    ema = Ema(module, 0.9)
    moved(module, 1)
    ema.update()
    kept = {name: tensor.clone() for name, tensor in ema.tensors().items()}
    assert kept.keys() == {"ema.0.bias", "ema.1.weight", "ema.1.bias", "ema.updates"}
    other = Ema(module, 0.9)
    other.load(kept | {"model.0.bias": torch.ones(1)})
    for each in (ema, other):
        each.update()
    for name, tensor in ema.tensors().items():
        assert torch.equal(tensor, other.tensors()[name])


def test_a_blend_is_between_the_first_weights_and_those_of_now() -> None:
    module = small()
    module[0].weight.requires_grad_(False)
    blend = Blend(module, 0.25)
    first = {name: one.detach().clone() for name, one in module.named_parameters()}
    moved(module, 1)
    now = {name: one.detach().clone() for name, one in module.named_parameters()}
    assert any(not torch.equal(first[name], now[name]) for name in first)
    with pytest.raises(RuntimeError, match="within"), blend.swap_weights():
        for name, one in module.named_parameters():
            wanted = now[name] if name == "0.weight" else 0.25 * first[name] + 0.75 * now[name]
            torch.testing.assert_close(one, wanted, rtol=1e-12, atol=1e-12)
        raise RuntimeError("within")
    for name, one in module.named_parameters():
        assert torch.equal(one, now[name])


def test_parameters_of_the_loss_have_a_rate_of_their_own() -> None:
    scale = nn.Parameter(torch.tensor(3.0))
    groups = parameter_groups(
        nn.Linear(2, 2), learning_rate=1e-5, weight_decay=0.1, layers=0, extra=[scale], extra_learning_rate=1e-3
    )
    (own,) = (group for group in groups if any(each is scale for each in group["params"]))
    assert (own["lr"], own["weight_decay"], len(own["params"])) == (1e-3, 0.0, 1)
