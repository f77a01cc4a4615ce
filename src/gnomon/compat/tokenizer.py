"""`CompatTokenizer`: a model's tokenizer with the methods of transformers' tokenizers that scripts call.

B: texts; T: tokens of the longest text of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gnomon.compat.tensors import Tensor, is_tensor, require_tensor, to_tensor
from gnomon.errors import InputError
from gnomon.inputs import as_texts
from gnomon.tokenizer import Tokenizer

PAD_TOKENS = ("[PAD]", "<pad>", "<|endoftext|>")
SPECIAL_TOKENS = {
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "pad_token": PAD_TOKENS,
    "unk_token": ("[UNK]", "<unk>"),
    "mask_token": ("[MASK]", "<mask>"),
}
"""Attribute of transformers' tokenizers -> how the token may be written. With _id, its id."""


NO_LIMIT = 10**30
"""As transformers writes that there is no limit."""


class Batch(dict[str, Any]):
    """What a model reads of texts: input_ids, attention_mask, and token_type_ids where it has them.

    The values are attributes too, as in transformers.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"the batch has no {name!r}. It has {', '.join(self)}.")
        return self[name]

    def to(self, device: Any) -> Batch:
        """The batch with its tensors on a device."""
        return Batch({name: value.to(device) if is_tensor(value) else value for name, value in self.items()})


class CompatTokenizer:
    """Turns texts into token ids as transformers' tokenizer of the same model does.

    It has the methods and attributes that scripts use to count, split and look at tokens, and cannot be changed.

    Args:
        tokenizer: the model's tokenizer.
        token_types: whether the model reads token_type_ids.
    """

    def __init__(self, tokenizer: Tokenizer, token_types: bool) -> None:
        vars(self).update(_tokenizer=tokenizer, _raw=tokenizer.raw, _token_types=token_types)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"the tokenizer of gnomon.compat cannot be changed, so {name} cannot be set. For a length set "
            "max_seq_length of the model; anything else belongs into the model's folder."
        )

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | Literal["longest", "max_length", "do_not_pad"] = False,
        truncation: bool | Literal["longest_first", "do_not_truncate"] | None = None,
        max_length: int | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
        return_offsets_mapping: bool = False,
        **unknown: Any,
    ) -> Batch:
        """input_ids, attention_mask and, where the model reads them, token_type_ids.

        Args:
            text: one text, or several.
            padding: True or "longest" pads to the longest text, "max_length" to `max_length`.
            truncation: True truncates to `max_length`; None does if that is given.
            max_length: tokens; None for the model's own limit.
            return_tensors: "pt" for tensors, "np" for arrays; None for lists.
            return_offsets_mapping: whether offset_mapping is given: start and end of each token in its text.

        Raises:
            InputError: an argument that is not supported.
        """
        _check_arguments(text_pair, padding, truncation, return_tensors, unknown)
        limit = max_length or self.model_max_length
        encodings = self._raw.encode_batch(as_texts(text), add_special_tokens=add_special_tokens)
        is_limited = max_length is not None if truncation is None else truncation not in (False, "do_not_truncate")
        keep = [
            self._select_tokens(len(each.ids), limit if is_limited else len(each.ids), add_special_tokens)
            for each in encodings
        ]
        rows = [[each.ids[index] for index in indices] for each, indices in zip(encodings, keep, strict=True)]
        pads = padding not in (False, "do_not_pad")
        if return_tensors and not pads and len({*map(len, rows)}) > 1:
            raise InputError("the texts have different numbers of tokens, and a tensor needs one. Give padding=True.")
        length = limit if padding == "max_length" else max(map(len, rows), default=0)
        batch = self._build_batch(rows, length if pads else None)
        if return_offsets_mapping:
            batch["offset_mapping"] = [
                [each.offsets[index] for index in indices] for each, indices in zip(encodings, keep, strict=True)
            ]
        if return_tensors:
            return Batch({name: _to_output(values, return_tensors) for name, values in batch.items()})
        return Batch({name: values[0] for name, values in batch.items()}) if isinstance(text, str) else batch

    def encode(
        self,
        text: str,
        add_special_tokens: bool = True,
        truncation: bool | Literal["longest_first", "do_not_truncate"] | None = None,
        max_length: int | None = None,
        **unknown: Any,
    ) -> Any:
        """The ids of one text: a list, or a tensor [1, T] with return_tensors="pt"."""
        batch = self(
            text, add_special_tokens=add_special_tokens, truncation=truncation, max_length=max_length, **unknown
        )
        return batch["input_ids"]

    def tokenize(self, text: str) -> list[str | None]:
        """The tokens of one text, without special tokens."""
        return [self._raw.id_to_token(index) for index in self.encode(text, add_special_tokens=False)]

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of ids."""
        return self._raw.decode(np.atleast_1d(np.asarray(token_ids)).tolist(), skip_special_tokens=skip_special_tokens)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False) -> list[str]:
        """The texts of several sequences of ids."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """The token of an id, or the tokens of several."""
        if np.ndim(ids) == 0:
            return self._raw.id_to_token(int(ids))
        return [self._raw.id_to_token(int(index)) for index in ids]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a token, or the ids of several; that of the unknown token for others."""
        if isinstance(tokens, str):
            index = self._raw.token_to_id(tokens)
            return self._find_special("unk_token")[1] if index is None else index
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def get_vocab(self) -> dict[str, int]:
        """Token -> id."""
        return self._raw.get_vocab()

    @property
    def vocab_size(self) -> int:
        return self._raw.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self._raw.get_vocab_size()

    @property
    def model_max_length(self) -> int:
        """Tokens that the model reads of a text; a very large number where there is no limit."""
        return self._tokenizer.spec.max_seq_length or NO_LIMIT

    @property
    def is_fast(self) -> bool:
        return True

    @property
    def vocab(self) -> dict[str, int]:
        return self.get_vocab()

    @property
    def all_special_ids(self) -> list[int]:
        ids = [self._find_special(name)[1] for name in SPECIAL_TOKENS]
        return [index for index in ids if index is not None]

    def _find_special(self, name: str) -> tuple[str | None, int | None]:
        """A special token and its id; None for both where the tokenizer has none."""
        ids = {token: self._raw.token_to_id(token) for token in SPECIAL_TOKENS[name]}
        return next(((token, index) for token, index in ids.items() if index is not None), (None, None))

    def __getattr__(self, name: str) -> Any:
        if name in SPECIAL_TOKENS:
            return self._find_special(name)[0]
        if name.removesuffix("_id") in SPECIAL_TOKENS:
            return self._find_special(name.removesuffix("_id"))[1]
        raise AttributeError(
            f"the tokenizer of gnomon.compat has no attribute {name!r}. "
            "transformers.AutoTokenizer.from_pretrained(MODEL) gives the tokenizer that has it."
        )

    def features(self, texts: list[str]) -> Batch:
        """What the model reads of texts, padded, as tensors [B, T] (arrays without torch)."""
        rows = [self._tokenizer.truncate(ids_T).tolist() for ids_T in self._tokenizer.encode(texts)]
        length = max(map(len, rows), default=0)
        batch = self._build_batch(rows, length)
        return Batch(
            {name: to_tensor(np.array(ids, np.int64).reshape(len(rows), length)) for name, ids in batch.items()}
        )

    def _select_tokens(self, count: int, limit: int, special_tokens: bool) -> list[int]:
        """Indices of the tokens that are left of `count` when `limit` are. Special tokens stay."""
        tail = self._tokenizer.num_trailing_special if special_tokens else 0
        if limit < tail + (self._tokenizer.num_leading_special if special_tokens else 0):
            raise InputError(f"max_length is {limit}, which is fewer than the special tokens. Give more.")
        return [*range(count)] if count <= limit else [*range(limit - tail), *range(count - tail, count)]

    def _build_batch(self, rows: list[list[int]], length: int | None) -> Batch:
        """Lists of ids and masks, padded to a length; None for no padding."""

        def pad(row: list[int], value: int) -> list[int]:
            return row if length is None else row + [value] * (length - len(row))

        pad_id = self._find_special("pad_token")[1] or 0
        batch = Batch(
            input_ids=[pad(row, pad_id) for row in rows], attention_mask=[pad([1] * len(row), 0) for row in rows]
        )
        if self._token_types:
            batch["token_type_ids"] = [[0] * len(row) for row in batch["input_ids"]]
        return batch


