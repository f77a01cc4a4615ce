"""The torch trunk: packed against one by one, fast forms of attention against the plain one, gradients, names.

T: tokens of a text; H: hidden; B: texts.
"""

import pickle
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from goldens import NAMES
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference_model import MADE, POOLINGS, assert_same, model, reference_pool, reference_states, skips, texts

from gnomon.engines.positions import position_ids
from gnomon.engines.torch import attention as forms
from gnomon.engines.torch.attention import bucketed, grouped, plain
from gnomon.engines.torch.batch import DeviceBatch, Spans
from gnomon.engines.torch.engine import TorchEngine
from gnomon.engines.torch.modules import Pooling
from gnomon.engines.torch.padding import MAX_PADDED_LENGTH
from gnomon.engines.torch.tensors import as_tensor, to_arrays
from gnomon.engines.torch.trunk import Trunk
from gnomon.errors import InputError
from gnomon.packed import pack, split_per_text
from gnomon.spec import PoolingSpec, TrunkSpec, trunk_shapes

CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=9)
LONG = st.lists(st.sampled_from([1, 17, 255, 256, 257, 300]), min_size=1, max_size=4)


@cache
def engine(name: str, pooling: PoolingSpec, attention: forms.Attention | None = None) -> TorchEngine:
    trunk, arrays = model(name)
    return TorchEngine(trunk, pooling, arrays, attention=attention)


@cache
def exact(name: str, attention: forms.Attention) -> Trunk:
    """A trunk in float64, that may be trained."""
    trunk, arrays = model(name)
    return Trunk.from_arrays(trunk, arrays, attention=attention).double()


@pytest.mark.parametrize("attention", [grouped, plain])
@pytest.mark.parametrize("name", [*NAMES, *MADE])
def test_states_of_a_mixed_batch_equal_the_reference(name: str, attention: forms.Attention) -> None:
    trunk, arrays = model(name)
    packed = pack(texts(name))
    found = engine(name, PoolingSpec(), attention).states(packed)
    for text_TH, ids_T in zip(split_per_text(found, packed), texts(name), strict=True):
        assert_same(text_TH.ravel(), reference_states(trunk, arrays, ids_T).ravel())


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
@pytest.mark.parametrize("name", ["stella_en_400M_v5", "GIST-Embedding-v0", "roberta"])
def test_every_pooling_equals_the_reference(name: str, pooling: PoolingSpec) -> None:
    trunk, arrays = model(name)
    wanted = [reference_pool(pooling, reference_states(trunk, arrays, ids_T), 3) for ids_T in texts(name)]
    assert_same(engine(name, pooling).pool(pack(texts(name), skip_B=skips(pooling, 6, 3))), np.stack(wanted))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, *MADE])
@settings(max_examples=15, deadline=None)
@given(lengths=LENGTHS, pooling=st.sampled_from(POOLINGS), data=st.data())
def test_packed_equals_one_by_one(name: str, lengths: list[int], pooling: PoolingSpec, data: st.DataObject) -> None:
    """Every architecture, every pooling, any mix of lengths in any order, padding ids inside texts too."""
    rows = model(name)[0].vocab_size
    ids = [np.array(data.draw(st.lists(st.integers(0, rows - 1), min_size=n, max_size=n))) for n in lengths]
    skip_B = data.draw(st.lists(st.integers(0, 4), min_size=len(ids), max_size=len(ids)))
    together = engine(name, pooling).pool(pack(ids, skip_B=skip_B))
    pairs = zip(ids, skip_B, strict=True)
    alone = [engine(name, pooling, plain).pool(pack([ids_T], skip_B=[skip])) for ids_T, skip in pairs]
    assert_same(together, np.concatenate(alone))


