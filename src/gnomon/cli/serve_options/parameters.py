"""The tables as options of click: ours are in --help, those of the peers are hidden."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import click

from gnomon.cli.serve_options.infinity import INFINITY
from gnomon.cli.serve_options.own import OWN
from gnomon.cli.serve_options.rows import Row, slug
from gnomon.cli.serve_options.tei import TEI
from gnomon.cli.shared import TEXT


@dataclass(frozen=True)
class Parameter:
    """A row with the flags that no row before it has."""

    row: Row
    flags: tuple[str, ...]
    hidden: bool

    def to_click(self, name: str) -> click.Option:
        row = self.row
        if row.form == "switch":
            flags = "/".join(self.flags)
            return click.Option([name, flags], default=None, help=row.text, hidden=self.hidden)
        names = [name, *self.flags]
        if row.form == "flag":
            return click.Option(names, is_flag=True, help=row.text, hidden=self.hidden)
        if row.form == "optional":
            return click.Option(names, is_flag=False, flag_value="true", type=TEXT, help=row.text, hidden=self.hidden)
        return click.Option(names, type=TEXT, multiple=True, metavar=row.metavar, help=row.text, hidden=self.hidden)


def _collect_parameters() -> dict[str, Parameter]:
    """Name of a parameter of the command -> its row.

    Ours have the names of the library's arguments, so that its messages can name the option.
    """
    repeated = {field for field, number in Counter(row.field for row in OWN).items() if number > 1}
    parameters: dict[str, Parameter] = {}
    seen: set[str] = set()
    for table in (OWN, INFINITY, TEI):
        for row in table:
            flags = tuple(flag for flag in row.flags if flag not in seen)
            seen.update(flags)
            if flags:
                is_own = table is OWN
                name = row.field if is_own and row.field not in repeated else slug(flags[0])
                assert name not in parameters, name
                parameters[name] = Parameter(row, flags, hidden=not is_own)
    return parameters


PARAMETERS = _collect_parameters()


def click_options() -> list[click.Option]:
    return [parameter.to_click(name) for name, parameter in PARAMETERS.items()]
