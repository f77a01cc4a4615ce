"""The slow references of reading and writing folders: sentence-transformers 6.2 and model2vec, both ways."""

# ruff: noqa: E402  what may be absent is looked for before it is imported

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from torch import nn

from gnomon import Encoder
from gnomon.checkpoint.modules_json import DIALECTS
from gnomon.checkpoint.weights import read_weights
from gnomon.spec import POOLING_MODES

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")]

GIST, GTE = "GIST-Embedding-v0", "gte-large-en-v1.5"
E5, STELLA, DISTILBERT = "multilingual-e5-small", "stella_en_400M_v5", "multi-qa-distilbert-cos-v1"
OPENED_BY_ST = (E5, GIST, DISTILBERT)  # the other two need code of the checkpoint there
TEXTS = [
    "how do plants make food",
    "",
    "   ",
    "A sundial tells the hour by a shadow; the gnomon casts it, and NOON is where it is shortest.",
    "naïve café, 東京 — 42! " * 30,
    "x",
]

TRUNKLESS: dict[str, list[Callable[[], nn.Module]]] = {
    **{mode: [lambda mode=mode: Pooling(64, mode)] for mode in POOLING_MODES},
    "three modes": [lambda: Pooling(64, ("max", "mean", "lasttoken"))],
    "modes in another order": [lambda: Pooling(64, ("mean", "cls"))],
    "normalize": [lambda: Pooling(64), Normalize],
    **{
        f"dense {kind.__name__}": [lambda: Pooling(64), lambda kind=kind: Dense(64, 24, activation_function=kind())]
        for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)
    },
    "dense without a bias": [lambda: Pooling(64), lambda: Dense(64, 80, bias=False)],
    "dense beside its input": [lambda: Pooling(64), lambda: Dense(64, 64, use_residual=True)],
    "dense beside its projected input": [lambda: Pooling(64), lambda: Dense(64, 24, use_residual=True)],
    "normalize dense normalize": [lambda: Pooling(64), Normalize, lambda: Dense(64, 24), Normalize],
    "two modes, two denses": [
        lambda: Pooling(64, ("cls", "mean")),
        lambda: Dense(128, 48),
        lambda: Dense(48, 32, activation_function=None),
        Normalize,
    ],
}
"""What follows the trunk, made anew for every model."""


