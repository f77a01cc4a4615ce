"""Arguments of sentence-transformers' constructor -> options of `Encoder.load`.

An argument that changes no vector is accepted. One that would change vectors and is not supported is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gnomon.errors import InputError
from gnomon.messages import join_words

NO_EFFECT: dict[str, frozenset[str]] = {
    "model_kwargs": frozenset(
        {
            "attn_implementation",  # every implementation computes the same function
            "low_cpu_mem_usage",
            "use_safetensors",
            "trust_remote_code",
            "use_cache",
            "add_pooling_layer",
        }
    ),
    "processor_kwargs": frozenset({"padding_side", "use_fast", "trust_remote_code", "clean_up_tokenization_spaces"}),
    "config_kwargs": frozenset(
        {
            "use_memory_efficient_attention",
            "unpad_inputs",
            "attn_implementation",
            "_attn_implementation",
            "trust_remote_code",
            "use_cache",
            "output_attentions",
            "gradient_checkpointing",
        }
    ),
}
"""Parameter -> keys that change how sentence-transformers computes, and no vector."""

REMEDIES = {
    "file_name": "gnomon builds its graph from the weights of the model. Leave it out; for 8-bit weights use "
    'gnomon.Encoder.load(..., dtype="int8").',
    "provider": "gnomon chooses it by the device. Leave it out, and give device=.",
    "export": "gnomon builds its graph from the weights. Leave it out.",
    "quantization_config": 'For 8-bit weights use gnomon.Encoder.load(..., dtype="int8").',
    "load_in_8bit": 'For 8-bit weights use gnomon.Encoder.load(..., dtype="int8").',
    "max_memory": "A model is on one device here. Leave it out.",
}
"""Key of `model_kwargs` -> what to do instead."""

SOURCE_KEYS = ("cache_dir", "local_files_only", "revision", "token")
"""Keys of `model_kwargs` that are arguments of `Encoder.load`."""

BACKENDS = ("torch", "onnx", "openvino")


def read_device(device: Any) -> str:
    """The name of a device: of a str, a torch.device, an index of a GPU, or None for the best there is."""
    if device is None:
        return "auto"
    name = f"cuda:{device}" if isinstance(device, int) else str(device)
    return {"cpu:0": "cpu", "mps:0": "mps"}.get(name, name)


def read_dtype(dtype: Any) -> str:
    """The name of a dtype: "float16" for a str, torch.float16 or numpy.float16.

    None and "auto" are float32 on every device, so that vectors are equal to those of sentence-transformers.
    """
    if dtype in (None, "auto"):
        return "float32"
    name = getattr(dtype, "__name__", None) or str(dtype)
    name = name.removeprefix("torch.")
    return {"half": "float16", "float": "float32", "fp16": "float16", "bf16": "bfloat16"}.get(name, name)


def read_load_options(
    *,
    device: Any,
    backend: str | None,
    model_kwargs: Mapping[str, Any] | None,
    processor_kwargs: Mapping[str, Any] | None,
    config_kwargs: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Options of `Encoder.load`: device, engine, dtype, and max_seq_length where it is given.

    Raises:
        InputError: an argument that cannot be honoured; says what to do.
    """
    if backend is not None and backend not in BACKENDS:
        raise InputError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}. Leave it out for the fastest.")
    model_settings = dict(model_kwargs or {})
    dtype = model_settings.pop("dtype", model_settings.pop("torch_dtype", None))
    if model_settings.get("provider") == "CPUExecutionProvider":
        del model_settings["provider"]
    device_map = model_settings.pop("device_map", None)
    if device_map is not None:
        device = _read_device_map(device_map)
    source = {key: model_settings.pop(key) for key in SOURCE_KEYS if key in model_settings}
    processor_settings = dict(processor_kwargs or {})
    max_seq_length = processor_settings.pop("model_max_length", None)
    for parameter, settings in (
        ("model_kwargs", model_settings),
        ("processor_kwargs", processor_settings),
        ("config_kwargs", dict(config_kwargs or {})),
    ):
        _check_no_effect(parameter, settings)
    return {
        "device": read_device(device),
        "engine": backend or "auto",
        "dtype": read_dtype(dtype),
        "max_seq_length": max_seq_length,
    } | source


def _read_device_map(device_map: Any) -> Any:
    if isinstance(device_map, Mapping):
        devices = {str(device) for device in device_map.values()}  # pyright: ignore[reportUnknownArgumentType]
        if len(devices) != 1:
            raise InputError(f"device_map spreads the model over {join_words(sorted(devices))}. Here it is on one.")
        device = devices.pop()
        return int(device) if device.isdigit() else device
    return None if device_map in ("auto", "balanced", "sequential") else device_map


def _check_no_effect(parameter: str, settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        if key not in NO_EFFECT[parameter]:
            remedy = REMEDIES.get(key, "Leave it out if it changes no vector, or save the model with it first.")
            raise InputError(f"{parameter} has {key}={value!r}, which gnomon does not support. {remedy}")
