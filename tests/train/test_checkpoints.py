"""Checkpoints: whole or not there, whatever ends the process; the same to the bit; what differs is told."""

import errno
import json
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_processes import Ended, execute, in_process
from torch import nn

from gnomon.errors import CheckpointError
from gnomon.train import checkpoints
from gnomon.train.checkpoints import (
    ROUNDING_KEYS,
    UNCOMPARED_KEYS,
    SavedState,
    checkpoints_by_step,
    compare_recipes,
    compare_rounding,
    latest,
    load,
    load_optimizer,
    optimizer_tensors,
    remove_all,
    save,
    select_prefix,
)
from gnomon.train.recipe.schema import DataSource, LoraSettings, Recipe

TENSORS = {
    "model.weight": torch.randn(5, 3, generator=torch.Generator().manual_seed(1)),
    "model.half": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
    "model.exact": torch.tensor([1 / 3, float("nan")], dtype=torch.float64),
    "optimizer.weight.step": torch.tensor(7.0),
    "ema.updates": torch.tensor(2**40 + 1),
    "random.torch": torch.get_rng_state(),
    "empty": torch.zeros(0, 4),
    "flags": torch.tensor([True, False]),
}
FACTS = {"recipe": {"model": "ü", "dims": [2, 4]}, "best": 0.1 + 0.2, "none": None, "scores": [[1, 0.5]]}


def state(step: int) -> SavedState:
    return SavedState(step, TENSORS | {"step": torch.tensor(step)}, FACTS)