def open_st(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small run faster without the threads of torch, which wait for those of ONNX Runtime."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trunk(golden_folder: Callable[[str], Path]) -> Transformer:
    return Transformer(str(golden_folder(GIST)))


@pytest.fixture(params=[STELLA, GTE, E5, GIST, DISTILBERT])
def golden(request: pytest.FixtureRequest, golden_folder: Callable[[str], Path]) -> Path:
    return golden_folder(request.param)


@pytest.fixture
def build(trunk: Transformer) -> Callable[..., SentenceTransformer]:
    """A sentence-transformers model of GIST's trunk and what follows it; weights are seeded."""

    def make(follows: list[Callable[[], nn.Module]], **options: Any) -> SentenceTransformer:
        torch.manual_seed(0)
        return SentenceTransformer(modules=[trunk, *(module() for module in follows)], device="cpu", **options)

    return make


# ---- sentence-transformers


@pytest.mark.parametrize("name", OPENED_BY_ST)
def test_a_published_layout_as_sentence_transformers(
    name: str, golden_folder: Callable[[str], Path], tmp_path: Path, assert_near: Callable
) -> None:
    folder = golden_folder(name)
    texts = json.loads((folder / "texts.json").read_text("utf-8"))["texts"] + TEXTS
    theirs, ours = open_st(folder), Encoder.load(folder)
    expected = theirs.encode(texts)
    assert_near(ours.encode(texts, prompt="", on_truncate="silent"), expected)
    theirs.save(str(tmp_path / "theirs"))
    assert_near(Encoder.load(tmp_path / "theirs").encode(texts, on_truncate="silent"), expected)
    for dialect in DIALECTS:
        assert_near(open_st(ours.save(tmp_path / dialect, dialect=dialect)).encode(texts), expected)


@pytest.mark.parametrize("follows", TRUNKLESS.values(), ids=TRUNKLESS.keys())
def test_what_sentence_transformers_saves_opens_here_and_back(
    follows: list[Callable[[], nn.Module]],
    build: Callable[..., SentenceTransformer],
    tmp_path: Path,
    assert_near: Callable,
) -> None:
    theirs = build(follows)
    expected = theirs.encode(TEXTS)
    theirs.save(str(tmp_path / "theirs"))
    ours = Encoder.load(tmp_path / "theirs")
    assert ours.spec.dim == expected.shape[1]
    assert_near(ours.encode(TEXTS, on_truncate="silent"), expected)
    for dialect in DIALECTS:
        folder = ours.save(tmp_path / dialect, dialect=dialect)
        again = Encoder.load(folder)
        assert again.fingerprint == ours.fingerprint
        np.testing.assert_array_equal(
            again.encode(TEXTS, on_truncate="silent"), ours.encode(TEXTS, on_truncate="silent")
        )
        assert_near(open_st(folder).encode(TEXTS), expected)


@pytest.mark.parametrize("modes", [*((mode,) for mode in POOLING_MODES), POOLING_MODES], ids=" ".join)
def test_a_prompt_that_is_not_pooled(
    modes: tuple[str, ...], build: Callable[..., SentenceTransformer], tmp_path: Path, assert_near: Callable
) -> None:
    prompts = {"ask": "Ask, of a sundial: ", "query": "q ", "document": "d: "}
    theirs = build([lambda: Pooling(64, modes, include_prompt=False)], prompts=prompts)
    theirs.save(str(tmp_path / "theirs"))
    ours = Encoder.load(tmp_path / "theirs")
    assert dict(ours.prompts) == prompts
    for name in prompts:
        expected = theirs.encode(TEXTS, prompt_name=name)
        assert_near(ours.encode(TEXTS, prompt_name=name, on_truncate="silent"), expected)
    assert_near(ours.encode(TEXTS, prompt="", on_truncate="silent"), theirs.encode(TEXTS, prompt=""))
    assert_near(
        open_st(ours.save(tmp_path / "ours")).encode(TEXTS, prompt_name="ask"), theirs.encode(TEXTS, prompt_name="ask")
    )


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({"query": "ask: ", "document": "tell: "}, None),
        ({"query": "ask: ", "document": ""}, "query"),
        ({"query": "ask: "}, "query"),
        ({"classify": "Classify: "}, "classify"),
        ({"query": "", "document": "tell: "}, "document"),
        ({"query": "ask: ", "document": ""}, "document"),
        (None, None),
    ],
)
def test_prompts_of_queries_documents_and_neither(
    prompts: dict[str, str] | None,
    default: str | None,
    build: Callable[..., SentenceTransformer],
    tmp_path: Path,
    assert_near: Callable,
) -> None:
    theirs = build([lambda: Pooling(64)], prompts=prompts, default_prompt_name=default)
    theirs.save(str(tmp_path / "theirs"))
    ours = Encoder.load(tmp_path / "theirs")
    for way in ("encode", "encode_query", "encode_document"):
        assert_near(getattr(ours, way)("sundial"), getattr(theirs, way)("sundial"))


