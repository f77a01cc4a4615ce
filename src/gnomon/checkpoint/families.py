"""Hugging Face configs and tensor names, as tables: `model_type` -> our `TrunkSpec` and our array names.

A new architecture is one `Family` row here (and, for a new mechanism, one piece in each lowering). Every key of a
config is accounted for: it is read, or must hold a value that changes nothing, or is known not to matter to the
vectors. Any other key with a value is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.checkpoint.weights import check_floating, is_integral, match_arrays
from gnomon.errors import ModelError, UnsupportedError, WeightsError
from gnomon.spec import Activation, MlmSpec, RopeSpec, TrunkSpec, trunk_shapes

Config = Mapping[str, Any]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "linear": "identity",
}
"""Names of transformers' ACT2FN that we implement."""

HARMLESS = frozenset(
    """
    architectures auto_map _name_or_path
    model_type torch_dtype dtype transformers_version torchscript initializer_range
    id2label label2id num_labels problem_type finetuning_task task_specific_params classifier_dropout
    tie_word_embeddings
    output_attentions output_hidden_states return_dict use_cache gradient_checkpointing chunk_size_feed_forward
    hidden_dropout_prob attention_probs_dropout_prob dropout attention_dropout qa_dropout seq_classif_dropout
    tie_weights_
    bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id decoder_start_token_id tokenizer_class prefix
    use_bfloat16 tf_legacy_loss _attn_implementation _attn_implementation_autoset attn_implementation
    unpad_inputs use_memory_efficient_attention logn_attention_clip1 sinusoidal_pos_embds pooler_type
    directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head
    language adapters_version sbert_ce_default_activation_function sentence_transformers
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id
    remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens matryoshka_dims matryoshka_dimensions
    output_past xla_device _num_labels tie_encoder_decoder summary_type is_composition generator_hidden_size
    past gradient_checkpointing_kwargs license
    name_or_path _commit_hash _auto_class trust_remote_code cache_dir transformers.js_config
    unsloth_version unsloth_fixed unsloth_tag
    fp16 bf16 fp32 use_flash_attn _flash_attn_2_enabled _attn_implementation_internal _experts_implementation
    experts_implementation _output_attentions tie_last_hidden_states add_pooling_layer
    layerdrop encoder_layerdrop decoder_layerdrop classifier_dropout_prob embedding_dropout mlm_probability
    model_max_length max_seq_length do_lower_case padding_side
    summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout summary_last_dropout
    eos_token_ids bos_token_ids unk_token_id
    encoder_repetition_penalty epsilon_cutoff eta_cutoff assistant_confidence_threshold assistant_lookbehind
    num_assistant_tokens num_assistant_tokens_schedule target_lookbehind
    """.split()
)
"""Config keys that do not change the vectors of a model at inference: transformers drops them, keeps them as facts, or
reads them for training, for generation and for speed. Lengths and casing are read from the tokenizer's files.
"""

ALLOWED_VALUES: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "adapters": (None, {}),
    "is_causal": (False, None),
    "use_bidirectional_attention": (True, None),
}
"""Config keys of which only these values leave the result as we compute it."""


Names = Mapping[str, tuple[str, ...]]
"""Pattern of their tensor name ({i}: layer) -> patterns of ours; several: its rows, cut into as many equal blocks."""


@dataclass(frozen=True)
class ModelFamily:
    """How one `model_type` is read.

    `keys`: field of TrunkSpec -> config key. `names`: their tensors -> ours. `prefixes`: what their names may begin
    with.
    `defaults`: values of absent keys. `ignored`, `fixed`, `extra`: keys that do not matter here, that must hold one of
    some values, and that `build` turns into further fields. `names_unless`: a config key that is false -> names that
    replace. `mlm`: our arrays of the masked-language-model head -> their names, the first that is there is read and
    all are written. `mlm_activation`: its activation, where it is not the trunk's. `aliases`: further
    names of config keys. `dropout`: keys of the probabilities
    for hidden states and for attention.
    """

    config_keys: Mapping[str, str]
    tensor_names: Names
    prefixes: tuple[str, ...]
    defaults: Mapping[str, Any]
    ignored: tuple[str, ...] = ()
    allowed_values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    extra_keys: tuple[str, ...] = ()
    build_extra_fields: Callable[[Config], dict[str, Any]] = lambda config: {}
    tensor_names_if_false: Mapping[str, Names] = field(default_factory=dict[str, Names])
    mlm_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    mlm_activation: Activation | None = None
    key_aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    dropout: tuple[str, str] = ("hidden_dropout_prob", "attention_probs_dropout_prob")