@pytest.mark.parametrize("name", [*NAMES, *MADE])
def test_the_last_layer_for_one_token_of_each_text(name: str) -> None:
    packed = pack(texts(name))
    rows_B = torch.from_numpy(packed.bounds[1:] - 2).clamp(min=0)
    rows_B = torch.maximum(rows_B, torch.from_numpy(packed.bounds[:-1]))
    for attention in (grouped, plain):
        trunk, batch = exact(name, attention), DeviceBatch.from_packed(packed, model(name)[0])
        torch.testing.assert_close(trunk(batch, rows_B), trunk(batch)[rows_B], rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, *MADE])
@settings(max_examples=5, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5))
@example(lengths=[9, 2, 1, 1, 8])
def test_gradients_of_packed_and_plain_agree(name: str, lengths: list[int]) -> None:
    """By every parameter, in float64, through a pooling of both kinds; and each parameter that acts has one."""
    draw = np.random.default_rng(sum(lengths))
    # no token twice in a text: a rotary model gives equal tokens alone equal states, and which of them is the highest
    # would be a matter of rounding
    ids = [draw.permutation(model(name)[0].vocab_size)[:length] for length in lengths]
    packed = pack(ids)
    pooling = Pooling(PoolingSpec(("cls", "max", "weightedmean")))

    def gradients(attention: forms.Attention) -> dict[str, torch.Tensor | None]:
        trunk = exact(name, attention)
        trunk.zero_grad()
        vectors_BD = pooling(trunk(DeviceBatch.from_packed(packed, model(name)[0])), packed)
        (vectors_BD * torch.linspace(-1, 1, vectors_BD.numel()).view_as(vectors_BD)).sum().backward()
        return {key: parameter.grad for key, parameter in trunk.named_parameters()}

    fast, slow = gradients(grouped), gradients(plain)
    torch.testing.assert_close(gradients(bucketed), slow, rtol=1e-7, atol=1e-9)
    assert fast.keys() == trunk_shapes(model(name)[0]).keys()
    for key, gradient in fast.items():
        assert gradient is not None, key
        other = slow[key]
        assert other is not None
        torch.testing.assert_close(gradient, other, rtol=1e-7, atol=1e-9)
        # one text of one token looks at nothing but itself, and adding to all keys changes no softmax
        if len(ids[0]) > 1 and not key.endswith("key.bias"):
            assert gradient.abs().max() > 0, key


