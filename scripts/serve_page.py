"""Writes docs/reference/serve-options.md from the tables of options: python scripts/serve_page.py

A test compares the page with what this program writes.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from gnomon.cli.serve_options.infinity import INFINITY
from gnomon.cli.serve_options.listing import describe_row
from gnomon.cli.serve_options.own import OWN
from gnomon.cli.serve_options.rows import Row
from gnomon.cli.serve_options.tei import TEI

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "serve-options.md"
HEAD = """\
# Server options

<!-- Written by scripts/serve_page.py from the tables of options. Change them, and run it again. -->

`gnomon serve MODEL [MODEL ...]` starts the server. It reads three sets of options: its own, those of infinity and those
of text-embeddings-router (TEI). Each option acts, or prints one line that says why it has no effect, or is refused with
exit status 2 and what to do instead.

## How values are chosen

1. What is typed holds before environment variables. Of these, `GNOMON_` variables come first, then `INFINITY_`
   variables, then those of TEI.
2. An empty variable counts as not set. A switch takes `true` or `false`.
3. A variable of several values has `;` between them: `GNOMON_MODEL="a/b;c/d"`. A `;` at the end is allowed.
4. An option that belongs to a model can be repeated: one value per model, in order. A single value holds for all
   models. `--name` needs one per model.
5. Two options that set the same thing to different values are refused.

Without an API key the server listens on 127.0.0.1, and with one on 0.0.0.0. `--host` chooses another address. A host
that others can reach, without a key, gives a warning. Give keys by `GNOMON_API_KEY` or `--api-key-file`: other users of
a machine can see its command lines.

A `GNOMON_` variable that nothing reads gives a line with the nearest name that is read. After the word `v2` a misspelt
`INFINITY_` variable does, too.

`gnomon serve --probe` asks the server on this machine whether it is ready. Its exit status is 0 or 1. It reads the same
options and variables for port, socket, host and TLS, so it suits the health check of a container.

Kubernetes sets `NAME_PORT` to an address such as `tcp://10.0.0.1:7997` for a service called NAME. Such a value of
`GNOMON_PORT`, `INFINITY_PORT` or `PORT` is not read; a line says so.

## Variables of gnomon's own options

[`gnomon serve`](cli.md#gnomon-serve) has their values and defaults.
"""
INFINITY_HEAD = """\
## Coming from infinity

Put `gnomon serve` in place of `infinity_emb`. The options work without the word `v2`, too.

| infinity | here |
|---|---|
| listens on 0.0.0.0 | after the word `v2`, with a warning if there is no API key; otherwise 127.0.0.1 without a key |
| a default model | a model must be named |
| `trust_remote_code` is on by default | code from a checkpoint is never run |
| `/docs` and `/openapi.json` | are not here: [server requests](server-api.md) has all routes |
| `--preload-only` ends by a signal, with exit status 3 | ends with exit status 0 |
| `--batch-size` is the size of a batch | an upper bound; the tokens of a batch decide |
| sends statistics of its use | sends none |

`gnomon serve --help-infinity` prints this table:
"""
TEI_HEAD = """\
## Coming from TEI

Put `gnomon serve` in place of `text-embeddings-router`. Its variables have names without a prefix, such as `PORT` and
`API_KEY`, which may be meant for other programs. They are read with `--tei-env` (or `GNOMON_TEI_ENV=true`) only, and
`HOSTNAME` is never read.

| TEI | here |
|---|---|
| `/docs` and `/api-doc/openapi.json` | are not here: [server requests](server-api.md) has all routes |
| port 3000, in its images 80 | 7997; `--port 3000` for the old one |
| listens on 0.0.0.0 | 127.0.0.1 without an API key |
| pages of any origin may call it | none; `--cors-allow-origin` allows one |
| at most 32 texts in a request | 2048 |
| at most 2 MB in a request | 32 MiB |
| metrics on port 9000, too | on the main port; `--prometheus-port 9000` for a second one |
| a folder without pooling is `cls` | `mean`, as in sentence-transformers |

`gnomon serve --help-tei` prints this table:
"""


def render_page() -> str:
    own = ["| variable | option | |", "|---|---|---|"]
    own += [f"| `{row.env}` | {render_flags(row)} | {mark(row.text)} |" for row in OWN]
    parts = [HEAD, *own, "", INFINITY_HEAD, *render_peer(INFINITY), "", TEI_HEAD, *render_peer(TEI)]
    return "\n".join(parts) + "\n"


def render_peer(rows: Sequence[Row]) -> list[str]:
    lines = ["| option | variable | its default | here |", "|---|---|---|---|"]
    for row in rows:
        variable = f"`{row.env}`" if row.env else ""
        lines.append(f"| {render_flags(row)} | {variable} | {mark(row.default)} | {mark(describe_row(row))} |")
    return lines


def render_flags(row: Row) -> str:
    return ", ".join(f"`{flag}`" for flag in row.flags)


def mark(text: str) -> str:
    """Plain text as Markdown: options, with their value, and names of variables as code."""
    code = r"(--[a-z][\w-]*(?: [A-Z]+\b)?|\b[A-Z]+_[A-Z_]+\b|\b\d_Dense\w*)"
    parts = re.split(code, text)
    return "".join(
        f"`{part}`" if number % 2 else re.sub(r"([\\*<>|_])", r"\\\1", part) for number, part in enumerate(parts)
    )


if __name__ == "__main__":
    PAGE.write_text(render_page(), "utf-8")
    print(f"wrote {PAGE.relative_to(Path.cwd())}")