def unpad(batch: Batch) -> list[dict[str, Tensor]]:
    """The rows of a padded batch, each without its padding."""
    lengths: NDArray[Any] = np.asarray(batch["attention_mask"]).sum(axis=1)
    return [{name: values[row][:length] for name, values in batch.items()} for row, length in enumerate(lengths)]


def _check_arguments(
    text_pair: object, padding: object, truncation: object, return_tensors: object, unknown: Mapping[str, Any]
) -> None:
    """
    Raises:
        InputError: an argument or a value of transformers that is not supported.
    """
    if text_pair is not None:
        raise InputError("text_pair is given. A model of texts reads one text at a time; leave it out.")
    for name, value, choices in (
        ("padding", padding, (True, False, "longest", "max_length", "do_not_pad")),
        ("truncation", truncation, (True, False, None, "longest_first", "do_not_truncate")),
        ("return_tensors", return_tensors, ("pt", "np", None)),
    ):
        if value not in choices:
            raise InputError(f"{name} is {value!r}. It may be {', '.join(map(repr, choices))}.")
    if unknown:
        raise InputError(
            f"the tokenizer of gnomon.compat has no argument {next(iter(unknown))!r}. "
            "transformers.AutoTokenizer.from_pretrained(MODEL) gives the tokenizer that has it."
        )


def _to_output(values: list[Any], kind: str) -> Any:
    array = np.array(values, np.int64)
    return require_tensor(array, 'return_tensors="pt"') if kind == "pt" else array