def _map_linear(left: str, *right: str) -> dict[str, tuple[str, ...]]:
    return {f"{left}.{kind}": tuple(f"{name}.{kind}" for name in right) for kind in ("weight", "bias")}


def _map_mlm(dense: str, norm: str, decoder: str, *biases: str) -> dict[str, tuple[str, ...]]:
    """Our head -> theirs. `biases`: further names of the decoder's bias, behind the one that transformers 5 uses."""
    named = {**_map_linear("mlm.dense", dense), **_map_linear("mlm.norm", norm), **_map_linear("mlm.decoder", decoder)}
    return {**named, "mlm.decoder.bias": (f"{decoder}.bias", *biases)}


_EMBEDDINGS: Names = {
    "embeddings.word_embeddings.weight": ("embed.tokens",),
    "embeddings.position_embeddings.weight": ("embed.positions",),
    "embeddings.token_type_embeddings.weight": ("embed.types",),
    **_map_linear("embeddings.LayerNorm", "embed.norm"),
}

_BERT_NAMES: Names = {
    **_EMBEDDINGS,
    **_map_linear("encoder.layer.{i}.attention.self.query", "layers.{i}.query"),
    **_map_linear("encoder.layer.{i}.attention.self.key", "layers.{i}.key"),
    **_map_linear("encoder.layer.{i}.attention.self.value", "layers.{i}.value"),
    **_map_linear("encoder.layer.{i}.attention.output.dense", "layers.{i}.out"),
    **_map_linear("encoder.layer.{i}.attention.output.LayerNorm", "layers.{i}.attn_norm"),
    **_map_linear("encoder.layer.{i}.intermediate.dense", "layers.{i}.up"),
    **_map_linear("encoder.layer.{i}.output.dense", "layers.{i}.down"),
    **_map_linear("encoder.layer.{i}.output.LayerNorm", "layers.{i}.mlp_norm"),
}

_BERT_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "num_token_types": "type_vocab_size",
    "activation": "hidden_act",
    "norm_eps": "layer_norm_eps",
}

_BERT_DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}

_LEGACY_NORM = (".gamma", ".weight"), (".beta", ".bias")
_WRAPPERS = ("module.", "_orig_mod.", "auto_model.", "0.auto_model.", "0.model.", "model.")
"""In front of names: DataParallel, torch.compile, and modules of sentence-transformers saved as one state dict."""
_PEFT = "base_model.model."
_TASK_HEAD_PREFIXES = (
    "pooler.",
    "cls.",
    "lm_head.",
    "vocab_",
    "classifier.",
    "pre_classifier.",
    "qa_outputs.",
    "mlm_head",
)
_BUFFERS = ("position_ids", "token_type_ids", "rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")


def _build_roberta_fields(config: Config) -> dict[str, Any]:
    pad_id = config["pad_token_id"]
    if not isinstance(pad_id, int) or pad_id < 0:
        raise ModelError(
            f"config.json: pad_token_id is {pad_id!r}; positions are counted from it, so it must be a number of a row."
        )
    return {"position_offset": pad_id + 1, "pad_id": pad_id}


def _build_new_fields(config: Config) -> dict[str, Any]:
    if config["position_embedding_type"] == "absolute":
        return {"gated": True}
    return {"gated": True, "max_positions": 0, "rope": _read_rope(config)}


def _read_rope(config: Config) -> RopeSpec:
    """`rope_scaling` of the gte-v1.5 code: None or {"type": "ntk", "factor": s}; anything else is another function."""
    theta = config["rope_theta"]
    if not _is_positive(theta):
        raise ModelError(f"config.json: rope_theta is {theta!r}; it must be a positive number.")
    scaling = config.get("rope_scaling")
    if not scaling:
        return RopeSpec(float(theta))
    told = {key: value for key, value in scaling.items() if value is not None} if isinstance(scaling, dict) else {}
    kind, other = told.get("type", told.get("rope_type")), told.keys() - {"type", "rope_type", "factor"}
    if kind != "ntk" or other or not _is_positive(told.get("factor")):
        raise UnsupportedError(
            f"config.json: rope_scaling {scaling!r} is not implemented; "
            'it may be null or {"type": "ntk", "factor": NUMBER}.'
        )
    return RopeSpec(float(theta), float(scaling["factor"]))


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _roberta_family(prefix: str, vocab_size: int) -> ModelFamily:
    return ModelFamily(
        config_keys=_BERT_KEYS,
        tensor_names=_BERT_NAMES,
        prefixes=(f"{prefix}.", ""),
        defaults={**_BERT_DEFAULTS, "vocab_size": vocab_size, "layer_norm_eps": 1e-12, "pad_token_id": 1},
        allowed_values={"position_embedding_type": ("absolute",)},
        extra_keys=("pad_token_id",),
        build_extra_fields=_build_roberta_fields,
        mlm_names=_map_mlm("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"),
        mlm_activation="gelu",
    )


