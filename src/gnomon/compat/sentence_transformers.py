"""`SentenceTransformer`: the class of sentence-transformers, run by an `Encoder`.

BERTopic, KeyBERT and others look at the type of a model: first for "sentence_transformers" in its name, and so this
module is called like that; then by `isinstance`, and so `__class__` answers as the class of that package where it is
imported.

B: texts; D: dimensions of a vector; T: tokens of a text; H: hidden size of the trunk.
"""

from __future__ import annotations

import copy
import inspect
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from gnomon.checkpoint.modules_json import read_json
from gnomon.checkpoint.save import save_folder
from gnomon.compat.arguments import read_device, read_dtype, read_load_options
from gnomon.compat.outputs import (
    OutputBuilder,
    as_list,
    check_precision,
    is_singular_input,
    open_tokenizer,
    read_max_length,
)
from gnomon.compat.pool import MultiProcessPool, check_pool
from gnomon.compat.similarity import SimilarityFunction, score_all, score_pairs
from gnomon.compat.tensors import Tensor
from gnomon.compat.tokenizer import Batch, CompatTokenizer
from gnomon.compat.util import Precision, quantize_embeddings
from gnomon.encode_options import EncodeOptions
from gnomon.encoder import Encoder
from gnomon.engines.select import has_torch
from gnomon.errors import InputError
from gnomon.messages import check_choice
from gnomon.spec import SimilarityName

OutputValue = Literal["sentence_embedding", "token_embeddings"]

CACHE_VARIABLE = "SENTENCE_TRANSFORMERS_HOME"
"""Names the folder of downloaded models where `cache_folder` is not given, as in sentence-transformers."""

_logger = logging.getLogger(__name__)

_TORCH_MEMBERS = {
    **dict.fromkeys(
        (
            *("parameters", "named_parameters", "modules", "children", "state_dict", "load_state_dict", "forward"),
            *("compile", "register_forward_hook", "zero_grad", "requires_grad_", "gradient_checkpointing_enable"),
            *("transformers_model", "auto_model", "add_module", "config", "processor", "named_modules", "apply"),
            *("double", "share_memory", "get_parameter", "num_parameters"),
        ),
        "It is part of a torch module, and this class is not one. Use sentence_transformers for it; folders that "
        "gnomon saves open there.",
    ),
    "set_pooling_include_prompt": 'Set "include_prompt" in 1_Pooling/config.json of the folder, and load it again.',
    **dict.fromkeys(
        ("fit", "old_fit", "smart_batching_collate"), "`gnomon train` trains models: see the guide on training."
    ),
    **dict.fromkeys(
        ("push_to_hub", "save_to_hub"),
        "Save the model, then upload the folder: huggingface_hub.upload_folder(repo_id=..., folder_path=...).",
    ),
    **dict.fromkeys(
        ("add_adapter", "load_adapter", "set_adapter"),
        "Merge the adapter into its model (peft: merge_and_unload), save it, and load the folder.",
    ),
}
"""Attribute of sentence-transformers' class that is not here -> what to do."""


class ModelCardData:
    """What evaluators of sentence-transformers report their scores to. gnomon writes no such card."""

    model_name: str | None = None
    base_model: str | None = None

    def set_evaluation_metrics(self, *args: Any, **kwargs: Any) -> None:
        return


