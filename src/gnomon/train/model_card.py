"""The README.md of a model after contrastive training: how to use it, its data, scores and recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gnomon.spec import ModelSpec
from gnomon.train.recipe.checks import masks_duplicates
from gnomon.train.recipe.schema import LABEL_LOSSES, Recipe
from gnomon.train.recipe.toml import to_toml

if TYPE_CHECKING:
    from gnomon.train.objectives.objective import RunFacts
    from gnomon.train.objectives.row_counters import RowCounters


@dataclass(frozen=True)
class SourceFacts:
    name: str
    rows: int
    fingerprint: str
    target_share: float
    """Its share of the batches, by the weights of the mixture."""
    num_batches: int
    """The number of batches that were drawn from it."""
    seen: int = 0
    """Rows that were trained on, each counted once."""
    held_out: int = 0
    excluded: int = 0
    """Rows that were never drawn, because they have the query of a held-out row."""


@dataclass(frozen=True)
class DataFacts:
    """What contrastive training adds to the model card."""

    sources: tuple[SourceFacts, ...]
    counters: RowCounters
    teacher: str | None = None
    """The guide or teacher: a hub id, package:NAME or a folder's name."""
    teacher_fingerprint: str = ""


def render_model_card(recipe: Recipe, run: RunFacts, data: DataFacts) -> str:
    """Markdown after a front matter of YAML, as the hub reads it."""
    name = Path(recipe.output).absolute().name
    parts = [
        ["---", _front_matter(recipe, run).strip(), "---", "", f"# {name}", ""],
        _render_summary(recipe, run, data),
        ["## How to use", "", *_usage(run.spec), ""],
        ["## Data", "", *_data(recipe, data), ""],
        ["## Figures", "", *_figures(recipe, run, data), ""],
        ["## Recipe", "", *_fenced("toml", to_toml(recipe))],
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def _front_matter(recipe: Recipe, run: RunFacts) -> str:
    from huggingface_hub import ModelCardData

    hub = [path.split(":")[1] for source in recipe.sources for path in source.path if path.startswith("hf:")]
    return ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction", f"loss:{recipe.loss.name}"],
        base_model=run.base if _is_hub_id(run.base) else None,
        license=run.license,
        datasets=list(dict.fromkeys(hub)) or None,
    ).to_yaml()


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith(".") and not Path(name).exists()


def _render_summary(recipe: Recipe, run: RunFacts, data: DataFacts) -> list[str]:
    spec, rows = run.spec, sum(source.rows for source in data.sources)
    sources = "1 source" if len(data.sources) == 1 else f"{len(data.sources)} sources"
    dims = f", or their first {_join_with_or(spec.matryoshka_dims)}" if spec.matryoshka_dims else ""
    limit = spec.tokenizer.max_seq_length
    read = f" It reads {limit:,} tokens of a text." if limit else ""
    loss = recipe.loss.name + (f" and the {_teacher_role(recipe)} `{data.teacher}`" if data.teacher else "")
    trained = f"`{run.base}`, trained on {rows:,} rows of {sources} with the loss {loss}, by gnomon."
    vectors = f"A text becomes {spec.full_dim} numbers{dims}; texts are compared by {spec.similarity}.{read}"
    return [f"{trained} {vectors}", ""]


def _teacher_role(recipe: Recipe) -> str:
    return "guide" if recipe.loss.guide else "teacher"


def _usage(spec: ModelSpec) -> Iterator[str]:
    named = {"query": spec.query_prompt_name(), "document": spec.document_prompt_name}
    prompts = {kind: spec.prompts[name] for kind, name in named.items() if name}
    code = [
        "from sentence_transformers import SentenceTransformer",
        "",
        'model = SentenceTransformer("this-folder")',
        *(f"{kind}_prompt = {prompt!r}" for kind, prompt in prompts.items()),
        *(
            _encode(kind, text, prompted=kind in prompts, default=spec.default_prompt_name is not None)
            for kind, text in (("query", "where is the key?"), ("document", "The key is at the desk."))
        ),
        "print(model.similarity(queries, documents))",
    ]
    yield from _fenced("python", "\n".join(code))
    yield ""
    yield "Or without torch: `gnomon.Encoder.load(...)`, with `encode_query` and `encode_document`."