FAMILIES: dict[str, ModelFamily] = {
    "bert": ModelFamily(
        config_keys=_BERT_KEYS,
        tensor_names=_BERT_NAMES,
        prefixes=("bert.", ""),
        defaults=_BERT_DEFAULTS,
        ignored=("pad_token_id",),
        allowed_values={"position_embedding_type": ("absolute",)},
        mlm_names=_map_mlm(
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.decoder",
            "cls.predictions.bias",
        ),
    ),
    "roberta": _roberta_family("roberta", 50265),
    "xlm-roberta": _roberta_family("roberta", 30522),
    "distilbert": ModelFamily(
        config_keys={
            "vocab_size": "vocab_size",
            "hidden_size": "dim",
            "num_layers": "n_layers",
            "num_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "max_positions": "max_position_embeddings",
            "activation": "activation",
        },
        tensor_names={
            **_EMBEDDINGS,
            **_map_linear("transformer.layer.{i}.attention.q_lin", "layers.{i}.query"),
            **_map_linear("transformer.layer.{i}.attention.k_lin", "layers.{i}.key"),
            **_map_linear("transformer.layer.{i}.attention.v_lin", "layers.{i}.value"),
            **_map_linear("transformer.layer.{i}.attention.out_lin", "layers.{i}.out"),
            **_map_linear("transformer.layer.{i}.sa_layer_norm", "layers.{i}.attn_norm"),
            **_map_linear("transformer.layer.{i}.ffn.lin1", "layers.{i}.up"),
            **_map_linear("transformer.layer.{i}.ffn.lin2", "layers.{i}.down"),
            **_map_linear("transformer.layer.{i}.output_layer_norm", "layers.{i}.mlp_norm"),
        },
        prefixes=("distilbert.", ""),
        defaults={
            "vocab_size": 30522,
            "dim": 768,
            "n_layers": 6,
            "n_heads": 12,
            "hidden_dim": 3072,
            "max_position_embeddings": 512,
            "activation": "gelu",
            "dropout": 0.1,
            "attention_dropout": 0.1,
        },
        ignored=("pad_token_id",),
        key_aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
        mlm_names=_map_mlm("vocab_transform", "vocab_layer_norm", "vocab_projector"),
        dropout=("dropout", "attention_dropout"),
    ),
    "new": ModelFamily(
        config_keys=_BERT_KEYS,
        tensor_names={
            **_EMBEDDINGS,
            **_map_linear(
                "encoder.layer.{i}.attention.qkv_proj", "layers.{i}.query", "layers.{i}.key", "layers.{i}.value"
            ),
            **_map_linear("encoder.layer.{i}.attention.o_proj", "layers.{i}.out"),
            **_map_linear("encoder.layer.{i}.attn_ln", "layers.{i}.attn_norm"),
            "encoder.layer.{i}.mlp.up_gate_proj.weight": ("layers.{i}.up.weight", "layers.{i}.gate.weight"),
            **_map_linear("encoder.layer.{i}.mlp.down_proj", "layers.{i}.down"),
            **_map_linear("encoder.layer.{i}.mlp_ln", "layers.{i}.mlp_norm"),
        },
        tensor_names_if_false={
            "pack_qkv": {
                **_map_linear("encoder.layer.{i}.attention.q_proj", "layers.{i}.query"),
                **_map_linear("encoder.layer.{i}.attention.k_proj", "layers.{i}.key"),
                **_map_linear("encoder.layer.{i}.attention.v_proj", "layers.{i}.value"),
            }
        },
        prefixes=("new.", ""),
        defaults={
            **_BERT_DEFAULTS,
            "vocab_size": 30528,
            "max_position_embeddings": 2048,
            "type_vocab_size": 1,
            "position_embedding_type": "rope",
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "attention_probs_dropout_prob": 0.0,
        },
        ignored=("pad_token_id",),
        allowed_values={
            "position_embedding_type": ("rope", "absolute"),
            "layer_norm_type": ("layer_norm",),
            "logn_attention_scale": (False,),
            "pack_qkv": (True, False),
        },
        extra_keys=("rope_theta", "rope_scaling"),
        build_extra_fields=_build_new_fields,
        mlm_names=_map_mlm("lm_head.dense", "lm_head.norm", "lm_head.decoder"),
    ),
}


