"""Who takes part: one row each. The functions here run in the system's own process and environment.

A loader makes, once, what a user of that library would keep; `encode(texts, size)` then turns texts into vectors, with
`size` texts a batch where the library has such an option.
"""

import gc
import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

Padded = Callable[[Sequence[int], Sequence[int], int], int]
"""Tokens of each text, characters of each text, texts of a batch -> tokens that are computed."""

TUNED = -1
"""A batch size that is chosen by trying a few."""


@dataclass(frozen=True)
class Setting:
    folder: Path
    threads: int
    device: str
    dtype: str


@dataclass(frozen=True)
class Loaded:
    encode: Callable[[list[str], int], Any]
    padded: Padded


@dataclass(frozen=True)
class System:
    environment: str
    entry: str
    """What a program imports first, "module:name"."""
    load: Callable[[Setting], Loaded]
    dtype: str = "float32"
    size: int | None = TUNED
    """Texts of a batch: a number, TUNED, or None for libraries that choose batches themselves."""
    form: str = "transformers"
    """Of the model's folder (models.py)."""
    architectures: tuple[str, ...] = ("bert", "new")
    devices: tuple[str, ...] = ("cpu",)
    longest: int = 1_000_000
    """Tokens of a text beyond which it takes no part: some graphs keep the scores of all pairs of tokens, several times
    over, which ends the process, or another one, for want of memory.
    """


def padded(lengths: Sequence[int], batches: Iterable[Sequence[int]]) -> int:
    """Tokens that are computed where each batch, of these texts, is filled up to its longest one."""
    return sum(len(batch) * max(lengths[at] for at in batch) for batch in batches if batch)


def padded_by_window(lengths: Sequence[int], characters: Sequence[int], size: int, batches: int = 8) -> int:
    """Batches of `size` texts, sorted by characters, longest first, within windows of so many batches."""
    windows = batched(range(len(lengths)), size * batches)
    ordered = (sorted(window, key=lambda at: -characters[at]) for window in windows)
    return padded(lengths, (batch for window in ordered for batch in batched(window, size)))


padded_in_order = partial(padded_by_window, batches=1)
padded_by_characters = partial(padded_by_window, batches=1_000_000)


def batched(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def gnomon(engine: str) -> Callable[[Setting], Loaded]:
    def load(setting: Setting) -> Loaded:
        from gnomon import Encoder
        from gnomon.batching import build_batches

        encoder = Encoder.load(
            setting.folder, device=setting.device, engine=engine, dtype=setting.dtype, threads=setting.threads
        )

        def computed(lengths: Sequence[int], characters: Sequence[int], size: int) -> int:
            if not encoder.engine.padding:
                return sum(lengths)
            groups = build_batches(lengths, encoder.engine.budget(sum(lengths)), encoder.engine.padding)
            return padded(lengths, groups)

        return Loaded(lambda texts, size: encoder.encode(texts, prompt="", on_truncate="silent"), computed)

    return load


def sentence_transformers(backend: str = "torch", **model_options: Any) -> Callable[[Setting], Loaded]:
    def load(setting: Setting) -> Loaded:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(setting.threads)
        options = dict(model_options)
        if backend == "torch" and setting.dtype != "float32":
            options["dtype"] = getattr(torch, setting.dtype)
        if backend == "onnx":
            import onnxruntime as ort

            options |= {"provider": "CPUExecutionProvider", "file_name": "onnx/model.onnx"}
            options["session_options"] = session = ort.SessionOptions()
            session.intra_op_num_threads, session.inter_op_num_threads = setting.threads, 1
        if backend == "openvino":
            options["ov_config"] = {"INFERENCE_NUM_THREADS": setting.threads, "PERFORMANCE_HINT": "LATENCY"}
            if setting.dtype == "float32":
                options["ov_config"]["INFERENCE_PRECISION_HINT"] = "f32"
        rest: dict[str, Any] = {} if backend == "torch" else {"backend": backend}
        model = SentenceTransformer(
            str(setting.folder), device=setting.device, local_files_only=True, model_kwargs=options, **rest
        )
        if "attn_implementation" in options and not model[0].unpad_inputs and not model[0]._can_flatten_inputs():
            raise RuntimeError("this sentence-transformers does not unpad here")
        computed: Padded = no_padding if "attn_implementation" in options else padded_by_characters
        return Loaded(lambda texts, size: model.encode(texts, batch_size=size, show_progress_bar=False), computed)

    return load


def no_padding(lengths: Sequence[int], characters: Sequence[int], size: int) -> int:
    return sum(lengths)


def fastembed(setting: Setting) -> Loaded:
    import numpy as np
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name = f"local/{setting.folder.name}"
    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.CLS if pools_first(setting.folder) else PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf=name),
        dim=json.loads((setting.folder / "config.json").read_text())["hidden_size"],
        model_file="onnx/model.onnx",
    )
    model = TextEmbedding(model_name=name, specific_model_path=str(setting.folder), threads=setting.threads)
    return Loaded(lambda texts, size: np.stack(list(model.embed(texts, batch_size=size))), padded_in_order)