def _encode(kind: str, text: str, *, prompted: bool, default: bool) -> str:
    """One line of code that encodes a text; without a prompt of its kind, the text gets no default prompt either."""
    prompt = f", prompt={kind}_prompt" if prompted else ', prompt=""' if default else ""
    return f'{"queries" if kind == "query" else "documents"} = model.encode(["{text}"]{prompt})'


def _data(recipe: Recipe, data: DataFacts) -> Iterator[str]:
    batches = sum(source.num_batches for source in data.sources) or 1
    counters = data.counters
    yield from _table(
        ("source", "rows", "seen", "held out", "share asked for", "share drawn", "fingerprint"),
        [
            (
                source.name,
                f"{source.rows:,}",
                f"{source.seen:,}",
                f"{source.held_out:,}",
                f"{source.target_share:.2%}",
                f"{source.num_batches / batches:.2%}",
                source.fingerprint[:16],
            )
            for source in data.sources
        ],
    )
    yield ""
    used = [source for source in data.sources if source.target_share]
    rows, seen, held_out, excluded = (
        sum(getattr(source, name) for source in used) for name in ("rows", "seen", "held_out", "excluded")
    )
    trained = f"{counters.rows:,} rows were trained on, of one source in each batch"
    yield f"- {trained}: {seen:,} different ones of {rows:,}."
    if held_out:
        also = f"{excluded:,} more were left out since they have a query of those"
        yield f"- {held_out:,} rows were held out, and {also}."
    yield f"- {rows - seen - held_out - excluded:,} rows were never seen."
    if counters.replaced or counters.missing:
        yield (
            f"- {counters.replaced + counters.missing:,} rows could not stand where they were due, since a text of "
            f"theirs was in the batch: {counters.replaced:,} were replaced by other rows, {counters.missing:,} by none."
        )
    if counters.short:
        yield f"- {counters.short:,} batches were short for that reason."
    if counters.false_negatives:
        fate = "left out of the loss" if masks_duplicates(recipe.loss) else "trained as negatives"
        yield (
            f"- {counters.false_negatives:,} negatives were, as the model reads them, the query or a positive of their "
            f"own row, and were {fate}."
        )
    share = f" ({counters.truncated / counters.texts:.2%})" if counters.texts else ""
    yield f"- {counters.truncated:,} of {counters.texts:,} texts{share} were longer than the model reads, and were cut."


def _figures(recipe: Recipe, run: RunFacts, data: DataFacts) -> Iterator[str]:
    yield from _scores(recipe, run)
    counters = run.counters
    chosen = (
        "" if run.step == run.total_steps else f"; the weights are those behind step {run.step:,}, the best of them"
    )
    yield f"- {run.total_steps:,} steps{chosen}."
    if counters.without_gradient:
        yield f"- In {counters.without_gradient:,} of them the gradient was 0: their rows taught nothing."
    if counters.first_loss is not None and counters.last_loss is not None:
        yield f"- The loss was {counters.first_loss:.4f} at first and {counters.last_loss:.4f} at last."
    seconds = counters.seconds
    time = f"{seconds / 3600:.2f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
    processes = f"{run.world_size} processes on {run.device}" if run.world_size > 1 else run.device
    yield f"- {data.counters.tokens:,} tokens in {time}, by {processes}."
    yield f"- Fingerprint of the model that it was trained from: {run.base_fingerprint[:16]}."
    if data.teacher:
        yield f"- Fingerprint of the {_teacher_role(recipe)}: {data.teacher_fingerprint[:16]}."
    if run.versions:
        yield f"- {', '.join(f'{package} {version}' for package, version in run.versions.items())}."


def _scores(recipe: Recipe, run: RunFacts) -> Iterator[str]:
    """The table of scores before and after training, where there are scores."""
    before, after = run.scores_before, run.scores_after
    if not after:
        return
    correlates = recipe.loss.name in LABEL_LOSSES
    measure = "Spearman correlation of cosine and grade" if correlates else "mean reciprocal rank at 10"
    yield f"The {run.score_name or f'{measure}, on rows that were held out of training'}:"
    yield ""
    yield from _table(
        ("source", "before", "after"),
        [(name, f"{before[name]:.4f}" if name in before else "", f"{score:.4f}") for name, score in after.items()],
    )
    yield ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def _fenced(language: str, text: str) -> list[str]:
    """A code block whose fence is longer than any fence inside."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text.rstrip("\n"), fence]


def _join_with_or(numbers: Sequence[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