def assert_same_state(found: SavedState, wanted: SavedState) -> None:
    assert (found.step, found.facts) == (wanted.step, wanted.facts)
    assert found.tensors.keys() == wanted.tensors.keys()
    for name, tensor in wanted.tensors.items():
        other = found.tensors[name]
        assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(other.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- whole, or not there


def test_a_checkpoint_is_the_same_to_the_bit(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    path = save(folder, state(500), keep=1)
    assert path == folder / "step-00000500"
    assert names(path) == ["facts.json", "state.safetensors"]
    found = load(path)
    assert_same_state(found, state(500))
    remove_all(folder)
    assert names(folder) == []
    found.tensors["model.weight"].add_(1)  # its memory is its own


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert latest(tmp_path / "none") is None
    remove_all(tmp_path / "none")
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-00000001").mkdir()
    (tmp_path / "step-00000002").mkdir()
    (tmp_path / "step-00000002" / "state.safetensors").touch()
    assert latest(tmp_path) is None


def test_the_newest_are_kept_and_the_best(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50):
        save(tmp_path, state(step), keep=2, best_step=20 if step > 20 else 10)
    assert list(checkpoints_by_step(tmp_path)) == [20, 40, 50]
    assert latest(tmp_path) == tmp_path / "step-00000050"
    save(tmp_path, state(60), keep=1, best_step=60)
    assert names(tmp_path) == ["step-00000060"]


def test_steps_of_many_digits_are_in_order(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save(tmp_path, state(step), keep=2)
    assert list(checkpoints_by_step(tmp_path)) == [99_999_999, 100_000_000]


def test_the_same_step_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    save(tmp_path, state(5), keep=2)
    save(tmp_path, replace(state(5), facts={"best": 1}), keep=2)
    assert names(tmp_path) == ["step-00000005"]
    assert load(tmp_path / "step-00000005").facts == {"best": 1}


def test_between_two_of_one_step_the_new_one_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, state(5), keep=2)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_take_final_name", lambda new: new)  # killed in front of it
        save(tmp_path, replace(state(5), facts={"best": 1}), keep=2)
    assert names(tmp_path) == ["step-00000005", "step-00000005.new"]
    found = latest(tmp_path)
    assert found is not None
    assert load(found).facts == {"best": 1}
    save(tmp_path, state(6), keep=2)
    assert names(tmp_path) == ["step-00000005", "step-00000006"]
    assert load(tmp_path / "step-00000005").facts == {"best": 1}


def run(folder: Path, code: str) -> Ended:
    """Python with `state` and checkpoints 1 and 2 in a folder, in a process of its own."""
    start = (
        "import os, resource, shutil, signal, torch\n"
        "from gnomon.train import checkpoints\n"
        "from gnomon.train.checkpoints import SavedState, save\n"
        "def state(step): return SavedState(step, {'w': torch.full((50_000,), float(step))}, {'step': step})\n"
        "for step in (1, 2): save(folder, state(step), keep=2)\n"
        "def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    return in_process(execute, start + code, folder)


POINTS = {
    "in front of the weights": "checkpoints.write_safetensors = die",
    "within the weights": (
        "def torn(path, arrays):\n    (path.parent / f'.{path.name}.0123abcd.tmp').write_bytes(b'half')\n    die()\n"
        "checkpoints.write_safetensors = torn"
    ),
    "in front of the facts": "checkpoints.json.dump = die",
    "in front of the rename": "checkpoints.fsync_folder = die",
    "in front of the removal": "checkpoints._discard = die",
    "within the removal": (
        "def torn(path):\n    if path.exists():\n        (path / 'facts.json').unlink()\n        die()\n"
        "checkpoints._remove = torn"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_leaves_a_whole_one(tmp_path: Path, point: str, step: int) -> None:
    done = run(tmp_path, f"{POINTS[point]}\nsave(folder, state({step}), keep=2)\nprint('unreached')")
    assert done == Ended(signal=signal.SIGKILL)
    found = latest(tmp_path)
    assert found is not None
    last = load(found)
    assert last.step == (3 if step == 3 and "removal" in point else 2)
    assert last.tensors["w"].unique().tolist() == [last.step]
    save(tmp_path, state(9), keep=9)
    assert not [name for name in names(tmp_path) if name.startswith(".") or name.endswith(".new")], "all is swept"
    assert latest(tmp_path) == tmp_path / "step-00000009"


# ---- a full disk


@pytest.mark.parametrize(("number", "why"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "Permission denied")])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, why: str
) -> None:
    save(tmp_path, state(1), keep=1)

    def full(path: Path, arrays: object) -> None:
        path.write_bytes(b"half")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoints, "write_safetensors", full)
    message = f"^the checkpoint of step 2 .* was not written: {why}.* Make room in .*step-00000001 is complete"
    with pytest.raises(CheckpointError, match=message):
        save(tmp_path, state(2), keep=1)
    assert names(tmp_path) == ["step-00000001"]
    assert_same_state(load(tmp_path / "step-00000001"), state(1))


def test_a_first_one_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="no earlier checkpoint"):
        save(tmp_path / "file", state(2), keep=1)


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    code = (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: save(folder, state(3), keep=1)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = run(tmp_path, code)
    assert not done.error, done.trace
    assert done.value.startswith("CheckpointError the checkpoint of step 3 (0 MB) was not written: it grew too large")
    assert f"{tmp_path / 'step-00000002'} is complete" in done.value
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_ctrl_c_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dump", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, state(2), keep=1)
    assert names(tmp_path) == []


# ---- damage


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_byte_that_changed_is_told_of_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("run")
    path = save(folder, state(5), keep=1)
    file = path / data.draw(st.sampled_from(["state.safetensors", "facts.json"]))
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.sampled_from([0, 0, 1, len(content) // 2, len(content)]))
    file.write_bytes(content[: len(content) - cut])
    try:
        found = load(path)
    except CheckpointError as error:
        assert f"the checkpoint {path} is damaged (" in str(error)
    else:
        assert_same_state(found, state(5))


def test_a_damaged_one_names_the_one_before(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, state(step), keep=2)
    file = tmp_path / "step-00000002" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    message = (
        r"step-00000002 is damaged \(.*state.safetensors: expected .*\); remove it, and the run goes on from step-0"
    )
    with pytest.raises(CheckpointError, match=message) as caught:
        load(tmp_path / "step-00000002")
    assert "download" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"step-00000003 is damaged .* goes on from step-00000002"):
        load(tmp_path / "step-00000003")
    (tmp_path / "step-00000001" / "facts.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"damaged .*; remove it, and start the run again"):
        load(tmp_path / "step-00000001")


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, state(1), keep=1)
    facts = json.loads((path / "facts.json").read_text())
    (path / "facts.json").write_text(json.dumps(facts | {"format": 1}))
    with pytest.raises(
        CheckpointError, match=r"its format is 1, and this one reads 2\. Finish the run with the version"
    ):
        load(path)


# ---- an optimizer


def module() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def optimizer_of(model: nn.Module, *, fused: bool = False, turned: bool = False) -> torch.optim.AdamW:
    matrices = [one for one in model.parameters() if one.ndim > 1]
    others = [one for one in model.parameters() if one.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups[:: -1 if turned else 1], lr=0.01, fused=fused)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_an_optimizer_goes_on_to_the_bit(tmp_path: Path, fused: bool, turned: bool) -> None:
    """Whatever the order of its groups: state goes by name."""
    model = module()
    optimizer = optimizer_of(model, fused=fused)
    learn(model, optimizer, 0, 7)
    tensors = {f"model.{name}": one for name, one in model.state_dict().items()}
    tensors |= optimizer_tensors(optimizer, dict(model.named_parameters()))
    path = save(tmp_path, SavedState(7, tensors, {}), keep=1)
    learn(model, optimizer, 7, 20)

    again = module()
    loaded = load(path).tensors
    again.load_state_dict(select_prefix(loaded, "model."))
    other = optimizer_of(again, fused=fused, turned=turned)
    load_optimizer(other, dict(again.named_parameters()), loaded)
    learn(again, other, 7, 20)
    for name, one in model.state_dict().items():
        assert torch.equal(one, again.state_dict()[name])
    both = [optimizer_tensors(o, dict(m.named_parameters())) for o, m in ((optimizer, model), (other, again))]
    assert both[0].keys() == both[1].keys()
    assert len(both[0]) == 12
    assert all(torch.equal(tensor, both[1][name]) for name, tensor in both[0].items())


def test_the_state_is_a_copy_and_the_rate_is_not_of_it() -> None:
    model = module()
    names = dict(model.named_parameters())
    optimizer = optimizer_of(model)
    learn(model, optimizer, 0, 2)
    tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, names).items()}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    other = optimizer_of(model)
    other.param_groups[0]["lr"] = 0.5
    load_optimizer(other, names, tensors)
    assert other.param_groups[0]["lr"] == 0.5
    learn(model, other, 2, 3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())


def test_a_parameter_without_a_gradient_has_no_state() -> None:
    model = module()
    names = dict(model.named_parameters())
    optimizer = optimizer_of(model)
    assert optimizer_tensors(optimizer, names) == {}
    model[0].weight.requires_grad_(False)
    learn(model, optimizer, 0, 1)
    tensors = optimizer_tensors(optimizer, names)
    assert len(tensors) == 9
    other = optimizer_of(model)
    load_optimizer(other, names, tensors)
    assert len(other.state) == 3


@pytest.mark.parametrize("change", ["wider", "frozen"])
def test_state_of_another_model_is_refused(change: str) -> None:
    model = module()
    optimizer = optimizer_of(model)
    learn(model, optimizer, 0, 1)
    tensors = optimizer_tensors(optimizer, dict(model.named_parameters()))
    if change == "wider":
        model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3))
        other = optimizer_of(model)
    else:
        other = torch.optim.AdamW(model[2].parameters())
    with pytest.raises(CheckpointError, match=r"state of 0\.weight, 0\.bias.*another model"):
        load_optimizer(other, dict(model.named_parameters()), tensors)


