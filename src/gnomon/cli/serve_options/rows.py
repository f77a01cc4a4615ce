"""What a row of a table of options is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Reader = Callable[[str, str], Any]
"""(text of a value, option or variable that it comes from) -> value; None for the default. Raises InputError."""

Spread = Literal["one", "each", "position", "all"]
"""How values belong to models: one for the server; one per model, and a single one for every model; one per model by
its position; all of them, as a tuple."""

Form = Literal["value", "optional", "switch", "flag"]
"""How it is typed: --x VALUE; --x or --x=VALUE; --x or --no-x; --x alone."""

NO_EFFECT = ""
"""The field of a row that sets nothing."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """An option of the command line, and its environment variable.

    The flags of a peer's row may be ours, too. Rows with a flag in common mean the same: a test compares them.
    """

    flags: tuple[str, ...] = ()
    """Empty for a row that has an environment variable only. A switch has two: --x and --no-x."""
    env: str | None = None
    """The environment variable; "" if it has no variable. `name_variables` fills it in."""
    field: str = NO_EFFECT
    """The field of `ServeOptions` or `ModelOptions` that it sets, or "source" or "device_id"."""
    read: Reader
    spread: Spread = "one"
    form: Form = "value"
    metavar: str = "TEXT"
    default: str = ""
    """As the help says it."""
    text: str
    """What it does here; for a row without effect, why it has none."""
    warning: str = ""
    """What is printed when it acts."""
    lists_values: bool | None = None
    """Whether its variable holds several values, with ";" between them. None: unless there is one for the server."""
    kubernetes: bool = False
    """Whether Kubernetes sets this variable to an address for a service of the same name."""

    @property
    def acts(self) -> bool:
        return self.field != NO_EFFECT

    @property
    def is_list(self) -> bool:
        return self.spread != "one" if self.lists_values is None else self.lists_values

    @property
    def title(self) -> str:
        return self.flags[0] if self.flags else str(self.env)


def name_variables(prefix: str, rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows, each with the environment variable of its first flag: --max-body is PREFIX_MAX_BODY."""
    return tuple(row if row.env is not None else replace(row, env=prefix + slug(row.flags[0]).upper()) for row in rows)


def slug(flag: str) -> str:
    """--max-body -> max_body."""
    return flag.lstrip("-").replace("-", "_")
