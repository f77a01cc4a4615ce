"""`CompatTokenizer`: a model's tokenizer with the methods of transformers' tokenizers that scripts call.

B: texts; T: tokens of the longest text of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gnomon.compat.tensors import Tensor, require_tensor, to_tensor
from gnomon.errors import InputError
from gnomon.inputs import as_texts
from gnomon.tokenizer import Tokenizer

Batch = dict[str, Any]
"""Name -> values of a batch: input_ids, attention_mask, and token_type_ids where the model reads them."""

PAD_TOKENS = ("[PAD]", "<pad>", "<|endoftext|>")


class CompatTokenizer:
    """Turns texts into token ids as transformers' tokenizer of the same model does.

    It has the methods and attributes that scripts use to count, split and look at tokens, and cannot be changed.

    Args:
        tokenizer: the model's tokenizer.
        token_types: whether the model reads token_type_ids.
    """

    def __init__(self, tokenizer: Tokenizer, token_types: bool) -> None:
        self._tokenizer, self._raw, self._token_types = tokenizer, tokenizer.raw, token_types
        ids = (self._raw.token_to_id(token) for token in PAD_TOKENS)
        self.pad_token_id: int = next((index for index in ids if index is not None), 0)

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        padding: bool | Literal["longest", "max_length", "do_not_pad"] = False,
        truncation: bool | Literal["longest_first", "do_not_truncate"] = False,
        max_length: int | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
    ) -> Batch:
        """input_ids, attention_mask and, where the model reads them, token_type_ids.

        Args:
            text: one text, or several.
            padding: True or "longest" pads to the longest text, "max_length" to `max_length`.
            truncation: True truncates to `max_length`.
            max_length: tokens; None for the model's own limit.
            return_tensors: "pt" for tensors, "np" for arrays; None for lists.
        """
        limit = max_length or self.model_max_length
        rows = self._encode_all(as_texts(text), add_special_tokens)
        if truncation not in (False, "do_not_truncate"):
            rows = [self._truncate(row, limit, add_special_tokens) for row in rows]
        length = limit if padding == "max_length" else max(map(len, rows), default=0)
        pads = padding not in (False, "do_not_pad")
        if return_tensors and not pads and len({*map(len, rows)}) > 1:
            raise InputError("the texts have different numbers of tokens, and a tensor needs one. Give padding=True.")
        batch = self._build_batch(rows, length if pads else None)
        if return_tensors:
            convert: Callable[[Any], Any] = (
                (lambda rows: require_tensor(rows, "return_tensors='pt'")) if return_tensors == "pt" else np.asarray
            )
            return {name: convert(np.array(values, np.int64)) for name, values in batch.items()}
        return {name: values[0] for name, values in batch.items()} if isinstance(text, str) else batch

    def encode(
        self,
        text: str,
        add_special_tokens: bool = True,
        truncation: bool | str = False,
        max_length: int | None = None,
    ) -> list[int]:
        """The ids of one text."""
        batch = self(text, add_special_tokens=add_special_tokens, truncation=truncation, max_length=max_length)  # pyright: ignore[reportArgumentType]
        return batch["input_ids"]

    def tokenize(self, text: str) -> list[str | None]:
        """The tokens of one text, without special tokens."""
        return self.convert_ids_to_tokens(self.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of ids."""
        return self._raw.decode(np.atleast_1d(np.asarray(token_ids)).tolist(), skip_special_tokens=skip_special_tokens)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False) -> list[str]:
        """The texts of several sequences of ids."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        return [self._raw.id_to_token(int(index)) for index in ids]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        if isinstance(tokens, str):
            return self._raw.token_to_id(tokens)
        return [self._raw.token_to_id(token) for token in tokens]

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
        return self._tokenizer.spec.max_seq_length or 10**30

    @property
    def is_fast(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the tokenizer of gnomon.compat has no attribute {name!r}. "
            "transformers.AutoTokenizer.from_pretrained(MODEL) gives the tokenizer that has it."
        )

    def features(self, texts: list[str]) -> Batch:
        """What the model reads of texts, padded, as tensors [B, T] (arrays without torch)."""
        rows = [self._tokenizer.truncate(ids_T).tolist() for ids_T in self._tokenizer.encode(texts)]
        length = max(map(len, rows), default=0)
        batch = self._build_batch(rows, length)
        return {name: to_tensor(np.array(ids, np.int64).reshape(len(rows), length)) for name, ids in batch.items()}

    def _encode_all(self, texts: list[str], add_special_tokens: bool) -> list[list[int]]:
        return [one.ids for one in self._raw.encode_batch(texts, add_special_tokens=add_special_tokens)]

    def _truncate(self, ids: list[int], limit: int, special_tokens: bool) -> list[int]:
        if len(ids) <= limit or not special_tokens:
            return ids[:limit]
        tail = self._tokenizer.num_trailing_special
        return [*ids[: limit - tail], *ids[len(ids) - tail :]]

    def _build_batch(self, rows: list[list[int]], length: int | None) -> Batch:
        """Lists of ids and masks, padded to a length; None for no padding."""

        def pad(row: list[int], value: int) -> list[int]:
            return row if length is None else row + [value] * (length - len(row))

        batch: Batch = {
            "input_ids": [pad(row, self.pad_token_id) for row in rows],
            "attention_mask": [pad([1] * len(row), 0) for row in rows],
        }
        if self._token_types:
            batch["token_type_ids"] = [[0] * len(row) for row in batch["input_ids"]]
        return batch


def unpad(batch: Batch) -> list[dict[str, Tensor]]:
    """The rows of a padded batch, each without its padding."""
    lengths: NDArray[Any] = np.asarray(batch["attention_mask"]).sum(axis=1)
    return [{name: values[row][:length] for name, values in batch.items()} for row, length in enumerate(lengths)]
