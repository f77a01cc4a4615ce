"""`EncodeOptions`: how texts become vectors, where the caller chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gnomon.errors import InputError
from gnomon.inputs import check_encodable
from gnomon.messages import check_choice

OnTruncate = Literal["warn", "error", "silent", "mean"]
"""What happens to a text that is longer than the model reads: it is truncated, with a warning or without; it is an
error; or it is read in overlapping windows, whose vectors are averaged."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How texts become vectors. `Encoder`, evaluation, the command line and servers all take this one value.

    The parameters mean what they mean in `Encoder.encode`. The encoder checks what depends on the model, such as
    whether it has a `dim`.

    Raises:
        InputError: both `prompt` and `prompt_name`; a value of a wrong type; an unknown `on_truncate`.
    """

    prompt: str | None = None
    prompt_name: str | None = None
    dim: int | None = None
    truncate_dim: int | None = None
    normalize_embeddings: bool | None = None
    on_truncate: OnTruncate = "warn"

    def __post_init__(self) -> None:
        if self.prompt is not None:
            if self.prompt_name is not None:
                raise InputError(
                    f"prompt {self.prompt!r} and prompt_name {self.prompt_name!r} were both given. Give one of them."
                )
            if not isinstance(self.prompt, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InputError(f"prompt is {self.prompt!r}. It must be a str.")
            check_encodable(self.prompt, "prompt")
        if self.normalize_embeddings not in (None, True, False):
            raise InputError(f"normalize_embeddings is {self.normalize_embeddings!r}. It may be True, False or None.")
        check_choice(self.on_truncate, "on_truncate", get_args(OnTruncate))

    @property
    def names_a_prompt(self) -> bool:
        """Whether the caller chose a prompt. Otherwise the model's default prompt is used."""
        return self.prompt is not None or self.prompt_name is not None


MODEL_DEFAULTS = EncodeOptions()
"""The options of a caller who chooses nothing."""
