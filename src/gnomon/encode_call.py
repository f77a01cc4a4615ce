"""`EncodeCall`: a list of texts while it is encoded.

B: texts of the caller; R: different texts; D: dimensions of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gnomon.encode_options import OnTruncate
from gnomon.errors import WorkerError
from gnomon.messages import list_some
from gnomon.packed import Vectors
from gnomon.pipeline import Encoded, EncodeRequest


class EncodeCall:
    """A list of texts while it is encoded. Equal texts are computed once, and each gets the vector."""

    def __init__(
        self,
        texts_B: Sequence[str],
        *,
        prompt: str,
        on_truncate: OnTruncate,
        dims: Sequence[int],
        first_position: int = 0,
        show_progress_bar: bool | None = None,
    ) -> None:
        """
        Args:
            dims: the dimensions of each sort of vectors that a text gets.
            first_position: the position of the first text among all texts of a stream.
        """
        row_of: dict[str, int] = {}
        self._rows_B = np.array([row_of.setdefault(text, len(row_of)) for text in texts_B], np.int64)
        self._positions_R = np.unique(self._rows_B, return_index=True)[1]  # where each different text stands first
        self.request = EncodeRequest(
            list(row_of),
            (self._positions_R + first_position).tolist(),
            len(texts_B),
            prompt,
            on_truncate,
            show_progress_bar,
        )
        self.token_counts_R = np.zeros(len(row_of), np.int64)
        self._first_position = first_position
        # filled with values, so that all of the memory is taken now: a lack of it shows at once
        self._outputs = [np.full((len(texts_B), dim), np.nan, np.float32) for dim in dims]
        self._failed: dict[str, list[int]] = {}
        self._num_missing = len(row_of)

    @property
    def is_done(self) -> bool:
        """Whether every text has its vectors, or has failed."""
        return not self._num_missing

    @property
    def token_counts_B(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return self.token_counts_R[self._rows_B]

    def add_vectors(self, rows: Sequence[int], vectors: Sequence[Vectors]) -> None:
        """Take the vectors of different texts, of each sort."""
        for output_BD, vectors_BD in zip(self._outputs, vectors, strict=True):
            output_BD[self._positions_R[rows]] = vectors_BD
        self._num_missing -= len(rows)

    def add_failure(self, rows: Sequence[int], reason: str) -> None:
        """Take the reason why different texts have no vectors."""
        self._failed.setdefault(reason, []).extend(rows)
        self._num_missing -= len(rows)

    def finish(self, truncated_B: Sequence[int]) -> list[Encoded]:
        """The vectors of all texts, of each sort.

        Args:
            truncated_B: the texts that were truncated, from 0.

        Raises:
            WorkerError: texts have failed.
        """
        first_positions_B = self._positions_R[self._rows_B]
        copies = np.flatnonzero(first_positions_B != np.arange(len(self._rows_B)))
        if len(copies):
            for output_BD in self._outputs:
                output_BD[copies] = output_BD[first_positions_B[copies]]
        if self._failed:
            raise self._make_error()
        truncated = [position + self._first_position for position in truncated_B]
        return [Encoded(output_BD, self.token_counts_B, truncated) for output_BD in self._outputs]

    def _make_error(self) -> WorkerError:
        """The error for texts whose batches failed: each reason with its texts, and the vectors of all others."""
        failed_texts = {
            reason: (np.flatnonzero(np.isin(self._rows_B, rows)) + self._first_position).tolist()
            for reason, rows in self._failed.items()
        }
        texts = sorted({text for texts in failed_texts.values() for text in texts})
        reasons = "; ".join(f"{reason} (texts {list_some(texts)})" for reason, texts in failed_texts.items())
        message = f"{len(texts)} of {len(self._rows_B)} texts have no vectors: {reasons}. All others were encoded."
        return WorkerError(message, texts, self._outputs[0] if len(self._outputs) == 1 else None)
