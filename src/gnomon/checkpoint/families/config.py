"""Reads a config.json of Hugging Face into a `TrunkSpec`.

Every key of a config is accounted for: it is read, or must hold a value that changes nothing, or is known not to matter
to the vectors. Any other key with a value is an error that names it.
"""

from __future__ import annotations

from typing import Any

from gnomon.checkpoint.families.family import Config, ModelFamily, is_positive_number
from gnomon.checkpoint.families.table import get_family
from gnomon.errors import ModelError, UnsupportedError
from gnomon.spec import Activation, TrunkSpec

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
"""Name in `ACT2FN` of transformers -> our activation."""

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
"""Config keys that do not change the vectors at inference.

transformers drops them, stores them as facts, or reads them for training, generation or speed. Length limits and casing
are read from the tokenizer's files.
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
"""Config key -> the values with which the model computes what we compute."""


def read_trunk(config: Config, *, ignore_config_keys: tuple[str, ...] = ()) -> TrunkSpec:
    """The trunk that a Hugging Face config.json describes.

    Raises:
        UnsupportedError: an architecture, key or value that we do not implement and that would change the result.
        ModelError: sizes that are impossible.
    """
    family = get_family(config)
    check_config_keys(family, config, ignore_config_keys)
    merged = {**family.defaults, **config}
    fields: dict[str, Any] = {
        field: merged[key] for field, key in family.config_keys.items()
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


def resolve_aliases(section: Config, family: ModelFamily) -> dict[str, Any]:
    """The config with each key under the name that the family uses.

    Raises:
        ModelError: a key appears under two names with two values.
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
    """Check that every config key is read, or holds a value that changes nothing, or is known not to matter.

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


def read_dropout(config: Config) -> tuple[float, float]:
    """Probabilities of dropout in training: for hidden states, and for attention.

    Raises:
        ModelError: a value that is not a number in [0, 1).
    """
    family = get_family(config)
    hidden, attention = (_check_probability(key, {**family.defaults, **config}[key]) for key in family.dropout)
    return hidden, attention


def _check_sizes(trunk: TrunkSpec) -> None:
    sizes = {
        name: getattr(trunk, name)
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")
    }
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ModelError(f"config.json: {name} is {size!r}; it must be a positive integer.")
    table_sizes: dict[str, Any] = {"max_positions": trunk.max_positions, "num_token_types": trunk.num_token_types}
    for name, size in table_sizes.items():
        if not isinstance(size, int) or size < 0:
            raise ModelError(f"config.json: {name} is {size!r}; it must be a whole number, the rows of a table.")
    if trunk.max_positions and trunk.max_positions <= trunk.position_offset:
        raise ModelError(
            f"config.json: max_position_embeddings is {trunk.max_positions}; it must be more than the "
            f"{trunk.position_offset} positions that no token uses."
        )
    if not is_positive_number(trunk.norm_eps):
        raise ModelError(f"config.json: norm_eps is {trunk.norm_eps!r}; it must be a positive number.")
    if trunk.hidden_size % trunk.num_heads:
        raise ModelError(
            f"config.json: hidden size {trunk.hidden_size} is not a multiple of the {trunk.num_heads} heads."
        )
    if trunk.rope and trunk.head_size % 2:
        raise ModelError(f"config.json: head size {trunk.head_size} is odd; rotary positions pair components.")


def _check_probability(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ModelError(
            f"config.json: {key} is {value!r}; it must be a number from 0 to below 1. Correct it, or write 0 for "
            "no dropout."
        )
    return float(value)