@pytest.mark.parametrize("normalizes", [False, True])
def test_truncate_dim(
    normalizes: bool, build: Callable[..., SentenceTransformer], tmp_path: Path, assert_near: Callable
) -> None:
    """As there, but a model that normalises gives unit vectors here at every width."""
    theirs = build([lambda: Pooling(64), *([Normalize] if normalizes else [])], truncate_dim=16)
    expected = theirs.encode(TEXTS, normalize_embeddings=normalizes)
    theirs.save(str(tmp_path / "theirs"))
    ours = Encoder.load(tmp_path / "theirs")
    assert (ours.spec.dim, ours.spec.truncate_dim) == (16, 16)
    assert_near(ours.encode(TEXTS, on_truncate="silent"), expected)
    wanted_8 = theirs.encode(TEXTS, truncate_dim=8, normalize_embeddings=normalizes)
    assert_near(ours.encode(TEXTS, truncate_dim=8, on_truncate="silent"), wanted_8)
    saved = ours.save(tmp_path / "ours")
    assert_near(open_st(saved).encode(TEXTS, normalize_embeddings=normalizes), expected)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity(
    name: str, build: Callable[..., SentenceTransformer], tmp_path: Path, assert_near: Callable
) -> None:
    theirs = build([lambda: Pooling(64)], similarity_fn_name=name)
    theirs.save(str(tmp_path / "theirs"))
    ours = Encoder.load(tmp_path / "theirs")
    vectors_BD = theirs.encode(TEXTS)
    wanted_BB = theirs.similarity(vectors_BD, vectors_BD[:4]).numpy()
    assert np.ptp(wanted_BB) > 0.01
    np.testing.assert_allclose(
        ours.similarity(vectors_BD, vectors_BD[:4]), wanted_BB, rtol=1e-5, atol=2e-3 * (name == "euclidean")
    )
    again = open_st(ours.save(tmp_path / "ours"))
    assert again.similarity_fn_name == name


# ---- saves


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_save_is_the_same_bytes_every_time_and_keeps_the_fingerprint(
    golden: Path, dialect: str, tmp_path: Path
) -> None:
    source = shutil.copytree(golden, tmp_path / "from" / golden.name)
    (source / "README.md").write_text("---\nlicense: mit\n---\n# A model\n\nnaïve\n", encoding="utf-8")
    encoder = Encoder.load(source)
    first = encoder.save(tmp_path / "first", dialect=dialect)
    assert files_of(Encoder.load(source).save(tmp_path / "second", dialect=dialect)) == files_of(first)
    again = Encoder.load(first)
    assert files_of(again.save(tmp_path / "third", dialect=dialect)) == files_of(first)
    np.testing.assert_array_equal(
        again.encode(TEXTS, prompt="", on_truncate="silent"), encoder.encode(TEXTS, prompt="", on_truncate="silent")
    )
    assert again.spec == encoder.spec
    assert again.fingerprint == encoder.fingerprint


def test_a_save_keeps_the_readme_as_it_is(golden_copy: Callable[..., Path], tmp_path: Path) -> None:
    folder, text = golden_copy(GIST), "---\r\nlicense: mit\r\n---\r\nnaïve".encode("latin-1")
    (folder / "README.md").write_bytes(text)
    assert (Encoder.load(folder).save(tmp_path / "saved") / "README.md").read_bytes() == text