def read_trunk(config: Config, *, ignore_config_keys: tuple[str, ...] = ()) -> TrunkSpec:
    """The trunk that a Hugging Face config.json describes.

    Raises:
        UnsupportedError: an architecture, key or value that we do not implement and that would change the result.
        ModelError: sizes that cannot be.
    """
    family = get_family(config)
    check_config_keys(family, config, ignore_config_keys)
    merged = {**family.defaults, **config}
    fields: dict[str, Any] = {
        ours: merged[theirs] for ours, theirs in family.config_keys.items()
    } | family.build_extra_fields(merged)
    name = fields["activation"]
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise UnsupportedError(
            f"config.json: activation {name!r} is not implemented; it may be one of {', '.join(ACTIVATIONS)}."
        )
    fields["activation"] = ACTIVATIONS[name]
    trunk = TrunkSpec(**fields)
    _check_sizes(trunk)
    return trunk


def get_family(config: Config) -> ModelFamily:
    """The table row for a config's `model_type`."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UnsupportedError(
            f"config.json: model_type {kind!r} is not implemented; gnomon has {', '.join(FAMILIES)}."
        )
    return FAMILIES[kind]


def resolve_aliases(section: Config, family: ModelFamily) -> dict[str, Any]:
    """Keys of a config under the family's own names.

    Raises:
        ModelError: one thing under two names, with two values.
    """
    keys: dict[str, Any] = {}
    for key, value in section.items():
        own = family.key_aliases.get(key, key)
        if keys.setdefault(own, value) != value:
            raise ModelError(f"config.json: {own} and its other name say {keys[own]!r} and {value!r}; leave one out.")
    return keys


def check_config_keys(
    family: ModelFamily, config: Config, ignored_by_caller: tuple[str, ...], where: str = "config.json"
) -> None:
    """Every key is read, or holds a value that changes nothing, or is known not to matter.

    Raises:
        UnsupportedError: a key or value that would change the result.
    """
    fixed = {**ALLOWED_VALUES, **family.allowed_values}
    known = {*family.config_keys.values(), *family.extra_keys, *family.ignored, *HARMLESS, *ignored_by_caller}
    for key, value in config.items():
        if key in fixed:
            if value not in fixed[key]:
                allowed = ", ".join(repr(choice) for choice in fixed[key])
                raise UnsupportedError(f"{where}: {key} {value!r} is not implemented; it may be {allowed}.")
        elif key == "embedding_size" and value == config.get(family.config_keys["hidden_size"]):
            continue  # no projection between them
        elif key not in known and not (value is None or (isinstance(value, str | list | dict) and not value)):
            raise UnsupportedError(
                f"{where}: key {key!r} ({value!r}) is not known and may change the vectors. If you know that it "
                f"does not, load with ignore_config_keys=[{key!r}] (--ignore-config-key {key})."
            )


def drop_later_layers(
    tensors: Mapping[str, NDArray[Any]], trunk: TrunkSpec, config: Config
) -> tuple[dict[str, NDArray[Any]], int]:
    """The tensors without those of layers behind the trunk's last, and how many these are."""
    starts = {theirs.partition("{i}")[0] for theirs in _patterns(config) if "{i}" in theirs}

    def is_later(name: str) -> bool:
        numbers = [name.removeprefix(start).partition(".")[0] for start in starts if name.startswith(start)]
        return any(number.isdigit() and int(number) >= trunk.num_layers for number in numbers)

    bare = _normalize_names(tensors, config)
    kept = {name: array for name, array in bare.items() if not is_later(name)}
    return kept, len(bare) - len(kept)


