"""What vectors may be compared: the model, the width, and how they were made."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from gnomon.errors import SpaceError


@dataclass(frozen=True)
class Space:
    """Vectors of equal spaces can be compared. Everything that stores vectors carries one."""

    fingerprint: str
    dim: int
    cut_from: int | None
    """Width of the head's own vectors, where `dim` is a prefix of them; None where it is all."""
    normalized: bool
    long_texts: str
    """ "cut", or "mean" of windows."""

    def check_same(self, other: Space) -> None:
        """Raise SpaceError, with every difference, unless `other` is the same space."""
        mine, theirs = asdict(self), asdict(other)
        differences = [f"{name} {mine[name]!r} and {theirs[name]!r}" for name in mine if mine[name] != theirs[name]]
        if differences:
            raise SpaceError(f"these vectors cannot be compared: {'; '.join(differences)}. Encode both the same way.")