def test_a_save_holds_the_tensors_of_the_original(golden: Path, tmp_path: Path) -> None:
    saved = load_file(Encoder.load(golden).save(tmp_path / "saved") / "model.safetensors")
    original = {name.removeprefix("new."): np.array(array) for name, array in read_weights(golden).items()}
    original.pop("embeddings.position_ids", None)
    assert saved.keys() == original.keys()
    for name, array in original.items():
        assert (saved[name].dtype, saved[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(saved[name], array, err_msg=name)


def test_a_save_holds_every_head_and_the_prompts_by_task(golden_folder: Callable[[str], Path], tmp_path: Path) -> None:
    original = golden_folder(STELLA)
    encoder = Encoder.load(original)
    saved = encoder.save(tmp_path / "under-another-name")
    for dim in (256, 512, 1024):
        head = read_weights(original / f"2_Dense_{dim}")
        kept = load_file(saved / f"2_Dense_{dim}" / "model.safetensors")
        assert kept.keys() == head.keys() == {"linear.weight", "linear.bias"}
        for name in kept:
            np.testing.assert_array_equal(kept[name], head[name])
    again = Encoder.load(saved)
    for dim, vectors_BD in encoder.encode_dims(TEXTS, prompt="", on_truncate="silent").items():
        np.testing.assert_array_equal(again.encode(TEXTS, dim=dim, prompt="", on_truncate="silent"), vectors_BD)
    np.testing.assert_array_equal(again.encode_query("sundial"), encoder.encode_query("sundial"))
    np.testing.assert_array_equal(
        again.encode_query("sundial", task="sts"), encoder.encode_query("sundial", task="sts")
    )


def test_the_form_of_the_weights_does_not_matter(golden_copy: Callable[..., Path]) -> None:
    folder = golden_copy(DISTILBERT)
    pickled = Encoder.load(folder)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    (folder / "pytorch_model.bin").unlink()
    save_torch({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    mapped = Encoder.load(folder)
    assert mapped.fingerprint == pickled.fingerprint
    np.testing.assert_array_equal(
        mapped.encode(TEXTS, on_truncate="silent"), pickled.encode(TEXTS, on_truncate="silent")
    )
    bias = next(name for name in state if name.endswith("embeddings.LayerNorm.bias"))
    state[bias] = state[bias] + 1e-3
    save_torch({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    assert Encoder.load(folder).fingerprint != pickled.fingerprint


@pytest.mark.parametrize(("dtype", "limit"), [("float16", 2e-2), ("bfloat16", 1e-1)])
@pytest.mark.parametrize("name", [GIST, GTE, STELLA])
def test_a_checkpoint_in_half_precision(
    name: str, dtype: str, limit: float, golden_copy: Callable[..., Path], assert_near: Callable, tmp_path: Path
) -> None:
    """Its vectors are those of the same values in float32, and near those of the values before rounding."""
    folder, rounded = golden_copy(name), golden_copy(name, "rounded")
    full = Encoder.load(folder)
    halves = {
        tensor: value.to(getattr(torch, dtype)) if value.is_floating_point() else value
        for tensor, value in load_torch(folder / "model.safetensors").items()
    }
    save_torch(halves, folder / "model.safetensors")
    wide = {tensor: value.float() if value.is_floating_point() else value for tensor, value in halves.items()}
    save_torch(wide, rounded / "model.safetensors")
    half, reference = Encoder.load(folder), Encoder.load(rounded)
    result = half.encode(TEXTS, prompt="", on_truncate="silent")
    assert_near(result, reference.encode(TEXTS, prompt="", on_truncate="silent"))
    assert_near(result, full.encode(TEXTS, prompt="", on_truncate="silent"), limit)
    again = Encoder.load(half.save(tmp_path / "saved" / name))
    assert again.fingerprint == half.fingerprint != full.fingerprint
    torch.save(halves, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert Encoder.load(folder).fingerprint == half.fingerprint


# ---- tables of vectors

WORDS = ["[PAD]", "[UNK]", "a", "sundial", "tells", "the", "hour", "by", "shadow", "gnomon", ".", ",", "noon", "##s"]
STATIC_TEXTS = ["a sundial tells the hour by a shadow .", "gnomons , the gnomon", "", "noon", "a by . , " * 400]
UNKNOWN_TEXTS = ["zebra", "the zebra tells a yak", "yak yak the yak"]


def words_tokenizer(kind: str = "wordpiece") -> Tokenizer:
    vocab = {word: i for i, word in enumerate(WORDS)}
    built: Mapping[str, Callable[[], Any]] = {
        "wordpiece": lambda: models.WordPiece(vocab, unk_token="[UNK]"),
        "wordlevel": lambda: models.WordLevel(vocab, unk_token="[UNK]"),
        "unigram": lambda: models.Unigram([(word, -float(i)) for i, word in enumerate(WORDS)], unk_id=1),
    }
    tokenizer = Tokenizer(built[kind]())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def table(rows: int = len(WORDS), dtype: Any = np.float32) -> np.ndarray:
    return (np.random.default_rng(3).normal(size=(rows, 12)) * (50 if dtype == np.int8 else 1)).astype(dtype)


@pytest.mark.parametrize(
    "follows",
    [[], [Normalize], [lambda: Dense(12, 8), Normalize]],
    ids=["alone", "normalize", "dense normalize"],
)
def test_static_embedding(follows: list[Callable[[], nn.Module]], tmp_path: Path, assert_near: Callable) -> None:
    torch.manual_seed(0)
    tokenizer = words_tokenizer()
    tokenizer.enable_padding(pad_id=0, length=40)
    chain = [StaticEmbedding(tokenizer, embedding_weights=table()), *(module() for module in follows)]
    theirs = SentenceTransformer(modules=chain, device="cpu")
    texts = STATIC_TEXTS + UNKNOWN_TEXTS
    expected = theirs.encode(texts)
    theirs.save(str(tmp_path / "theirs"))
    ours = Encoder.load(tmp_path / "theirs")
    assert ours.max_seq_length is None
    assert_near(ours.encode(texts), expected)
    if len(follows) < 2:
        assert not ours.encode("").any()
    for dialect in DIALECTS:
        folder = ours.save(tmp_path / dialect, dialect=dialect)
        again = Encoder.load(folder)
        assert again.fingerprint == ours.fingerprint
        assert files_of(again.save(tmp_path / f"{dialect} again", dialect=dialect)) == files_of(folder)
        assert_near(open_st(folder).encode(texts), expected)


def test_static_embedding_reads_as_far_as_its_tokenizer_says(tmp_path: Path, assert_near: Callable) -> None:
    """StaticEmbedding has no other length, and those made from model2vec come with one: 512."""
    tokenizer = words_tokenizer()
    tokenizer.enable_truncation(6)
    theirs = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=table())], device="cpu")
    expected = theirs.encode(STATIC_TEXTS)
    theirs.save(str(tmp_path / "theirs"))
    ours = Encoder.load(tmp_path / "theirs")
    assert_near(ours.encode(STATIC_TEXTS, on_truncate="silent"), expected)
    assert_near(open_st(ours.save(tmp_path / "ours")).encode(STATIC_TEXTS), expected)


MODEL2VEC: dict[str, dict[str, Any]] = {
    "plain": {},
    "normalized": {"normalize": True},
    "short": {"max_length": 8},
    "endless": {"max_length": None},
    "int8": {"vectors": table(dtype=np.int8)},
    "weighted": {"weights": np.linspace(0.1, 2, len(WORDS))},
    "quantized vocabulary": {
        "vectors": table(5),
        "token_mapping": np.arange(len(WORDS)) % 5,
        "weights": np.linspace(0.1, 2, len(WORDS)),
        "normalize": True,
    },
}


@pytest.mark.parametrize("options", MODEL2VEC.values(), ids=MODEL2VEC.keys())
@pytest.mark.parametrize("kind", ["wordpiece", "wordlevel", "unigram"])
@pytest.mark.parametrize("layout", ["modules.json", "no modules.json", "no model_type"])
def test_model2vec(layout: str, kind: str, options: dict[str, Any], tmp_path: Path, assert_near: Callable) -> None:
    model2vec = pytest.importorskip("model2vec")
    theirs = model2vec.StaticModel(**({"vectors": table(), "tokenizer": words_tokenizer(kind)} | options))
    if layout != "no model_type":
        theirs.config["model_type"] = "model2vec"  # as distilled ones have; made from a table, a model has none
    theirs.median_token_length = 10**6  # there, texts are cut to max_length times it in characters first; not here
    texts = STATIC_TEXTS + UNKNOWN_TEXTS
    expected = theirs.encode(texts)
    theirs.save_pretrained(tmp_path / "theirs")
    if layout == "no modules.json":
        (tmp_path / "theirs" / "modules.json").unlink()
    ours = Encoder.load(tmp_path / "theirs")
    assert ours.max_seq_length == options.get("max_length", 512)
    assert_near(ours.encode(texts, on_truncate="silent"), expected)
    folder = ours.save(tmp_path / "ours")
    again = Encoder.load(folder)
    assert again.fingerprint == ours.fingerprint
    assert files_of(again.save(tmp_path / "again")) == files_of(folder)
    back = model2vec.StaticModel.from_pretrained(folder)
    back.median_token_length = 10**6
    assert_near(back.encode(texts), expected)
    if options.get("max_length", 512) == 512 and theirs.embedding.dtype != np.int8:
        known = [0, 2, 3]  # sentence-transformers counts unknown tokens, and cannot open int8
        assert_near(open_st(folder).encode([texts[i] for i in known]), expected[known])
