"""Words that several tables share: ours, and those of infinity and TEI that mean the same or are refused."""

from __future__ import annotations

from gnomon.cli.serve_options.readers import Choice, same

_ENGINES_HERE = "gnomon runs onnx and openvino (CPU) and torch (CPU, GPU). Leave --engine out, or give one of these."

ENGINE = Choice(
    same("auto", "onnx", "openvino", "torch") | {"optimum": "onnx"},
    refused=dict.fromkeys(("ctranslate2", "neuron", "debugengine"), _ENGINES_HERE),
)
DEVICE = Choice(
    {},
    refused={
        "tensorrt": "gnomon has no engine for TensorRT. Give --device cuda for the same GPU.",
        "xla": "gnomon has no engine for XLA devices. Give --device cpu, or run it on a machine with a GPU.",
    },
    others=True,
)
DTYPE = Choice(
    {},
    refused={"fp8": "gnomon computes in float32, bfloat16, float16 or int8 (CPU). Give --dtype auto or one of these."},
    others=True,
)
VECTOR_TYPE = Choice({"float32": "float", "float": "float"} | same("int8", "uint8", "binary", "ubinary"))
POOLING = Choice(
    same("mean", "cls", "lasttoken") | {"last-token": "lasttoken", "auto": None},
    refused={
        "splade": "it makes sparse vectors, and gnomon serves dense ones. Leave it out, or give mean, cls or "
        "last-token."
    },
)
POOLING_WARNING = (
    "replaces the model's own pooling. Where the two differ, vectors are not those of the model, and its fingerprint "
    "is another."
)
