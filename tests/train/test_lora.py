"""Low-rank adaption against a plain reference that computes with the one matrix, and against its merged form."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from reference_model import model, texts
from torch import nn

from gnomon.engines.torch.batch import DeviceBatch
from gnomon.engines.torch.layers import Linear
from gnomon.engines.torch.tensors import to_arrays
from gnomon.engines.torch.trunk import Trunk
from gnomon.errors import InputError
from gnomon.packed import pack
from gnomon.spec import trunk_shapes
from gnomon.train.lora import LoraLinear, apply_lora, merge_lora
from gnomon.train.optim import parameter_groups
from gnomon.train.recipe.schema import LoraSettings

CPU = torch.device("cpu")
ALL = ("query", "key", "value", "out", "up", "down")
GATED = "gated, table, tanh"


def trunk_of(name: str, **options: float) -> Trunk:
    spec, arrays = model(name)
    return Trunk.from_arrays(spec, arrays, **options).double()


def adapted(name: str, settings: LoraSettings, *, learnt: bool = True, **options: float) -> Trunk:
    """With A and B as they may be after training."""
    trunk = trunk_of(name, **options)
    generator = torch.Generator().manual_seed(7)
    apply_lora(trunk, settings, generator=generator)
    if learnt:
        for _, module in adapters(trunk):
            nn.init.normal_(module.lora_b, generator=generator)
    return trunk


def adapters(trunk: Trunk) -> Iterator[tuple[str, LoraLinear]]:
    return ((path, module) for path, module in trunk.named_modules() if isinstance(module, LoraLinear))


def states(trunk: Trunk, name: str) -> torch.Tensor:
    return trunk(DeviceBatch.from_packed(pack(texts(name)), trunk.spec, CPU))


@pytest.mark.parametrize("name", ["roberta", GATED])
def test_an_adapted_trunk_starts_as_it_was(name: str) -> None:
    targets = (*ALL, "gate") if name == GATED else ALL
    trunk = adapted(name, LoraSettings(r=4, alpha=8, targets=targets), learnt=False)
    assert torch.equal(states(trunk, name), states(trunk_of(name), name))
    bounds = {module.lora_a.abs().max().item() * module.lora_a.shape[1] ** 0.5 for _, module in adapters(trunk)}
    assert max(bounds) <= 1
    assert min(bounds) > 0.8


@pytest.mark.parametrize("activation", ["gelu", "identity"])
def test_a_layer_equals_the_formula_and_so_does_its_gradient(activation: str) -> None:
    """The formula of peft's lora.Linear: result = base(x); result += lora_B(lora_A(dropout(x))) * scaling."""
    generator = torch.Generator().manual_seed(3)
    base = Linear(5, 7, activation=activation).double()
    for parameter in base.parameters():
        nn.init.normal_(parameter, generator=generator)
    layer = LoraLinear(base, LoraSettings(r=3, alpha=12), generator)
    nn.init.normal_(layer.lora_b, generator=generator)
    x_TI = torch.randn(4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    residual_TO = torch.randn(4, 7, dtype=torch.float64, generator=generator)
    layer(x_TI, residual_TO).square().sum().backward()
    found = (x_TI.grad, layer.lora_a.grad, layer.lora_b.grad)

    a, b, x = (one.detach().clone().requires_grad_() for one in (layer.lora_a, layer.lora_b, x_TI))
    product = x @ base.weight.T + base.bias + (x @ a.T @ b.T) * (12 / 3)
    wanted = residual_TO + (nn.functional.gelu(product) if activation == "gelu" else product)
    wanted.square().sum().backward()
    torch.testing.assert_close(layer(x_TI, residual_TO), wanted, rtol=1e-12, atol=1e-12)
    for one, reference in zip(found, (x.grad, a.grad, b.grad), strict=True):
        torch.testing.assert_close(one, reference, rtol=1e-12, atol=1e-12)


def test_dropout_is_of_the_low_rank_path_alone_and_in_training_alone() -> None:
    linear = Linear(64, 3).double()
    nn.init.ones_(linear.weight)
    nn.init.zeros_(linear.bias)
    layer = LoraLinear(linear, LoraSettings(r=2, alpha=2, dropout=0.5))
    nn.init.ones_(layer.lora_a)
    nn.init.ones_(layer.lora_b)
    x_TI = torch.ones(200, 64, dtype=torch.float64)
    added_T = (layer.train()(x_TI)[:, 0] - 64) / 2
    assert added_T.unique().numel() > 5
    torch.testing.assert_close(added_T / 2, (added_T / 2).round(), msg="a half of 64 ones, each doubled")
    assert 58 < added_T.mean() < 70
    assert torch.equal(layer.eval()(x_TI), x_TI @ torch.full((64, 3), 3.0, dtype=torch.float64))


def test_only_the_low_rank_parts_are_learnt() -> None:
    trunk = adapted("roberta", LoraSettings(targets=("value", "down")))
    learnt = {name for name, parameter in trunk.named_parameters() if parameter.requires_grad}
    assert learnt == {
        f"layers.{layer}.{name}.{part}"
        for layer in (0, 1)
        for name in ("value", "down")
        for part in ("lora_a", "lora_b")
    }
    states(trunk, "roberta").square().sum().backward()
    for name, parameter in trunk.named_parameters():
        assert (parameter.grad is not None) is (name in learnt), name
    groups = parameter_groups(nn.ModuleDict({"trunk": trunk}), learning_rate=1.0, weight_decay=0.1, layers=2)
    assert sum(len(group["params"]) for group in groups) == 8


@pytest.mark.parametrize("name", ["roberta", GATED])
def test_merged_it_is_a_plain_trunk_of_the_same_states(name: str) -> None:
    targets = (*ALL, "gate") if name == GATED else ALL
    trunk = adapted(name, LoraSettings(r=2, alpha=0.5, targets=targets))
    arrays = to_arrays(merge_lora(trunk))
    assert arrays.keys() == trunk_shapes(trunk.spec).keys()
    plain = Trunk.from_arrays(trunk.spec, arrays)
    torch.testing.assert_close(states(plain, name), states(trunk, name), rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        assert (states(plain, name) - states(trunk_of(name), name)).abs().max() > 0.1
    for path, module in adapters(trunk):
        wanted = module.weight + 0.25 * module.lora_b @ module.lora_a
        np.testing.assert_array_equal(arrays[f"{path}.weight"], wanted.detach().numpy())


def test_a_plain_trunk_is_merged_already() -> None:
    spec, arrays = model("roberta")
    found = to_arrays(merge_lora(Trunk.from_arrays(spec, arrays)))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_the_state_of_an_adapted_trunk_is_loaded_again() -> None:
    settings = LoraSettings(r=2)
    trunk, other = adapted("roberta", settings), adapted("roberta", settings, learnt=False)
    other.load_state_dict(trunk.state_dict())
    assert torch.equal(states(other, "roberta"), states(trunk, "roberta"))


def test_gradients_reach_the_first_layer_through_recomputed_ones() -> None:
    plain = adapted("roberta", LoraSettings())
    again = adapted("roberta", LoraSettings(), gradient_checkpointing=True)
    for trunk in (plain, again):
        states(trunk.train(), "roberta").square().sum().backward()
    for (name, one), (_, other) in zip(adapters(plain), adapters(again), strict=True):
        assert one.lora_b.grad is not None, name
        assert torch.equal(one.lora_b.grad, other.lora_b.grad), name


def test_a_half_trunk_has_half_parts() -> None:
    spec, arrays = model("roberta")
    trunk = Trunk.from_arrays(spec, arrays).bfloat16()
    apply_lora(trunk, LoraSettings())
    assert {module.lora_a.dtype for _, module in adapters(trunk)} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("roberta", "querry", "'querry'.* has .*query, key, value, out, up, down. Did you mean"),
        ("roberta", "gate", "'gate'.* has query, key, value, out, up, down"),
        (GATED, "q_proj", "'q_proj'.* has query, key, value, out, gate, up, down"),
    ],
)
def test_an_unknown_target_lists_those_that_are_there(name: str, target: str, message: str) -> None:
    trunk = trunk_of(name)
    with pytest.raises(InputError, match=f"^lora.targets has {message}"):
        apply_lora(trunk, LoraSettings(targets=("query", target)))
    assert not list(adapters(trunk))
    assert all(parameter.requires_grad for parameter in trunk.parameters())
