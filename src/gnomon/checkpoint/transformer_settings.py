"""Reads sentence_bert_config.json, which says how sentence-transformers loads the trunk and its tokenizer.

Every key is followed, or known to change nothing, or an error that names it. Source of what each key does:
sentence-transformers 6.2, `base/modules/transformer.py`, `Transformer._load_init_kwargs` and `__init__`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnomon.checkpoint.modules_json import Json, read_json
from gnomon.checkpoint.tokenizer_settings import check_tokens, wrap_errors
from gnomon.errors import ModelError, UnsupportedError

TRANSFORMER_CONFIG_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names of the file, in the order in which sentence-transformers looks for them. The first that is not empty counts."""

NO_LIMIT = 10**9
"""transformers writes 1e30 into model_max_length for "no limit"."""

OLD_NAMES = {"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"}

HUB_KEYS = frozenset(
    """
    cache_dir token use_auth_token revision code_revision local_files_only force_download resume_download proxies
    subfolder trust_remote_code _from_auto _from_pipeline _commit_hash
    """.split()
)
"""Keys that say where files come from. The caller decides that, as in sentence-transformers. No code is ever run."""

ALLOWED_VALUES = {
    "transformer_task": (None, "feature-extraction"),
    "module_output_name": (None, "token_embeddings"),
    "modality_config": (None, {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "tokenizer_name_or_path": (None,),
}
"""Key of the file -> the values with which the model computes what we compute."""

HARMLESS = HUB_KEYS | {"unpad_inputs", "backend"}

MODEL_HARMLESS = HUB_KEYS | frozenset(
    """
    attn_implementation add_pooling_layer use_cache device_map low_cpu_mem_usage max_memory offload_folder
    offload_state_dict offload_buffers use_safetensors weights_only ignore_mismatched_sizes
    """.split()
)

DTYPES = ("torch_dtype", "dtype")
NEUTRAL_DTYPES = (None, "auto", "float32", "torch.float32")
"""Values of a dtype key that change nothing here."""

BOOLEAN_KEYS = frozenset(
    "do_lower_case strip_accents tokenize_chinese_chars add_prefix_space trim_offsets split_special_tokens".split()
)
OVERRIDES = BOOLEAN_KEYS | frozenset(
    """
    bos_token eos_token unk_token sep_token pad_token cls_token mask_token
    additional_special_tokens extra_special_tokens
    """.split()
)
"""Keys of the tokenizer that replace those of tokenizer_config.json."""

CALL_KEYS = ("truncation_side", "padding_side")
"""Keys of the same kind that only change how a text is truncated and padded."""

TOKENIZER_HARMLESS = HUB_KEYS | frozenset(
    "use_fast clean_up_tokenization_spaces chat_template verbose name_or_path".split()
)

UNREAD = ("max_length", "truncation", "padding", "pad_to_multiple_of", "return_tensors")
"""Keys for calling a tokenizer. Among the keys for building it, sentence-transformers ignores them too."""

ALLOWED_CALL_VALUES = {
    "truncation": (None, True, "longest_first", "only_first"),
    "add_special_tokens": (None, True),
    "return_attention_mask": (None, True),
    "return_tensors": (None, "pt"),
}
CALL_HARMLESS = frozenset(
    "padding padding_side pad_to_multiple_of return_token_type_ids logits_to_keep verbose".split()
)
NON_TEXT_SECTIONS = frozenset("audio image video chat_template".split())
"""Sections of `processing_kwargs` for inputs other than plain text."""


@dataclass(frozen=True)
class TransformerSettings:
    """What the file changes in config.json, in tokenizer_config.json and in the tokenizer."""

    file_name: str | None = None
    """Name of the file that was read; None without a file."""
    max_seq_length: Any = None
    """Unchecked: its limit depends on the trunk."""
    lower_case: bool = False
    config_overrides: Json = field(default_factory=dict[str, Any])
    tokenizer_overrides: Json = field(default_factory=dict[str, Any])
    effective_settings: tuple[str, ...] = ()
    """The keys that change something, with their values, for people."""
    warnings: tuple[str, ...] = ()


def read_transformer_settings(module_folder: Path) -> TransformerSettings:
    """The settings in the trunk's folder; empty without a file.

    Raises:
        NotAModelError: not a JSON object.
        ModelError: a value of the wrong type.
        UnsupportedError: a key or value that would change the vectors and is not implemented.
    """
    files = ((name, content) for name in TRANSFORMER_CONFIG_FILES if (content := read_json(module_folder / name)))
    name, content = next(files, (None, {}))
    if name is None:
        return TransformerSettings()
    path = module_folder / name
    settings = _rename_sections(path, content)
    warnings: list[str] = []
    sections = {key: _get_section(path, settings, key) for key in (*OLD_NAMES.values(), "processing_kwargs")}
    _check_keys(
        path,
        "",
        settings,
        allowed_values=ALLOWED_VALUES,
        known={*sections, "max_seq_length", "do_lower_case"},
        harmless=HARMLESS,
    )
    model, tokenizer = sections["model_kwargs"], sections["processor_kwargs"]
    _check_keys(path, "model_kwargs.", model, known=DTYPES, harmless=MODEL_HARMLESS)
    tokenizer_overrides = _read_tokenizer_overrides(path, tokenizer, warnings)
    config = {key: value for key, value in sections["config_kwargs"].items() if key not in HUB_KEYS}
    if "model_type" in config:
        raise UnsupportedError(f"{path}: config_kwargs.model_type is not implemented; config.json says the model_type.")
    for section in (model, config):
        warnings += [
            f"{name}: {key} {section[key]!r} is not used; give dtype= (--dtype) when loading the model."
            for key in DTYPES
            if section.get(key) not in NEUTRAL_DTYPES
        ]
    lower = settings.get("do_lower_case") or False
    if lower not in (False, True):
        raise ModelError(f"{path}: do_lower_case is {lower!r}; it must be true or false.")
    length = _read_call_max_length(path, sections["processing_kwargs"])
    if length is None:
        length = settings.get("max_seq_length")
        length = (tokenizer["model_max_length"] or NO_LIMIT) if "model_max_length" in tokenizer else length
    acting = {"max_seq_length": length, "do_lower_case": lower or None, **config, **tokenizer_overrides}
    return TransformerSettings(
        name,
        length,
        bool(lower),
        {key: value for key, value in config.items() if key not in DTYPES},
        tokenizer_overrides,
        tuple(f"{key} {value!r}" for key, value in acting.items() if value is not None),
        tuple(warnings),
    )


def _rename_sections(path: Path, content: Json) -> Json:
    """The settings with the current names of sections."""
    for old, new in OLD_NAMES.items():
        if content.get(old) and content.get(new):
            raise UnsupportedError(
                f"{path}: {old} and {new} are two names for the same section; leave one of them out."
            )
    empty_old = {key for key in OLD_NAMES if key in content and not content[key]}
    return {OLD_NAMES.get(key, key): value for key, value in content.items() if key not in empty_old}


def _get_section(path: Path, settings: Json, key: str) -> Json:
    value = settings.get(key) or {}
    if not isinstance(value, dict):
        raise ModelError(f"{path}: {key} is {value!r}; it must map names to values.")
    return value


def _read_tokenizer_overrides(path: Path, section: Json, warnings: list[str]) -> Json:
    """The keys that override tokenizer_config.json. All others are checked."""
    known = {"model_max_length", "model_input_names", *CALL_KEYS, *OVERRIDES, *UNREAD}
    _check_keys(path, "processor_kwargs.", section, known=known, harmless=TOKENIZER_HARMLESS)
    inputs = section.get("model_input_names") or ["attention_mask"]
    if "attention_mask" not in inputs:
        raise UnsupportedError(
            f"{path}: model_input_names {inputs!r} is not implemented; it must contain attention_mask."
        )
    for key in BOOLEAN_KEYS & section.keys():
        if not isinstance(section[key], bool) and (key, section[key]) != ("strip_accents", None):
            raise ModelError(f"{path}: {key} of the tokenizer is {section[key]!r}; it must be true or false.")
    with wrap_errors(path):
        check_tokens(section)
    if unread := [key for key in UNREAD if section.get(key) is not None]:
        warnings.append(
            f"{path.name}: {', '.join(unread)} of the tokenizer changes nothing, as in sentence-transformers; "
            "max_seq_length is the key that limits their length."
        )
    return {key: value for key, value in section.items() if key in OVERRIDES or key in CALL_KEYS}


def _read_call_max_length(path: Path, section: Json) -> Any:
    """`max_length` of `processing_kwargs`, with which the tokenizer is called. `common` overrides `text`."""
    _check_keys(path, "processing_kwargs.", section, known=("text", "common"), harmless=NON_TEXT_SECTIONS)
    merged = {**_get_section(path, section, "text"), **_get_section(path, section, "common")}
    _check_keys(
        path,
        "processing_kwargs.text.",
        merged,
        allowed_values=ALLOWED_CALL_VALUES,
        known=("max_length",),
        harmless=CALL_HARMLESS,
    )
    return merged.get("max_length")


def _check_keys(
    path: Path,
    where: str,
    section: Json,
    *,
    allowed_values: Mapping[str, tuple[Any, ...]] | None = None,
    known: Collection[str] = (),
    harmless: Collection[str] = (),
) -> None:
    """Check that each key of a section is known, or harmless, or has an allowed value, or has no value."""
    for key, value in section.items():
        if allowed_values and key in allowed_values:
            if not any(value == allowed and type(value) is type(allowed) for allowed in allowed_values[key]):
                allowed = ", ".join(repr(choice) for choice in allowed_values[key] if choice is not None) or "null"
                raise UnsupportedError(f"{path}: {where}{key} {value!r} is not implemented; it may be {allowed}.")
        elif key not in known and key not in harmless and value not in (None, "", [], {}):
            raise UnsupportedError(
                f"{path}: {where}{key} ({value!r}) is not known and may change the vectors. "
                "Remove it from the file if you know that it does not."
            )
