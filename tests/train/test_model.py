"""The module that is trained against the encoder that serves: one function, in float32, in and out.

B: texts; P: width of a pooled vector.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import E5, GIST, GTE, STELLA, assert_same
from reference_model import checkpoint as golden_checkpoint
from small_runs import BERT, WIDTH, bert, checkpoint, saved, static, texts

from gnomon import Encoder
from gnomon.checkpoint.folder import Checkpoint, read_folder
from gnomon.checkpoint.hub import resolve_source
from gnomon.checkpoint.save import save_folder
from gnomon.packed import Packed, pack
from gnomon.spec import PoolingSpec, TrunkSpec, model_shapes, trunk_shapes
from gnomon.tokenizer import Tokenizer
from gnomon.train.model import Model
from gnomon.train.objectives.chunking import Chunking, choose_chunking
from gnomon.train.recipe.schema import LoraSettings, Recipe

pytestmark = pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")

TEXTS = [
    "how do plants make food",
    "x",
    "A sundial tells the hour by a shadow; the gnomon casts it. " * 4,
    "naïve café, 42!",
]


def packed_of(base: Checkpoint, some: list[str]) -> Packed:
    tokenizer = Tokenizer(base.tokenizer, base.spec.tokenizer)
    return pack([tokenizer.truncate(ids_T) for ids_T in tokenizer.encode(some)])


def vectors(model: Model, packed: Packed) -> np.ndarray:
    with torch.no_grad():
        (found_BD,) = model.eval().apply_modules(model(packed)).values()
    return found_BD.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True])
def test_its_vectors_are_those_of_the_encoder(golden: Path, bf16: bool) -> None:
    encoder = Encoder.load(golden, device="cpu", threads=1)
    base = golden_checkpoint(golden.name)
    model = Model(base, bf16=bf16)
    pooled_BP = model.eval()(packed_of(base, TEXTS))
    assert pooled_BP.dtype == torch.float32
    assert pooled_BP.shape == (len(TEXTS), base.spec.pooled_dim)
    wanted = encoder.encode(TEXTS, on_truncate="silent", prompt_name=None)
    assert_same(vectors(model, packed_of(base, TEXTS)), wanted, 0.02 if bf16 else 1e-5)


def test_widths_with_heads_of_their_own(golden_folder: Callable[[str], Path]) -> None:
    encoder = Encoder.load(golden_folder(STELLA), device="cpu", threads=1)
    base = golden_checkpoint(STELLA)
    model = Model(base).eval()
    with torch.no_grad():
        found = model.apply_modules(model(packed_of(base, TEXTS)), (256, 1024))
    assert [*found] == [256, 1024]
    for dim, vectors_BD in found.items():
        wanted = encoder.encode(TEXTS, on_truncate="silent", dim=dim)
        assert_same(vectors_BD, wanted)


def test_the_prompt_is_left_out_of_the_pooling_where_the_model_says_so(tmp_path: Path) -> None:
    prompts = {"query": "where is the", "document": ""}
    spec = bert(pooling=PoolingSpec(("mean",), include_prompt=False), prompts=prompts)
    encoder = Encoder.load(saved(spec, tmp_path / "model"), device="cpu", threads=1)
    base, some = checkpoint(spec), [*texts()]
    model = Model(base).eval()
    count = Tokenizer(base.tokenizer, spec.tokenizer).count_prompt_tokens(prompts["query"])
    assert count > 1
    packed = packed_of(base, [prompts["query"] + " " + text for text in some])
    with torch.no_grad():
        (found,) = model.apply_modules(model(replace(packed, skip_B=np.full(len(some), count)))).values()
    wanted = encoder.encode([" " + text for text in some], prompt_name="query")
    assert_same(found, wanted)


@pytest.mark.parametrize("name", [GIST, GTE])
def test_one_token_of_a_text_has_the_gradient_of_the_whole(name: str, golden_folder: Callable[[str], Path]) -> None:
    """Where only that is pooled, the last layer computes no other."""

    def gradients(one_token: bool) -> dict[str, torch.Tensor]:
        model = Model(golden_checkpoint(name), dropout=0.0, attention_dropout=0.0).double()
        assert model.pooled_trunk.one_token
        model.pooled_trunk.one_token = one_token
        pooled_BP = model(packed_of(golden_checkpoint(name), TEXTS))
        (pooled_BP * torch.linspace(-1, 1, pooled_BP.numel()).view_as(pooled_BP)).sum().backward()
        return {key: each.grad for key, each in model.named_parameters() if each.grad is not None}

    fast, whole = gradients(True), gradients(False)
    assert fast.keys() == whole.keys()
    for key, gradient in whole.items():
        torch.testing.assert_close(fast[key], gradient, rtol=1e-8, atol=1e-10)


def test_its_arrays_are_those_of_the_checkpoint_and_copies(golden: Path) -> None:
    base = golden_checkpoint(golden.name)
    model = Model(base)
    found = model.export_arrays()
    assert found.keys() == model_shapes(base.spec).keys()
    for name, array in found.items():
        assert np.array_equal(array, base.arrays[name].astype(np.float32)), name
    before = {name: np.array(array) for name, array in base.arrays.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    for name in found:
        assert np.array_equal(base.arrays[name], before[name]), name
        assert np.array_equal(found[name], before[name].astype(np.float32)), "what was given changes no more"
        assert np.array_equal(model.export_arrays()[name], before[name].astype(np.float32) + 1), name


def test_what_was_trained_is_written_and_read_again(golden: Path, tmp_path: Path) -> None:
    base = golden_checkpoint(golden.name)
    model = Model(base)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    changed = model.to_checkpoint(readme=b"trained")
    assert changed.readme == b"trained"
    again = read_folder(resolve_source(save_folder(changed, tmp_path / "model")))
    assert_same(vectors(Model(again), packed_of(again, TEXTS)), vectors(model, packed_of(base, TEXTS)), 1e-6)
    assert base.readme != b"trained"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, (0.1, 0.2)),
        ({"dropout": 0.0}, (0.0, 0.2)),
        ({"attention_dropout": 0.0}, (0.1, 0.0)),
        ({"dropout": 0.3}, (0.3, 0.2)),
    ],
)
def test_dropout_is_that_of_the_config_unless_it_is_given(given: dict[str, float], wanted: tuple[float, float]) -> None:
    base = checkpoint(bert())
    config = base.config | {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2}
    model = Model(replace(base, config=config), **given)
    layers = [*model.trunk.layers]
    assert {(layer.out.dropout, layer.down.dropout, layer.attention_dropout) for layer in layers} == {
        (wanted[0], wanted[0], wanted[1])
    }
    assert model.trunk.embed.dropout == wanted[0]


def test_half_precision_on_disk_is_trained_in_float32() -> None:
    base = checkpoint(bert(wide=(8,)))
    half = replace(base, arrays={name: array.astype(np.float16) for name, array in base.arrays.items()})
    model = Model(half, bf16=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {array.dtype for array in model.export_arrays().values()} == {np.dtype(np.float32)}


def test_bf16_has_gradients_in_float32_near_the_exact_ones() -> None:
    def gradient(bf16: bool) -> torch.Tensor:
        base = checkpoint(bert())
        model = Model(base, bf16=bf16, dropout=0.0, attention_dropout=0.0)
        (vectors_BD,) = model.apply_modules(model(packed_of(base, [*texts()]))).values()
        (vectors_BD @ vectors_BD.T)[0].sum().backward()
        grads = [each.grad for each in model.parameters() if each.grad is not None]
        assert {grad.dtype for grad in grads} == {torch.float32}
        return torch.cat([grad.flatten() for grad in grads])

    exact, rounded = gradient(False), gradient(True)
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).norm() < 0.1 * exact.norm()


def test_low_rank_parts_are_merged_when_arrays_are_asked_for() -> None:
    base = checkpoint(bert(wide=(8,)))
    model = Model(base, lora=LoraSettings(r=2, targets=("query", "up")), dropout=0.0)
    assert model.export_arrays().keys() == model_shapes(base.spec).keys()
    learnt = {name for name, each in model.named_parameters() if each.requires_grad}
    adapted = [f"layers.{index}.{part}" for index in range(BERT.num_layers) for part in ("query", "up")]
    trunk = {f"trunk.{name}.lora_{ab}" for name in adapted for ab in "ab"}
    assert learnt == trunk | {"output_modules.dense.2_Dense_8.weight", "output_modules.dense.2_Dense_8.bias"}
    with torch.no_grad():
        for name in trunk:
            model.get_parameter(name).normal_(generator=torch.Generator().manual_seed(len(name)))
    merged = Model(model.to_checkpoint())
    packed = packed_of(base, [*texts()])
    assert_same(vectors(merged, packed), vectors(model, packed))
    changed = {
        name for name in trunk_shapes(BERT) if not np.array_equal(model.export_arrays()[name], base.arrays[name])
    }
    assert changed == {f"{name}.weight" for name in adapted}


# ---- static tables


@pytest.mark.parametrize("model2vec", [False, True])
def test_a_table_is_the_encoders(model2vec: bool, tmp_path: Path) -> None:
    """With unknown words, which model2vec leaves out; and texts of which nothing is left."""
    spec = static(model2vec=model2vec)
    encoder = Encoder.load(saved(spec, tmp_path / "model"))
    some = ["sundial tells noon", "zebra", "noon zebra noon yak", "light", ""]
    base = checkpoint(spec)
    found = vectors(Model(base), packed_of(base, some))
    assert_same(found, encoder.encode(some), 1e-6)
    assert found.shape == (5, WIDTH)
    assert bool(found[1].any()) is not model2vec


def test_a_tables_gradient_is_each_rows_share_of_the_mean() -> None:
    base = checkpoint(static(model2vec=True))
    model = Model(base)
    unknown = base.spec.trunk.unk_id
    model(pack([np.array([5, 5, 7]), np.array([unknown, 9]), np.array([unknown])])).sum().backward()
    grad = model.get_parameter("trunk.embed.tokens").grad
    wanted = torch.zeros(BERT.vocab_size, WIDTH)
    wanted[5], wanted[7], wanted[9] = 2 / 3, 1 / 3, 1
    torch.testing.assert_close(grad, wanted)


def test_e5_reads_its_sentencepiece_as_the_encoder_does(golden_folder: Callable[[str], Path]) -> None:
    base = golden_checkpoint(E5)
    encoder = Encoder.load(golden_folder(E5), device="cpu", threads=1)
    some = ["query: " + text for text in TEXTS]
    assert_same(vectors(Model(base), packed_of(base, some)), encoder.encode(some, on_truncate="silent"))


def test_a_batch_that_fits_passes_at_once_and_a_larger_one_in_small_chunks() -> None:
    spec, cpu = bert(), torch.device("cpu")
    assert isinstance(spec.trunk, TrunkSpec)
    recipe = Recipe(model="m", output="o", sources=())
    small = replace(spec, trunk=replace(spec.trunk, hidden_size=384, num_layers=3, num_heads=12))
    base = replace(spec, trunk=replace(spec.trunk, hidden_size=768, num_layers=12, num_heads=12))
    large = replace(spec, trunk=replace(spec.trunk, hidden_size=1024, num_layers=240))
    # 2 GiB of 22 float32 numbers for each token, unit and layer
    assert choose_chunking(recipe, small, cpu) == Chunking(one_pass_tokens=21_183, chunk_tokens=4096)
    assert choose_chunking(recipe, base, cpu) == Chunking(2647, 2647)
    assert choose_chunking(recipe, large, cpu) == Chunking(512, 512)
    assert choose_chunking(recipe, static(), cpu) == Chunking(65_536, 65_536)
    assert choose_chunking(replace(recipe, chunk_tokens=1000), small, cpu) == Chunking(1000, 1000)
    chunking = Chunking(one_pass_tokens=100, chunk_tokens=10)
    assert [chunking.chunk_tokens_for(tokens) for tokens in (1, 100, 101)] == [100, 100, 10]