def convert_trunk_weights(
    tensors: Mapping[str, NDArray[Any]], trunk: TrunkSpec, config: Config, where: Path
) -> dict[str, NDArray[Any]]:
    """Their tensors under our names, as views: nothing is copied.

    Raises:
        WeightsError: names every missing, extra and misshapen tensor.
    """
    if trunk.num_layers > len(tensors):
        raise WeightsError(
            f"{where}: the config says {trunk.num_layers} layers, and the weights are {len(tensors)} tensors."
        )
    blocks = _expand_names(trunk, config)
    bare = _normalize_names(tensors, config)
    if wrapped := [name for name in bare if name.startswith(_PEFT)]:
        raise WeightsError(
            f"{where}: {len(wrapped)} names begin with {_PEFT}: this is a PEFT model whose adapter was not merged. "
            "Call merge_and_unload() on it, and save what that returns."
        )
    arrays = match_arrays(bare, _their_shapes(blocks, trunk), is_ignored=_is_ignorable, where=str(where))
    check_floating(arrays, where)
    return {
        name: part
        for theirs, ours in blocks.items()
        for name, part in zip(ours, np.split(arrays[theirs], len(ours)), strict=True)
    }


def unused_arrays(tensors: Mapping[str, NDArray[Any]], config: Config) -> dict[str, NDArray[Any]]:
    """BERT's pooler, if it is there: it does not act on vectors, but transformers misses it in a saved model."""
    return {name: array for name, array in _normalize_names(tensors, config).items() if name.startswith("pooler.")}


def convert_mlm_weights(
    tensors: Mapping[str, NDArray[Any]], token_table: NDArray[Any], trunk: TrunkSpec, config: Config
) -> dict[str, NDArray[Any]]:
    """The masked-language-model head under our names, as views; empty where the weights hold none, a part of one, or
    one of another size (a token table that was resized without it): vectors do not need it.

    The decoder's weight is left out where it is the token table `tokens`: tied by the config, and in the file not at
    all or as an equal copy. A copy that differs counts, whatever the config says: transformers 5 loads it so.
    """
    bare, shapes = _normalize_names(tensors, config), _mlm_shapes(trunk)
    there = {ours: [name for name in names if name in bare] for ours, names in get_family(config).mlm_names.items()}
    named = {ours: names[0] for ours, names in there.items() if names}
    tied = config.get("tie_word_embeddings") is not False
    if shapes.keys() - named.keys() - ({"mlm.decoder.weight"} if tied else set()):
        return {}
    head = {ours: bare[theirs] for ours, theirs in named.items()}
    if any(array.shape != shapes[ours] or is_integral(array) for ours, array in head.items()):
        return {}
    if tied and "mlm.decoder.weight" in head and _probably_equal(head["mlm.decoder.weight"], token_table):
        del head["mlm.decoder.weight"]
    return head


def build_mlm_spec(arrays: Mapping[str, NDArray[Any]], trunk: TrunkSpec, config: Config) -> MlmSpec | None:
    """What the arrays of `mlm_weights` are; None where there are none."""
    if not arrays:
        return None
    tied = "mlm.decoder.weight" not in arrays
    return MlmSpec(get_family(config).mlm_activation or trunk.activation, tied, trunk.norm_eps)


def read_dropout(config: Config) -> tuple[float, float]:
    """Probabilities of dropout in training: for hidden states, and for attention.

    Raises:
        ModelError: a value that is not a number in [0, 1).
    """
    family = get_family(config)
    hidden, attention = (_check_probability(key, {**family.defaults, **config}[key]) for key in family.dropout)
    return hidden, attention


def export_trunk_weights(
    arrays: Mapping[str, NDArray[Any]], trunk: TrunkSpec, config: Config
) -> dict[str, NDArray[Any]]:
    """Our trunk arrays under their names without a prefix: the inverse of `trunk_weights`."""
    return {
        theirs: arrays[ours[0]] if len(ours) == 1 else np.concatenate([arrays[name] for name in ours])
        for theirs, ours in _expand_names(trunk, config).items()
    }


def add_mlm_head(
    theirs: Mapping[str, NDArray[Any]], mlm_arrays: Mapping[str, NDArray[Any]], config: Config
) -> dict[str, NDArray[Any]]:
    """Their trunk, and a head if there is one: the trunk then has its prefix, or transformers 4 refuses the file.

    The decoder's bias is written under each of its names: transformers 4 and 5 do not compute with the same one.
    """
    family = get_family(config)
    head = {name: array for ours, array in mlm_arrays.items() for name in family.mlm_names[ours]}
    prefix = family.prefixes[0] if head else ""
    return {prefix + name: array for name, array in theirs.items()} | head