# ---- recipes

SOURCE = DataSource(("a.jsonl",), name="a")
RECIPE = Recipe(model="m", output="o", sources=(SOURCE, replace(SOURCE, name="b")), lora=LoraSettings())


def as_kept(recipe: Recipe) -> dict[str, Any]:
    """As it comes out of a checkpoint."""
    return json.loads(json.dumps(asdict(recipe)))


def test_a_recipe_that_was_kept_does_not_differ() -> None:
    assert compare_recipes(as_kept(RECIPE), asdict(RECIPE)) == []
    assert compare_rounding(as_kept(RECIPE), asdict(RECIPE)) == []


def test_what_differs_is_told() -> None:
    second = replace(SOURCE, name="b", negatives=("n",), path=("elsewhere.jsonl",))
    now = replace(RECIPE, learning_rate=1e-3, sources=(SOURCE, second), lora=None, output="x", threads=3)
    assert compare_recipes(as_kept(RECIPE), asdict(now)) == [
        "sources.1.negatives: was [], is ['n']",
        "lora: was {'r': 8, 'alpha': 16.0, 'dropout': 0.0, 'targets': ['query', 'value']}, is None",
        "learning_rate: was 2e-05, is 0.001",
    ]
    assert compare_rounding(as_kept(RECIPE), asdict(now)) == ["threads: was None, is 3"]
    (message,) = compare_recipes(as_kept(RECIPE), asdict(replace(RECIPE, sources=(SOURCE,))))
    assert message.startswith("sources: was [{'path': ['a.jsonl'],")
    assert len(message) < 200


def test_keys_that_may_differ_are_keys_of_a_recipe() -> None:
    known = asdict(RECIPE)
    for key in UNCOMPARED_KEYS | ROUNDING_KEYS:
        inner: Any = known
        for each in key.split("."):
            inner = inner[0] if each == "*" else inner[each]
