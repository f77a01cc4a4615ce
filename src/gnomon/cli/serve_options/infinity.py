"""The options of `infinity_emb v2`, and its environment variables: INFINITY_ and the name of the option.

Source: infinity_emb 0.0.78, cli.py and env.py.
"""

from __future__ import annotations

from gnomon.cli.serve_options import choices
from gnomon.cli.serve_options.readers import (
    Switch,
    Whole,
    read_device_ids,
    read_key,
    read_log_level,
    read_names,
    read_optional,
    read_port,
    read_prefix,
    read_text,
)
from gnomon.cli.serve_options.rows import Row, name_variables

PREFIX = "INFINITY_"


def idle_switch(flag: str, default: str, text: str) -> Row:
    """A switch for each model, without effect here."""
    flags = (flag, flag.replace("--", "--no-", 1))
    return Row(flags=flags, read=Switch(), spread="each", form="switch", default=default, text=text)


INFINITY = name_variables(
    PREFIX,
    (
        Row(
            flags=("--model-id",),
            field="source",
            read=read_optional,
            spread="all",
            default="michaelfeil/bge-small-en-v1.5",
            text="A model, as MODEL. Repeatable. It has no default here.",
        ),
        Row(
            flags=("--model-name-or-path",),
            env="",
            field="source",
            read=read_optional,
            spread="all",
            default="michaelfeil/bge-small-en-v1.5",
            text="A model: the name of --model-id after v1.",
        ),
        Row(
            flags=("--served-model-name",),
            field="names",
            read=read_names,
            spread="position",
            default="last two parts of the id",
            text="As --name; a,b gives a model several names.",
        ),
        Row(
            flags=("--batch-size",),
            field="max_batch_texts",
            read=Whole(),
            spread="each",
            default="32",
            text="At most so many texts in a batch. Without it the tokens alone decide.",
        ),
        Row(
            flags=("--revision",),
            field="revision",
            read=read_optional,
            spread="each",
            text="The same; refs/pr/24 works.",
        ),
        idle_switch("--trust-remote-code", "true", "code from a checkpoint is never run."),
        Row(
            flags=("--engine",),
            field="engine",
            read=choices.ENGINE,
            spread="each",
            default="torch",
            text="The same; optimum is onnx here.",
        ),
        Row(
            flags=(
                "--model-warmup",
                "--no-model-warmup",
            ),
            field="warm_up",
            read=Switch(),
            form="switch",
            lists_values=True,
            default="true",
            text="As --warm-up, for all models.",
        ),
        idle_switch("--vector-disk-cache", "false", "answers are cached in memory only; --cache SIZE bounds that."),
        Row(
            flags=("--device",),
            field="device",
            read=choices.DEVICE,
            spread="each",
            default="auto",
            text="The same: auto, cpu, cuda or mps.",
        ),
        Row(
            flags=("--device-id",),
            field="device_id",
            read=read_device_ids,
            spread="each",
            text="Numbers of GPUs: with --device cuda, 0,1 is cuda:0,cuda:1.",
        ),
        idle_switch("--lengths-via-tokenize", "false", "tokens are always counted by the tokenizer."),
        Row(
            flags=("--dtype",),
            field="dtype",
            read=choices.DTYPE,
            spread="each",
            default="auto",
            text="The same: auto, float32, bfloat16, float16 or int8.",
        ),
        Row(
            flags=("--embedding-dtype",),
            field="vector_type",
            read=choices.VECTOR_TYPE,
            spread="each",
            default="float32",
            text="The same; int8 and uint8 need --ranges.",
        ),
        Row(
            flags=("--pooling-method",),
            field="pooling",
            read=choices.POOLING,
            spread="each",
            default="auto",
            warning=choices.POOLING_WARNING,
            text="As --pooling: in place of the model's own pooling.",
        ),
        idle_switch("--compile", "false", "no engine of gnomon uses torch.compile."),
        idle_switch("--bettertransformer", "true", "gnomon has its own attention in place of BetterTransformer."),
        Row(
            flags=(
                "--preload-only",
                "--no-preload-only",
            ),
            field="exit_when_loaded",
            read=Switch(),
            form="switch",
            default="false",
            text="The same; the exit status is 0.",
        ),
        Row(
            flags=("--host",),
            field="host",
            read=read_text,
            default="0.0.0.0",
            text="The same. Its default holds after the word v2 only, with a warning where there is no API key.",
        ),
        Row(flags=("--port",), field="port", read=read_port, default="7997", kubernetes=True, text="The same."),
        Row(flags=("--url-prefix",), field="url_prefix", read=read_prefix, text="The same."),
        Row(flags=("--redirect-slash",), read=read_text, default="/docs", text="/ is the playground."),
        Row(flags=("--log-level",), field="log_level", read=read_log_level, default="info", text="The same."),
        Row(
            flags=(
                "--permissive-cors",
                "--no-permissive-cors",
            ),
            field="cors_origins",
            read=Switch("*", None),
            spread="all",
            form="switch",
            default="false",
            text="The same.",
        ),
        Row(flags=("--api-key",), field="api_keys", read=read_key, spread="all", lists_values=False, text="The same."),
        Row(flags=("--proxy-root-path",), read=read_text, text="answers hold no address of the server."),
        idle_switch("--onnx-disable-optimize", "false", "gnomon builds its ONNX graph itself, already optimised."),
        idle_switch(
            "--onnx-do-not-prefer-quantized",
            "false",
            "gnomon builds its ONNX graph itself, and --dtype int8 alone quantises it.",
        ),
        Row(
            env="INFINITY_QUEUE_SIZE",
            field="max_queue_texts",
            read=Whole(),
            default="32000",
            text="Texts that may wait. Without it the tokens alone decide (--max-queue-tokens).",
        ),
        Row(
            env="INFINITY_MAX_CLIENT_BATCH_SIZE",
            field="max_inputs",
            read=Whole(),
            default="2048",
            text="As --max-inputs.",
        ),
        Row(env="INFINITY_ANONYMOUS_USAGE_STATS", read=read_text, default="true", text="gnomon sends no statistics."),
        Row(
            env="INFINITY_CALIBRATION_DATASET_URL",
            read=read_text,
            text="ranges of int8 vectors come from a file (--ranges), and nothing is downloaded for them.",
        ),
        Row(
            env="INFINITY_HOME",
            read=read_text,
            text="there is no cache of answers on disk. HF_HOME is the folder of downloaded models.",
        ),
    ),
)