def infinity(*, bettertransformer: bool) -> Callable[[Setting], Loaded]:
    """The batch size is an option of its engine, so another size opens another one."""

    def load(setting: Setting) -> Loaded:
        import numpy as np
        import torch
        from infinity_emb import EngineArgs, SyncEngineArray

        if bettertransformer:  # where it is missing, infinity goes on without it in silence
            importlib.import_module("optimum.bettertransformer")
        torch.set_num_threads(setting.threads)
        opened: dict[int, Any] = {}

        def reopen(size: int) -> None:
            while opened:
                opened.popitem()[1].stop()
            gc.collect()  # the stopped engine's model is in a circle of references
            options = EngineArgs(
                model_name_or_path=str(setting.folder),
                engine="torch",
                device=setting.device,
                dtype=setting.dtype,
                batch_size=size,
                bettertransformer=bettertransformer,
                compile=False,
                model_warmup=False,
                trust_remote_code=False,
                served_model_name="model",
            )
            opened[size] = SyncEngineArray.from_args([options])

        reopen(32)

        def encode(texts: list[str], size: int) -> Any:
            if size not in opened:
                reopen(size)
            return np.stack(opened[size].embed(model="model", sentences=texts).result()[0])

        # BetterTransformer removes the padding after the embeddings
        return Loaded(encode, no_padding if bettertransformer else padded_by_window)

    return load


def naive(setting: Setting) -> Loaded:
    """As model cards show it, with the folder's limit of tokens: batches in the order of the texts."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(setting.threads)
    kind = getattr(torch, setting.dtype)
    tokenizer = AutoTokenizer.from_pretrained(setting.folder)
    model = AutoModel.from_pretrained(setting.folder, dtype=kind).to(setting.device).eval()
    limit, first = limit_of(setting.folder), pools_first(setting.folder)

    def encode(texts: list[str], size: int) -> Any:
        found = []
        for start in range(0, len(texts), size):
            batch = tokenizer(
                texts[start : start + size], padding=True, truncation=True, max_length=limit, return_tensors="pt"
            ).to(setting.device)
            with torch.no_grad():
                states = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).to(kind)
            pooled = states[:, 0] if first else (states * mask).sum(1) / mask.sum(1)
            found.append(torch.nn.functional.normalize(pooled, dim=1))
        vectors = torch.cat(found).cpu()
        return (vectors if kind == torch.float64 else vectors.float()).numpy()

    return Loaded(encode, padded_in_order)


def limit_of(folder: Path) -> int:
    """Tokens that the model reads of a text."""
    return json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]


def pools_first(folder: Path) -> bool:
    """Whether the vector is that of the first token; the mean otherwise."""
    return json.loads((folder / "1_Pooling" / "config.json").read_text())["pooling_mode_cls_token"]


BOTH, BERT = ("cpu", "cuda"), ("bert",)
GNOMON, ST, INFINITY = "gnomon:Encoder", "sentence_transformers:SentenceTransformer", "infinity_emb:SyncEngineArray"

ours = partial(System, entry=GNOMON, size=None, form="published")
ours_onnx = partial(ours, "gnomon", load=gnomon("onnx"))
ours_torch = partial(ours, "gnomon-all", load=gnomon("torch"), devices=BOTH)
st = partial(System, "st", ST, sentence_transformers(), devices=BOTH)
st_openvino = partial(System, "st-openvino", ST, sentence_transformers("openvino"), form="openvino", architectures=BERT)
flash_attention = sentence_transformers(attn_implementation="flash_attention_2")
infinity_torch = partial(System, entry=INFINITY, form="published", architectures=BERT)

SYSTEMS: dict[str, System] = {
    "gnomon onnx": ours_onnx(),
    "gnomon openvino": ours("gnomon-all", load=gnomon("openvino")),
    "gnomon torch": ours_torch(),
    "gnomon torch bfloat16": ours_torch(dtype="bfloat16"),
    "gnomon onnx int8": ours_onnx(dtype="int8"),
    "sentence-transformers": st(size=32),
    "sentence-transformers tuned": st(),
    "sentence-transformers bfloat16 tuned": st(dtype="bfloat16"),
    "sentence-transformers bfloat16 FlashAttention": System(
        "st", ST, flash_attention, dtype="bfloat16", devices=("cuda",)
    ),
    "sentence-transformers onnx": System("st-onnx", ST, sentence_transformers("onnx"), form="onnx", architectures=BERT),
    "sentence-transformers openvino": st_openvino(),
    # what OpenVINO takes by itself on a processor that has it
    "sentence-transformers openvino default": st_openvino(dtype="bfloat16"),
    "fastembed": System("fastembed", "fastembed:TextEmbedding", fastembed, form="onnx", longest=2048),
    "infinity": infinity_torch("infinity", load=infinity(bettertransformer=False)),
    "infinity bettertransformer": infinity_torch("infinity-bt", load=infinity(bettertransformer=True)),
    "naive transformers": System("st", "transformers:AutoModel", naive, size=32, devices=BOTH),
}
"""Name -> how it is run. "tuned": at its best batch size of a few; those with one of their own keep it."""

DEFAULT = "sentence-transformers"
"""What all are compared with: as installed, nothing chosen."""


def systems_named(device: str, pattern: str = "") -> list[str]:
    """Systems of a device whose name holds the pattern."""
    return [name for name, row in SYSTEMS.items() if device in row.devices and re.search(pattern, name)]