class SentenceTransformer:
    """A model with the methods, arguments and results of sentence-transformers' class of this name.

    Vectors are those of sentence-transformers to 1e-5. A model's prompts are those of its folder. Texts are batched by
    their tokens, so `batch_size` is accepted and changes nothing.

    Args:
        model_name_or_path: a folder, a hub id, or "package:NAME".
        device: "cpu", "cuda", "cuda:1" or a torch.device; None for a GPU if there is one.
        prompts: prompts by name; they come before those of the folder.
        default_prompt_name: the prompt of `encode` where none is given.
        cache_folder: the folder of downloads, as in huggingface_hub.
        revision: branch, tag or commit of a hub id.
        local_files_only: make no request.
        token: for the hub, as in huggingface_hub.
        trust_remote_code: accepted. No code of a checkpoint is run; the architectures that need it are built in.
        model_kwargs: `dtype` or `torch_dtype`, `device_map` to one device, and keys that change no vector.
        processor_kwargs: `model_max_length`, and keys that change no vector. Its older name is tokenizer_kwargs.
        config_kwargs: keys that change no vector.
        backend: "torch", "onnx" or "openvino"; None for the fastest on the device.
        similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan"; None for the model's own.
        truncate_dim: dimensions to which vectors are truncated.

    Raises:
        InputError: an argument that cannot be honoured; says what to do. Otherwise as `Encoder.load`.
    """

    SUPPORTED_SIMILARITY_FN_NAMES = ("cosine", "dot", "euclidean", "manhattan")

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        modules: Sequence[Any] | None = None,
        device: Any = None,
        prompts: Mapping[str, str | None] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        use_auth_token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: Any = None,
        backend: Literal["torch", "onnx", "openvino"] | None = None,
        similarity_fn_name: SimilarityName | SimilarityFunction | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        token = _choose_token(token, use_auth_token)
        if modules is None and model_name_or_path is None:
            raise InputError("model_name_or_path is missing. Give a folder, a hub id, or package:NAME.")
        if modules is not None or model_name_or_path is None:
            raise InputError(
                "modules are torch modules, and gnomon reads models from folders. Build the model with "
                "sentence_transformers, save it, and give the folder as model_name_or_path."
            )
        if model_card_data is not None:
            raise InputError("model_card_data is for a card that gnomon does not write. Leave it out.")
        if tokenizer_kwargs is not None and processor_kwargs is not None:
            raise InputError("tokenizer_kwargs is the older name of processor_kwargs. Give one of them.")
        options = read_load_options(
            device=device,
            backend=backend,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs if tokenizer_kwargs is None else tokenizer_kwargs,
            config_kwargs=config_kwargs,
        )
        source = model_name_or_path
        # made absolute: a device may be chosen after the current folder has changed
        self._source = os.path.abspath(source) if os.path.isdir(source) else source  # noqa: PTH100, PTH112
        self.model_card_data = ModelCardData()
        self._load_options: dict[str, Any] = {
            "cache_dir": cache_folder or os.environ.get(CACHE_VARIABLE),
            "revision": revision,
            "local_files_only": local_files_only,
            "token": token,
        } | options
        self._encoder = Encoder.load(self._source, **self._load_options)
        saved_prompts, saved_default = _read_saved_prompts(self._encoder.checkpoint.source.folder)
        own = {name: text for name, text in (prompts or {}).items() if text is not None}
        self._prompts = _check_prompts({"query": "", "document": ""} | saved_prompts | own)
        self.default_prompt_name = default_prompt_name or saved_default
        if self.default_prompt_name is not None and self.default_prompt_name not in self._prompts:
            raise InputError(
                f"Default prompt name {self.default_prompt_name!r} not found in the configured prompts dictionary with "
                f"keys {list(self._prompts)!r}."
            )
        self.truncate_dim = truncate_dim if truncate_dim is not None else self._encoder.spec.truncate_dim
        self._similarity_fn_name: SimilarityName = self._encoder.spec.similarity
        if similarity_fn_name is not None:
            self.similarity_fn_name = similarity_fn_name

    # ---- encoding

    def encode(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: OutputValue | None = "sentence_embedding",
        precision: Precision | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: MultiProcessPool | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Vectors of texts: an array [B, D]; [D] for one text.

        Args:
            inputs: a text, or a list, array or column of texts. Its older name is `sentences`.
            prompt_name: one of `prompts`; ignored where `prompt` is given.
            prompt: put before every text.
            batch_size: accepted; texts are batched by their tokens.
            show_progress_bar: True, False, or None for work of over two seconds in a terminal.
            output_value: "token_embeddings" for a list of states [T, H] of each text; None for a list of dicts with
                both, the ids and the mask.
            precision: "int8" and "uint8" take their ranges from these vectors; "binary" and "ubinary" pack signs.
            convert_to_numpy: False for a list of tensors (of arrays without torch).
            convert_to_tensor: True for one tensor.
            device: another device to move the model to; a list of devices encodes in as many processes.
            normalize_embeddings: True for unit length.
            truncate_dim: dimensions of the vectors; None for `truncate_dim` of the model.
            pool: from `start_multi_process_pool`.
            chunk_size: accepted; work is split by tokens.
            kwargs: `task` is accepted; `processing_kwargs` may set max_length for texts.

        Raises:
            InputError: an argument that cannot be honoured; a text that is not a str. ExtraError: a tensor, and torch
                is not installed.
        """
        inputs = self._take_inputs(inputs, kwargs)
        max_length = read_max_length(kwargs)
        if batch_size <= 0:
            raise InputError(f"batch_size must be a positive integer, got {batch_size}.")
        if output_value not in ("sentence_embedding", "token_embeddings", None):
            raise InputError(f"output_value {output_value!r} is not sentence_embedding, token_embeddings or None.")
        if chunk_size is not None and chunk_size <= 0:
            raise InputError(f"chunk_size must be a positive integer, got {chunk_size}.")
        if precision is not None:
            check_precision(precision)
        if precision not in (None, "float32") and output_value != "sentence_embedding":
            raise InputError(f"precision {precision!r} is for vectors of texts. Leave output_value out.")
        texts = as_list(inputs)
        options = EncodeOptions(prompt=self._resolve_prompt(prompt, prompt_name) or "")
        dim = truncate_dim if truncate_dim is not None else self.truncate_dim
        with self._open_encoder(device, pool) as encoder:
            tensor_device = self._tensor_device if encoder is self._encoder else None
            if max_length is not None:
                encoder = encoder.with_max_seq_length(max_length)
            builder = OutputBuilder(encoder, options, dim, normalize_embeddings, show_progress_bar, tensor_device)
            if output_value == "token_embeddings":
                results: Any = builder.encode_tokens(texts)
            elif output_value is None:
                results = builder.encode_features(texts)
            else:
                vectors = builder.encode(texts)
                if len(texts) and precision not in (None, "float32"):
                    vectors = quantize_embeddings(vectors, precision)
                results = builder.convert(vectors, to_numpy=convert_to_numpy, to_one_tensor=convert_to_tensor)
        return results[0] if self.is_singular_input(inputs) else results

    def encode_query(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As `encode`, with the prompt called "query" if there is one."""
        kwargs |= _name_arguments(args)
        inputs = self._take_inputs(inputs, kwargs)
        if prompt_name is None and prompt is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(inputs=inputs, prompt_name=prompt_name, prompt=prompt, task="query", **kwargs)

    def encode_document(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As `encode`, with the prompt called "document", "passage" or "corpus", the first that there is."""
        kwargs |= _name_arguments(args)
        inputs = self._take_inputs(inputs, kwargs)
        if prompt_name is None and prompt is None:
            prompt_name = next((name for name in ("document", "passage", "corpus") if name in self.prompts), None)
        return self.encode(inputs=inputs, prompt_name=prompt_name, prompt=prompt, task="document", **kwargs)

    def encode_multi_process(
        self,
        sentences: list[str],
        pool: MultiProcessPool,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        chunk_size: int | None = None,
        show_progress_bar: bool | None = None,
        precision: Precision = "float32",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> Any:
        """As `encode(sentences, pool=pool)`, which newer scripts call."""
        return self.encode(
            sentences,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            precision=precision,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            pool=pool,
            chunk_size=chunk_size,
        )

    def start_multi_process_pool(self, target_devices: Sequence[Any] | None = None) -> MultiProcessPool:
        """Start a worker process on each device; by default on all GPUs, or four on the CPU."""
        if isinstance(target_devices, str):
            target_devices = [target_devices]
        return MultiProcessPool(self._load(device=[*map(read_device, target_devices or _default_devices())]))

    @staticmethod
    def stop_multi_process_pool(pool: MultiProcessPool) -> None:
        """End the worker processes of a pool."""
        check_pool(pool).encoder.close()

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> Batch:
        """What the model reads of texts: input_ids, attention_mask and, where it has them, token_type_ids, [B, T].

        `kwargs` as in `encode`.
        """
        max_length = read_max_length(kwargs, "preprocess")
        encoder = self._encoder if max_length is None else self._encoder.with_max_seq_length(max_length)
        return open_tokenizer(encoder).features([(prompt or "") + text for text in as_list(inputs)])

    def tokenize(self, texts: Any, **kwargs: Any) -> Batch:
        """The older name of `preprocess`."""
        return self.preprocess(texts, **kwargs)

    @staticmethod
    def is_singular_input(inputs: Any) -> bool:
        """Whether `inputs` is one text, rather than several."""
        return is_singular_input(inputs)

    # ---- scores

    @property
    def similarity_fn_name(self) -> SimilarityName:
        """The score function of `similarity`: "cosine", "dot", "euclidean" or "manhattan". It can be set."""
        return self._similarity_fn_name

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: SimilarityName | SimilarityFunction | None) -> None:
        name: Any = getattr(value, "value", value) or "cosine"  # also the enum of sentence-transformers itself
        check_choice(name, "similarity_fn_name", SimilarityFunction.possible_values())
        self._similarity_fn_name = name

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Scores [B, C] of all pairs of vectors, by `similarity_fn_name`."""
        return score_all(self.similarity_fn_name, embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Scores [B] of vector i with vector i, by `similarity_fn_name`."""
        return score_pairs(self.similarity_fn_name, embeddings1, embeddings2)

    def evaluate(self, evaluator: Any, output_path: str | None = None) -> Any:
        """What an evaluator of sentence-transformers returns for this model."""
        if output_path is not None:
            Path(output_path).mkdir(parents=True, exist_ok=True)
        return evaluator(self, output_path)

    # ---- settings

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts by name. They can be set, and changed in place."""
        return self._prompts

    @prompts.setter
    def prompts(self, value: Mapping[str, str | None] | None) -> None:
        self._prompts = _check_prompts({name: text or "" for name, text in (value or {}).items()})

    @property
    def max_seq_length(self) -> int | None:
        """Tokens that are read of a text; None for no limit. It can be set."""
        return self._encoder.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self._encoder = self._encoder.with_max_seq_length(value)
        self._load_options["max_seq_length"] = value

    def get_max_seq_length(self) -> int | None:
        """As the property `max_seq_length`."""
        return self.max_seq_length

    def get_embedding_dimension(self) -> int:
        """Dimensions of the vectors that `encode` gives."""
        full_dim = self._encoder.spec.full_dim
        return full_dim if self.truncate_dim is None else min(full_dim, self.truncate_dim)

    get_sentence_embedding_dimension = get_embedding_dimension

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Generator[None]:
        """Within this context, `encode` gives vectors of `truncate_dim` dimensions."""
        before, self.truncate_dim = self.truncate_dim, truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    truncate_sentence_embeddings = truncate_embeddings

    @property
    def tokenizer(self) -> CompatTokenizer:
        """The model's tokenizer, with the methods of transformers' that scripts call."""
        return open_tokenizer(self._encoder)

    @property
    def modalities(self) -> list[str]:
        """What the model encodes: texts alone."""
        return ["text"]

    def supports(self, modality: Any) -> bool:
        """Whether the model encodes a modality: "text" alone."""
        return modality == "text"

    def get_model_kwargs(self) -> list[str]:
        """Further arguments of `encode`: none."""
        return []

    def get_backend(self) -> str:
        """The engine: "torch", "onnx" or "openvino"; "static" for a table."""
        name = self._encoder.engine.name
        return next((backend for backend in ("openvino", "torch", "onnx") if backend in name), "static")

    # ---- device and type

    @property
    def device(self) -> Any:
        """A torch.device if torch is installed, else its name."""
        name = self._encoder.device.split(",")[0]
        if not has_torch():
            return name
        import torch

        return torch.device(name)

    @property
    def dtype(self) -> Any:
        """The type that the model computes in: a torch.dtype if torch is installed, else its name."""
        if not has_torch():
            return self._encoder.dtype
        import torch

        return getattr(torch, self._encoder.dtype)

    def to(self, *args: Any, device: Any = None, dtype: Any = None, non_blocking: bool = False) -> SentenceTransformer:
        """Move the model to a device, or to a type to compute in: `to("cuda")`, `to(torch.float16)`."""
        for value in args:
            if type(value).__name__ == "dtype" or value in ("float32", "float16", "bfloat16"):
                dtype = value
            else:
                device = value
        options: dict[str, Any] = {}
        if device is not None and not self._is_on(read_device(device)):
            options["device"] = read_device(device)
        if dtype is not None and read_dtype(dtype) != self._encoder.dtype:
            options["dtype"] = read_dtype(dtype)
        if options:
            # not closed: copies of this model may use the encoder before
            self._encoder, self._load_options = self._load(**options), self._load_options | options
        return self

    def cuda(self, device: Any = None) -> SentenceTransformer:
        """As `to`, to a GPU."""
        return self.to("cuda" if device is None else device)

    def cpu(self) -> SentenceTransformer:
        """As `to`, to the CPU."""
        return self.to("cpu")

    def half(self) -> SentenceTransformer:
        """Compute in float16, which needs a device that has it."""
        return self.to(dtype="float16")

    def bfloat16(self) -> SentenceTransformer:
        """Compute in bfloat16."""
        return self.to(dtype="bfloat16")

    def float(self) -> SentenceTransformer:
        """Compute in float32."""
        return self.to(dtype="float32")

    def eval(self) -> SentenceTransformer:
        """Nothing changes: the model only encodes."""
        return self

    def train(self, mode: bool = True) -> SentenceTransformer:
        """Nothing for False.

        Raises:
            InputError: `mode` is True. The class only encodes.
        """
        if mode:
            raise InputError("this class only encodes. `gnomon train` trains models: see the guide on training.")
        return self

    # ---- files

    def save(
        self,
        path: str | os.PathLike[str] | None,
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: list[str] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """Write a folder that sentence-transformers opens, with this model's prompts and settings.

        Files of the same names are replaced; other files in the folder stay.
        """
        if path is None:
            return
        if model_name is not None or train_datasets is not None:
            raise InputError("model_name and train_datasets are for a card that gnomon does not write. Edit README.md.")
        if not safe_serialization:
            raise InputError(
                "safe_serialization=False writes pickles, and gnomon writes safetensors alone. Leave it out."
            )
        checkpoint = self._encoder.checkpoint
        spec = replace(
            checkpoint.spec,
            prompts=dict(self.prompts),
            default_prompt_name=self.default_prompt_name if self.default_prompt_name in self.prompts else None,
            similarity=self.similarity_fn_name,
            truncate_dim=self.truncate_dim,
        )
        readme = checkpoint.readme if create_model_card else None
        target = Path(path).absolute()
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            draft = save_folder(replace(checkpoint, spec=spec, readme=readme), Path(folder, "model"))
            shutil.copytree(draft, target, dirs_exist_ok=True, copy_function=shutil.move)

    save_pretrained = save

    @staticmethod
    def load(input_path: str) -> SentenceTransformer:
        """The older name of `SentenceTransformer(input_path)`."""
        return SentenceTransformer(input_path)

    # ---- inside

    def __repr__(self) -> str:
        return f"SentenceTransformer({self._encoder!r})"

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        """For `isinstance`: the class that this one stands in for, where its package is imported; else its own."""
        package = sys.modules.get("sentence_transformers")
        return getattr(package, "SentenceTransformer", type(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), dict(self.__dict__))

    def __deepcopy__(self, memo: Any) -> SentenceTransformer:
        """A copy with settings of its own; the two share one encoder, which does not change."""
        other = copy.copy(self)
        other._prompts, other._load_options = dict(self._prompts), dict(self._load_options)
        return other

    def __getitem__(self, index: Any) -> Any:
        raise TypeError(
            f"gnomon.compat.SentenceTransformer has no module {index!r}. {_TORCH_MEMBERS['modules']} model.tokenizer "
            "and model.max_seq_length are here."
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"gnomon.compat.SentenceTransformer is not called. Use encode. {_TORCH_MEMBERS['forward']}")

    def _first_module(self) -> SentenceTransformer:
        """Itself: scripts want the tokenizer and the max_seq_length of the first module."""
        return self

    def __getattr__(self, name: str) -> Any:
        remedy = _TORCH_MEMBERS.get(name)
        if remedy:
            raise AttributeError(f"gnomon.compat.SentenceTransformer has no {name}. {remedy}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _load(self, **options: Any) -> Encoder:
        return Encoder.load(self._source, **self._load_options | options)

    def _is_on(self, device: str) -> bool:
        ours = self._encoder.device
        return device in ("auto", ours, ours.partition(":")[0] if ours.endswith(":0") else ours)

    @contextmanager
    def _open_encoder(self, device: Any, pool: MultiProcessPool | None) -> Generator[Encoder]:
        """The encoder of a call: the model's own, that of a pool, or one for the call in several processes."""
        if pool is not None:
            encoder, limit = check_pool(pool).encoder, self.max_seq_length
            yield encoder if limit in (None, encoder.max_seq_length) else encoder.with_max_seq_length(limit)
        elif isinstance(device, list | tuple) and device:
            with self._load(device=[read_device(each) for each in device]) as encoder:
                yield encoder
        else:
            if device is not None:
                self.to(device)
            yield self._encoder

    def _take_inputs(self, inputs: Any, kwargs: dict[str, Any]) -> Any:
        """`inputs`, or what was given by its older name `sentences`."""
        if "sentences" in kwargs:
            if inputs is not None:
                raise InputError("sentences is the older name of inputs. Give one of them.")
            inputs = kwargs.pop("sentences")
        if inputs is None:
            raise InputError("inputs is missing. Give a text, or a list of texts.")
        return inputs

    def _resolve_prompt(self, prompt: str | None, prompt_name: str | None) -> str | None:
        if prompt is not None:
            if prompt_name is not None:
                _logger.warning(
                    "Provide either a `prompt`, a `prompt_name`, or neither, but not both. Ignoring the `prompt_name` "
                    "in favor of `prompt`."
                )
            return prompt
        if prompt_name is None:
            return self.prompts.get(self.default_prompt_name or "")
        if prompt_name not in self.prompts:
            raise InputError(
                f"Prompt name {prompt_name!r} not found in the configured prompts dictionary with keys "
                f"{list(self.prompts)!r}."
            )
        return self.prompts[prompt_name]

    @property
    def _tensor_device(self) -> Any:
        """The device of tensors that `encode` returns; None for the CPU."""
        return None if not has_torch() or self.device.type == "cpu" else self.device


def _restore(kind: type[SentenceTransformer], settings: dict[str, Any]) -> SentenceTransformer:
    """The model with these attributes: the other half of its pickle."""
    model = kind.__new__(kind)
    model.__dict__.update(settings)
    return model


def _choose_token(token: bool | str | None, use_auth_token: bool | str | None) -> bool | str | None:
    if use_auth_token is None:
        return token
    warnings.warn("The `use_auth_token` argument is the older name of `token`.", FutureWarning, stacklevel=3)
    if token is not None:
        raise InputError("Both `token` and `use_auth_token` are specified. Please only specify the `token` argument.")
    return use_auth_token


def _read_saved_prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    """The prompts in a model's folder, empty ones too, and the default one's name.

    Prompts that gnomon knows from cards are left out.
    """
    settings = read_json(folder / "config_sentence_transformers.json")
    prompts = {name: text or "" for name, text in (settings.get("prompts") or {}).items()}
    return prompts, settings.get("default_prompt_name")


def _name_arguments(values: tuple[Any, ...]) -> dict[str, Any]:
    """The arguments of `encode` after `prompt`, given by position, by their names.

    Raises:
        TypeError: more than there are.
    """
    names = list(inspect.signature(SentenceTransformer.encode).parameters)[4:-1]
    if len(values) > len(names):
        raise TypeError(f"at most {len(names) + 3} arguments may be given by position")
    return dict(zip(names, values, strict=False))


def _check_prompts(prompts: Mapping[str, str]) -> dict[str, str]:
    for name, text in prompts.items():
        if not isinstance(name, str) or not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"prompts maps {name!r} to {text!r}. It maps names to texts.")
    return dict(prompts)


def _default_devices() -> list[str]:
    if has_torch():
        import torch

        if torch.cuda.is_available():
            return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["cpu"] * 4