def _check_sizes(trunk: TrunkSpec) -> None:
    sizes = {
        name: getattr(trunk, name)
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")
    }
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ModelError(f"config.json: {name} is {size!r}; it must be a positive integer.")
    rows: dict[str, Any] = {"max_positions": trunk.max_positions, "num_token_types": trunk.num_token_types}
    for name, size in rows.items():
        if not isinstance(size, int) or size < 0:
            raise ModelError(f"config.json: {name} is {size!r}; it must be a whole number of rows.")
    if trunk.max_positions and trunk.max_positions <= trunk.position_offset:
        raise ModelError(
            f"config.json: {trunk.max_positions} positions leave none behind the first {trunk.position_offset}."
        )
    if not _is_positive(trunk.norm_eps):
        raise ModelError(f"config.json: norm_eps is {trunk.norm_eps!r}; it must be a positive number.")
    if trunk.hidden_size % trunk.num_heads:
        raise ModelError(
            f"config.json: hidden size {trunk.hidden_size} is not a multiple of the {trunk.num_heads} heads."
        )
    if trunk.rope and trunk.head_size % 2:
        raise ModelError(f"config.json: head size {trunk.head_size} is odd; rotary positions pair components.")


def _patterns(config: Config) -> dict[str, tuple[str, ...]]:
    """The family's `names`, with those that a key of this config replaces."""
    family = get_family(config)
    patterns = dict(family.tensor_names)
    for key, names in family.tensor_names_if_false.items():
        if config.get(key) is False:
            replaced = {ours for theirs in names.values() for ours in theirs}
            patterns = {theirs: ours for theirs, ours in patterns.items() if not replaced & {*ours}} | dict(names)
    return patterns


def _expand_names(trunk: TrunkSpec, config: Config) -> dict[str, tuple[str, ...]]:
    """Their tensors of this trunk -> the arrays of ours that each holds."""
    shapes = trunk_shapes(trunk)
    blocks: dict[str, tuple[str, ...]] = {}
    for theirs, ours in _patterns(config).items():
        for index in range(trunk.num_layers) if "{i}" in theirs else (0,):
            filled = tuple(name.replace("{i}", str(index)) for name in ours)
            if filled[0] in shapes:
                blocks[theirs.replace("{i}", str(index))] = filled
    return blocks


def _their_shapes(blocks: Mapping[str, tuple[str, ...]], trunk: TrunkSpec) -> dict[str, tuple[int, ...]]:
    shapes = trunk_shapes(trunk)
    return {theirs: (sum(shapes[name][0] for name in ours), *shapes[ours[0]][1:]) for theirs, ours in blocks.items()}


def _mlm_shapes(trunk: TrunkSpec) -> dict[str, tuple[int, ...]]:
    vocab_size, hidden = trunk.vocab_size, trunk.hidden_size
    return {
        "mlm.dense.weight": (hidden, hidden),
        "mlm.dense.bias": (hidden,),
        "mlm.norm.weight": (hidden,),
        "mlm.norm.bias": (hidden,),
        "mlm.decoder.weight": (vocab_size, hidden),
        "mlm.decoder.bias": (vocab_size,),
    }


def _probably_equal(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Equal in value, as far as 64 rows from first to last tell: a table may be gigabytes, and training moves all of
    it. Nothing is read where both are one storage, as in every .bin of a tied model.
    """
    if left.__array_interface__ == right.__array_interface__:
        return True
    rows = np.unique(np.linspace(0, len(left) - 1, 64).astype(np.int64))
    return left.shape == right.shape and np.array_equal(left[rows], right[rows])


def _check_probability(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ModelError(
            f"config.json: {key} is {value!r}; it must be a number from 0 to below 1; correct it, or write 0 for none."
        )
    return float(value)


def _normalize_names(tensors: Mapping[str, NDArray[Any]], config: Config) -> dict[str, NDArray[Any]]:
    """Today's names, without wrappers and the prefix."""
    return _strip_prefix({_modernize_name(name): array for name, array in tensors.items()}, get_family(config).prefixes)


def _strip_prefix(tensors: dict[str, NDArray[Any]], prefixes: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Names without the prefix that this file uses; other names (an MLM head beside `new.`) stay."""
    prefix = next((p for p in prefixes if p and any(name.startswith(p) for name in tensors)), "")
    return {name.removeprefix(prefix): array for name, array in tensors.items()}


def _modernize_name(name: str) -> str:
    """LayerNorm.gamma and .beta of TensorFlow's days -> .weight and .bias; wrappers of old fine-tunes taken off."""
    while wrapper := next((wrapper for wrapper in _WRAPPERS if name.startswith(wrapper)), ""):
        name = name.removeprefix(wrapper)
    for old, new in _LEGACY_NORM:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _is_ignorable(name: str) -> bool:
    return name.startswith(_TASK_HEAD_PREFIXES) or name.endswith(_BUFFERS)
