"""What `Encoder` answers to arguments and attributes of sentence-transformers' class: what to do instead.

Only names that people bring from there are listed. Every other unknown name is Python's own TypeError or
AttributeError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from gnomon.errors import InputError

COMPAT = "gnomon.compat.SentenceTransformer takes it."
NOT_IN_COMPAT = ("modules", "model_card_data")
_ON_LOAD = "A model keeps its device: Encoder.load(..., device=...)."
_SETTINGS = "Keys that change no vector can be left out."

ENCODE_ARGUMENTS = {
    "batch_size": "Texts are batched by their tokens. Leave it out.",
    "chunk_size": "Work is split by tokens. Leave it out.",
    "convert_to_numpy": "The result is always a numpy array. Leave it out.",
    "convert_to_tensor": "The result is a numpy array: torch.from_numpy(vectors) makes it a tensor.",
    "device": _ON_LOAD,
    "output_value": 'encode_tokens(texts) gives the states of tokens, for "token_embeddings".',
    "pool": 'Several processes: Encoder.load(..., device=["cuda:0", "cuda:1"]).',
    "precision": 'gnomon.quantize(vectors, "int8") stores vectors in fewer bytes.',
}
"""Argument of `encode` and its relatives -> what to do."""

LOAD_ARGUMENTS = {
    "backend": 'engine="onnx", "openvino" or "torch" chooses it.',
    "cache_folder": "Here it is called cache_dir, as in huggingface_hub.",
    "config_kwargs": _SETTINGS,
    "default_prompt_name": "Give prompt_name= to encode.",
    "model_card_data": "gnomon writes no such card. Leave it out.",
    "model_kwargs": f'dtype="float16" and device= are arguments here. {_SETTINGS}',
    "modules": "Build the model with sentence_transformers, save it, and load the folder.",
    "processor_kwargs": f"max_seq_length= is an argument here. {_SETTINGS}",
    "prompts": "Give prompt= to encode.",
    "similarity_fn_name": "A model has its own score function; gnomon.search.top_k(..., score=) takes another.",
    "tokenizer_kwargs": f"max_seq_length= is an argument here. {_SETTINGS}",
    "truncate_dim": "Give truncate_dim= to encode.",
    "trust_remote_code": "No code of a checkpoint is ever run, and none is needed. Leave it out.",
    "use_auth_token": "Here it is called token, as in huggingface_hub.",
}
"""Argument of sentence-transformers' constructor -> what to do."""

ATTRIBUTES = {
    "cpu": _ON_LOAD,
    "cuda": _ON_LOAD,
    "default_prompt_name": "Give prompt_name= to encode.",
    "encode_multi_process": ENCODE_ARGUMENTS["pool"],
    "eval": "It only encodes. Leave it out.",
    "fit": "`gnomon train` and gnomon.train train models.",
    "get_embedding_dimension": "It is the property dim.",
    "get_sentence_embedding_dimension": "It is the property dim.",
    "get_max_seq_length": "It is the property max_seq_length.",
    "half": 'Encoder.load(..., dtype="float16") computes in float16.',
    "preprocess": "It is called tokenize.",
    "save_pretrained": "It is called save.",
    "similarity_fn_name": "It is spec.similarity.",
    "stop_multi_process_pool": "close() ends the processes.",
    "start_multi_process_pool": ENCODE_ARGUMENTS["pool"],
    "to": _ON_LOAD,
    "truncate_dim": "Give truncate_dim= to encode.",
    "truncate_embeddings": "Give truncate_dim= to encode.",
}
"""Attribute of sentence-transformers' class -> what to do."""


def refuse_arguments(function: str, arguments: Mapping[str, object], remedies: Mapping[str, str]) -> None:
    """
    Raises:
        InputError: an argument of sentence-transformers; says what to do. TypeError: any other.
    """
    for name in arguments:
        if name in remedies:
            compat = "" if name in NOT_IN_COMPAT else f" {COMPAT}"
            raise InputError(f"{function} has no argument {name}. {remedies[name]}{compat}")
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def refuse_attribute(name: str) -> NoReturn:
    """
    Raises:
        AttributeError: `Encoder` has no such attribute; for one of sentence-transformers it says what to do.
    """
    remedy = f". {ATTRIBUTES[name]}" if name in ATTRIBUTES else ""
    raise AttributeError(f"'Encoder' object has no attribute {name!r}{remedy}")