def test_a_gradient_equals_its_difference_quotient() -> None:
    """The whole way from a parameter to a vector, against the definition."""
    spec, arrays = model("wide, ntk, gated")
    packed = pack(texts("wide, ntk, gated", (5, 2, 5)))
    pooling = Pooling(PoolingSpec(("mean",)))
    trunk = Trunk.from_arrays(spec, arrays).double()

    def loss() -> torch.Tensor:
        return pooling(trunk(DeviceBatch.from_packed(packed, spec)), packed)[:, :3].sum()

    for name in ("layers.0.query.weight", "layers.1.gate.weight", "embed.types", "layers.0.attn_norm.bias"):
        weight = trunk.get_parameter(name)
        trunk.zero_grad()
        loss().backward()
        assert weight.grad is not None
        place = tuple(0 for _ in weight.shape)
        step = 1e-5
        with torch.no_grad():
            weight[place] += step
            above = loss()
            weight[place] -= 2 * step
            below = loss()
            weight[place] += step
        assert float(weight.grad[place]) == pytest.approx(float(above - below) / (2 * step), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("share", [True, False])
def test_parameters_have_our_names_and_lie_where_they_should(share: bool) -> None:
    """Shared for inference; copied to be trained, so that no step of an optimizer reaches a mapped file."""
    for name in (*NAMES, *MADE):
        spec, arrays = model(name)
        trunk = Trunk.from_arrays(spec, arrays, share=share)
        assert {key: tuple(value.shape) for key, value in trunk.state_dict().items()} == trunk_shapes(spec)
        for key, array in to_arrays(trunk.state_dict()).items():
            assert np.array_equal(array, arrays[key])
            if arrays[key].flags.c_contiguous:
                assert (array.ctypes.data == arrays[key].ctypes.data) == share


def test_a_step_of_an_optimizer_leaves_the_checkpoint_alone() -> None:
    spec, arrays = model("stella_en_400M_v5")  # a mapped file
    trunk = Trunk.from_arrays(spec, arrays)
    before = {key: array.copy() for key, array in arrays.items()}
    trunk(DeviceBatch.from_packed(pack(texts("stella_en_400M_v5")), spec)).square().sum().backward()
    torch.optim.SGD(trunk.parameters(), lr=0.1).step()
    assert not np.array_equal(to_arrays(trunk.state_dict())["layers.0.up.weight"], before["layers.0.up.weight"])
    assert all(np.array_equal(arrays[key], before[key]) for key in before)


def test_arrays_of_half_precision_come_back_as_they_are() -> None:
    tensors = {"a": torch.randn(2, 3).bfloat16(), "b": torch.randn(4, requires_grad=True)}
    found = to_arrays(tensors)
    assert found["a"].dtype == ml_dtypes.bfloat16
    for name, tensor in tensors.items():
        assert np.array_equal(found[name].astype(np.float32), tensor.detach().float().numpy())
        assert torch.equal(as_tensor(found[name]), tensor.detach())


def test_a_trunk_can_be_pickled() -> None:
    for name in ("wide, ntk, gated", "tanh form of gelu"):
        spec, arrays = model(name)
        trunk = Trunk.from_arrays(spec, arrays)
        batch = DeviceBatch.from_packed(pack(texts(name)), spec)
        assert torch.equal(pickle.loads(pickle.dumps(trunk))(batch), trunk(batch))


def test_a_kernel_without_dropout_is_refused_where_dropout_is_asked_for() -> None:
    spec, arrays = model("roberta")
    with pytest.raises(InputError, match="attention has no dropout; take attention=choose"):
        Trunk.from_arrays(spec, arrays, attention=forms.varlen, attention_dropout=0.1)


def test_dropout_acts_in_training_alone_and_where_it_is_asked_for() -> None:
    spec, arrays = model("roberta")
    packed = pack(texts("roberta"))
    batch = DeviceBatch.from_packed(packed, spec)
    plainly = Trunk.from_arrays(spec, arrays)
    with torch.no_grad():
        wanted = plainly.eval()(batch)
        assert torch.equal(plainly.train()(batch), wanted)
        for options in ({"dropout": 0.5}, {"attention_dropout": 0.5}):
            for attention in (grouped, bucketed, plain):
                trunk = Trunk.from_arrays(spec, arrays, attention=attention, **options)
                torch.testing.assert_close(trunk.eval()(batch), wanted)
                trunk.train()
                torch.manual_seed(0)
                first = trunk(batch)
                torch.manual_seed(0)
                assert torch.equal(trunk(batch), first)
                assert (first - wanted).abs().max() > 0.1
                assert (trunk(batch) - first).abs().max() > 0.1


@pytest.mark.slow
def test_dropout_keeps_the_mean() -> None:
    """Inverted dropout of the attention weights, in every form: the average over many draws is the undropped value."""
    torch.manual_seed(0)
    spans = Spans.from_lengths(np.array([3, 3, 2]), CPU)
    q, k, v = (torch.randn(8, 2, 4, dtype=torch.float64) for _ in range(3))
    wanted = plain(q, k, v, spans, spans, 0.0)
    for form in (grouped, bucketed, plain):
        draws = torch.stack([form(q, k, v, spans, spans, 0.3) for _ in range(4000)])
        torch.testing.assert_close(draws.mean(0), wanted, atol=0.08, rtol=0)


@pytest.mark.parametrize("one_token", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", ["roberta", "gated, table, tanh", "wide, ntk, gated", "one layer"])
def test_gradient_checkpointing_gives_the_same_bits(name: str, bf16: bool, one_token: bool) -> None:
    """With dropout of both kinds: a layer that is computed again draws what it drew, and others what they would."""
    spec, arrays = model(name)
    packed = pack(texts(name))
    rows_B = torch.from_numpy(packed.bounds[:-1]) if one_token else None

    def gradients(again: bool) -> dict[str, torch.Tensor]:
        trunk = Trunk.from_arrays(
            spec, arrays, dropout=0.2, attention_dropout=0.2, gradient_checkpointing=again
        ).train()
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            states = trunk(DeviceBatch.from_packed(packed, spec), rows_B).float()
        (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
        found = {key: parameter.grad for key, parameter in trunk.named_parameters() if parameter.grad is not None}
        return found | {"the next draw": torch.rand(3)}

    kept, again = gradients(False), gradients(True)
    assert kept.keys() == again.keys() == trunk_shapes(spec).keys() | {"the next draw"}
    assert all(torch.equal(kept[key], again[key]) for key in kept)


def test_gradient_checkpointing_keeps_the_input_of_a_layer_and_no_more() -> None:
    """What autograd holds on to, in bytes: beyond the embeddings, one tensor of states a layer."""
    spec, arrays = model("no types, relu")
    batch = DeviceBatch.from_packed(pack(texts("no types, relu", (40,) * 20)), spec)

    def held(train: bool, again: bool) -> int:
        trunk = Trunk.from_arrays(spec, arrays, dropout=0.1, attention_dropout=0.1, gradient_checkpointing=again).train(
            train
        )
        sizes: dict[int, int] = {}

        def pack_(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack_, lambda tensor: tensor):
            kept = trunk(batch)
        owned = {parameter.data_ptr() for parameter in trunk.parameters()}
        del kept
        return sum(size for place, size in sizes.items() if place not in owned)

    states = 800 * spec.hidden_size * 4
    assert held(train=True, again=False) > 20 * states
    assert held(train=True, again=True) < 8 * states
    assert held(train=False, again=True) == held(train=False, again=False), "nothing to save outside training"


def test_gradient_checkpointing_is_for_gradients_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, arrays = model("roberta")
    batch = DeviceBatch.from_packed(pack(texts("roberta")), spec)
    trunk = Trunk.from_arrays(spec, arrays, gradient_checkpointing=True)
    calls: list[Any] = []
    monkeypatch.setattr("gnomon.engines.torch.trunk.checkpoint", lambda layer, *inputs, **_: calls.append(layer))
    with torch.no_grad():
        trunk.train()(batch)
    trunk.eval()(batch)
    assert not calls


@pytest.mark.parametrize("form", [grouped, bucketed])
@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS | LONG, one=st.booleans())
def test_attention_equals_plain(form: forms.Attention, lengths: list[int], one: bool) -> None:
    """And its gradients; in any order, with texts that have a bucket of their own."""
    spans = Spans.from_lengths(np.array(lengths), CPU)
    q_spans = spans.single_rows if one else spans
    draw = torch.Generator().manual_seed(sum(lengths))
    rows = (len(lengths) if one else sum(lengths), sum(lengths), sum(lengths))
    q, k, v = (torch.randn(n, 2, 8, dtype=torch.float64, generator=draw, requires_grad=True) for n in rows)

    def found(form: forms.Attention) -> list[torch.Tensor]:
        mixed = form(q, k, v, q_spans, spans, 0.0)
        return [mixed, *torch.autograd.grad(mixed.square().sum(), (q, k, v))]

    for ours, slow in zip(found(form), found(plain), strict=True):
        torch.testing.assert_close(ours, slow)


def test_long_texts_of_a_bucket_are_left_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def kernel(q: torch.Tensor, *_: torch.Tensor, dropout_p: float) -> torch.Tensor:
        seen.append(q.shape[2])
        return q

    monkeypatch.setattr(forms.F, "scaled_dot_product_attention", kernel)
    spans = Spans.from_lengths(np.array([3, MAX_PADDED_LENGTH, MAX_PADDED_LENGTH + 1]), CPU)
    q = torch.ones(2 * MAX_PADDED_LENGTH + 4, 2, 8)
    bucketed(q, q, q, spans, spans, 0.0)
    assert seen == [MAX_PADDED_LENGTH + 1]
    bucketed(q, q, q, spans, spans, 0.5)
    assert seen == [MAX_PADDED_LENGTH + 1]


@given(lengths=LENGTHS)
def test_runs_cover_every_text_once_and_join_neighbours(lengths: list[int]) -> None:
    runs = Spans.from_lengths(np.array(lengths), CPU).equal_length_runs
    assert [length for run in runs for length in [run.length] * run.num_texts] == lengths
    assert [run.start for run in runs] == np.cumsum([0, *(run.num_texts * run.length for run in runs)])[:-1].tolist()
    assert all(run.length != after.length for run, after in pairwise(runs))


@given(ids=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=5))
def test_padding_ids_inside_a_text_take_no_position(ids: list[list[int]]) -> None:
    """RoBERTa: row 2 for a padding id, 3, 4, 5... for the others, counted in each text by itself."""
    spec = TrunkSpec(
        vocab_size=9,
        hidden_size=4,
        num_layers=1,
        num_heads=1,
        intermediate_size=4,
        max_positions=20,
        position_offset=3,
        pad_id=2,
    )
    wanted: list[int] = []
    for text in ids:
        seen = 0
        for token in text:
            seen += token != 2
            wanted.append(2 + seen if token != 2 else 2)
    assert position_ids(spec, pack([np.array(text) for text in ids])).tolist() == wanted


def kernel(
    calls: list[dict[str, Any]],
) -> Callable[..., torch.Tensor]:
    """A stand-in for a variable-length kernel, with its arguments: dense attention, text by text."""

    def run(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_q: torch.Tensor,
        cu_k: torch.Tensor,
        max_q: int,
        max_k: int,
        **options: Any,
    ) -> torch.Tensor:
        calls.append({"max_q": max_q, "max_k": max_k, **options})
        assert cu_q.dtype == cu_k.dtype == torch.int32
        assert max_q == int(cu_q.diff().max())
        assert max_k == int(cu_k.diff().max())
        assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
        parts = []
        for at in range(len(cu_q) - 1):
            q = query[cu_q[at] : cu_q[at + 1]].transpose(0, 1)
            k, v = (x[cu_k[at] : cu_k[at + 1]].transpose(0, 1) for x in (key, value))
            shares = (q @ k.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1)
            parts.append((shares @ v).transpose(0, 1))
        return torch.cat(parts)

    return run


@pytest.mark.parametrize("name", ["stella_en_400M_v5", "GIST-Embedding-v0", "wide, ntk, gated"])
@pytest.mark.parametrize("mode", ["cls", "mean"])
def test_the_kernels_are_called_with_what_they_take(name: str, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torch and of flash-attn: rows, bounds and longest texts; q has its own where one token is pooled."""
    calls: list[dict[str, Any]] = []
    varlen_module = pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(varlen_module, "varlen_attn", kernel(calls))
    fake = type(torch)("flash_attn")
    fake.flash_attn_varlen_func = kernel(calls)  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "flash_attn", fake)
    wanted = engine(name, PoolingSpec((mode,)), plain).pool(pack(texts(name)))
    for form in (forms.varlen, forms.flash):
        calls.clear()
        trunk, arrays = model(name)
        assert_same(TorchEngine(trunk, PoolingSpec((mode,)), arrays, attention=form).pool(pack(texts(name))), wanted)
        assert len(calls) == trunk.num_layers
        assert calls[-1]["max_q"] == (1 if mode == "cls" else 40)
        assert calls[-1]["max_k"] == 40


def test_torchs_own_kernel_still_takes_these_arguments() -> None:
    import inspect

    varlen_attn = pytest.importorskip("torch.nn.attention.varlen").varlen_attn
    names = [*inspect.signature(varlen_attn).parameters][:7]
    assert names == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]


CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("dtype", "head_size", "capability", "dropout", "installed", "chosen"),
    [
        (torch.bfloat16, 64, (9, 0), 0.0, False, forms.varlen),
        (torch.float16, 64, (8, 0), 0.0, True, forms.varlen),
        (torch.bfloat16, 64, (9, 0), 0.1, True, forms.flash),  # torch's kernel takes no dropout
        (torch.bfloat16, 64, (9, 0), 0.1, False, grouped),
        (torch.bfloat16, 264, (9, 0), 0.0, True, grouped),
        (torch.bfloat16, 12, (9, 0), 0.0, True, grouped),
        (torch.float32, 64, (9, 0), 0.0, True, grouped),
        (torch.bfloat16, 64, (7, 5), 0.0, True, grouped),
    ],
)
def test_the_form_for_a_gpu(
    dtype: torch.dtype,
    head_size: int,
    capability: tuple[int, int],
    dropout: float,
    installed: bool,
    chosen: forms.Attention,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(forms, "has_varlen", lambda: True)
    monkeypatch.setattr(forms, "has_flash_attn", lambda: installed)
    forms.warn_once.cache_clear()
    if chosen is grouped:
        with pytest.warns(UserWarning, match="variable-length attention kernels are not used: "):
            assert forms.choose_attention(CUDA, dtype, head_size, dropout=dropout) is chosen
    assert (
        forms.choose_attention(CUDA, dtype, head_size, dropout=dropout) is chosen
    )  # said once: a second notice would be an error


def test_the_form_for_a_processor_needs_no_notice() -> None:
    assert forms.choose_attention(CPU, torch.float32, 64) is grouped
    assert forms.choose_attention(CPU, torch.bfloat16, 64, dropout=0.1) is grouped
    assert forms.choose_attention(CPU, torch.float32, 64, needs_gradient=True) is grouped
    assert forms.choose_attention(CPU, torch.bfloat16, 64, needs_gradient=True) is bucketed
    assert forms.choose_attention(torch.device("mps"), torch.bfloat16, 64, needs_gradient=True) is grouped


def test_positions_beyond_the_tables_made_so_far() -> None:
    """Rotary tables grow with the longest text, and what was computed before stays right."""
    name = "rope, not gated, silu"
    spec, arrays = model(name)
    fresh = TorchEngine(spec, PoolingSpec(), arrays)
    short, long = (pack(texts(name, lengths)) for lengths in ((3, 2), (300, 4)))
    before = fresh.pool(short)
    for packed in (long, short):
        wanted = TorchEngine(spec, PoolingSpec(), arrays, attention=plain).pool(packed)
        assert_same(fresh.pool(packed), wanted)
    assert np.array_equal(fresh.pool(short), before)


@pytest.mark.parametrize("name", ["wide, ntk, gated", "roberta"])
def test_a_trunk_that_has_encoded_can_be_trained_and_in_bfloat16_too(name: str) -> None:
    """What inference caches (rotary tables) serves autograd; autocast mixes dtypes on the way."""
    spec, arrays = model(name)
    trunk = Trunk.from_arrays(spec, arrays)
    batch = DeviceBatch.from_packed(pack(texts(name)), spec)
    with torch.inference_mode():
        wanted = trunk(batch)
    trunk(batch).sum().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = trunk(batch)
        found.float().square().sum().backward()
    assert torch.nn.functional.cosine_similarity(found.float(), wanted, dim=-1).min() > 0.99
    for key, parameter in trunk.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


def test_a_copy_of_a_trunk_is_one_of_its_own() -> None:
    """What an average of weights needs."""
    from copy import deepcopy

    spec, arrays = model("wide, ntk, gated")
    trunk = Trunk.from_arrays(spec, arrays)
    batch = DeviceBatch.from_packed(pack(texts("wide, ntk, gated")), spec)
    wanted = trunk(batch).detach()
    other = deepcopy(trunk)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    torch.testing.assert_close(trunk(batch).detach(), wanted)
    assert (other(batch) - wanted).abs().max() > 0.01
