"""`Space`: which vectors may be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from gnomon.errors import InputError, SpaceError


@dataclass(frozen=True)
class Space:
    """The model and the form of some vectors. Vectors can be compared where their spaces are equal.

    Everything that stores vectors stores their space. The names of the fields are keys of files.
    """

    fingerprint: str
    dim: int
    cut_from: int | None
    """Dimensions of the whole vectors, where these are truncated to the first `dim`; None for whole vectors."""
    normalized: bool
    """Whether the vectors have unit length."""
    long_texts: str
    """How texts longer than the model reads were encoded: "cut" (truncated), or "mean" (the mean of windows)."""

    def check_same(self, other: Space) -> None:
        """
        Raises:
            SpaceError: `other` is another space; names every difference.
        """
        ours, theirs = asdict(self), asdict(other)
        differences = [f"{name} {ours[name]!r} and {theirs[name]!r}" for name in ours if ours[name] != theirs[name]]
        if differences:
            raise SpaceError(f"these vectors cannot be compared: {'; '.join(differences)}. Encode both the same way.")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Space:
        """The space that a file holds.

        Raises:
            InputError: the keys or their types are not those of a space; `where` names the file.
        """
        types = {"fingerprint": str, "dim": int, "cut_from": int | None, "normalized": bool, "long_texts": str}
        names = [field.name for field in fields(cls)]
        if sorted(values) != sorted(names) or not all(isinstance(values[name], types[name]) for name in names):
            raise InputError(f"{where}: its space is {dict(values)!r}. A space has {', '.join(names)}. Encode anew.")
        return cls(**values)
