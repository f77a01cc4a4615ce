"""Every exception that gnomon raises on purpose.

    GnomonError
    ├── InputError (ValueError)         a text, dim, prompt name or option that cannot be used
    │   ├── TruncationError             on_truncate="error" and a text was longer than the model reads
    │   └── SpaceError                  vectors of two different spaces were about to be compared
    ├── ModelError (ValueError)         the checkpoint cannot be used
    │   ├── NotAModelError              the folder is not a model, or a file that it needs is missing
    │   ├── UnsupportedError            something that would change the result and is not implemented
    │   ├── WeightsError                missing, extra, misshapen or truncated weights
    │   └── UnsafeFileError             a file that would run code, or a path that leaves the model's folder
    ├── SourceError (OSError)           a hub id or package that cannot be reached: offline, unknown, refused
    ├── CheckpointError (OSError)       a training checkpoint that cannot be written, or is damaged
    ├── ExtraError (ImportError)        an optional dependency is not installed; names the extra
    ├── UnavailableError (ImportError)  a name of sentence_transformers that gnomon.compat does not have
    ├── DeviceMemoryError (MemoryError) one text alone does not fit into the memory of its device
    ├── WorkerError (RuntimeError)      some texts failed in a worker process; holds the vectors of all others
    └── NumericError (ArithmeticError)  NaN or infinity in a result

`Notice` is the category of every warning. `TruncationNotice` is one of them and holds the positions of truncated texts.
A message gives the value, the rule and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Notice(UserWarning):
    """A warning: something was done or assumed that the caller should know."""


class TruncationNotice(Notice):
    """Texts were longer than the model reads and were truncated.

    Args:
        message: says how many, and which is the longest.
        texts: positions of these texts in the call, ascending. Equal texts count once, at the first position.
    """

    def __init__(self, message: str, texts: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.texts = tuple(texts)


class GnomonError(Exception):
    """Base of every exception that gnomon raises on purpose."""


class InputError(GnomonError, ValueError):
    """A text, dim, prompt name or option that cannot be used."""


class TruncationError(InputError):
    """A text is longer than the model reads, and `on_truncate="error"` was requested."""


class SpaceError(InputError):
    """Vectors of two different spaces were about to be compared."""


class ModelError(GnomonError, ValueError):
    """The checkpoint cannot be used."""


class NotAModelError(ModelError):
    """The folder is not a model, or a file that it needs is missing."""


class UnsupportedError(ModelError):
    """A config key, module or value that would change the result and is not implemented."""


class WeightsError(ModelError):
    """Missing, extra, misshapen or truncated weights."""


class UnsafeFileError(ModelError):
    """A file that would run code, or a path that leaves the model's folder."""


class SourceError(GnomonError, OSError):
    """A hub id or package that cannot be reached: offline, unknown or refused."""


class CheckpointError(GnomonError, OSError):
    """A checkpoint of a training run that cannot be written, is damaged or is of another model."""


class ExtraError(GnomonError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class UnavailableError(GnomonError, ImportError):
    """A name that sentence_transformers exports and gnomon.compat does not; the message says what to use."""


class NumericError(GnomonError, ArithmeticError):
    """NaN or infinity in a result."""


class DeviceMemoryError(GnomonError, MemoryError):
    """One text alone does not fit into the memory of its device."""


class WorkerError(GnomonError, RuntimeError):
    """Some texts failed in a worker process. The vectors of all others are in this error.

    Args:
        message: what happened in each worker that failed.
        texts: positions of the texts that have no vectors.
        vectors: as `encode` returns them, with NaN in the rows of `texts`; None where the caller wanted none.
    """

    def __init__(self, message: str, texts: Sequence[int] = (), vectors: NDArray[np.float32] | None = None) -> None:
        super().__init__(message)
        self.texts, self.vectors = list(texts), vectors
