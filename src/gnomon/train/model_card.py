"""The README.md of a trained model: what it is, from what it was trained and how, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gnomon.spec import ModelSpec
from gnomon.train.recipe.checks import masks_duplicates
from gnomon.train.recipe.schema import LABEL_LOSSES, Recipe
from gnomon.train.recipe.toml import to_toml

Scores = Mapping[str, float]
"""Of held-out rows, by the name of their source."""


@dataclass(frozen=True)
class SourceFacts:
    name: str
    rows: int
    fingerprint: str
    target_share: float
    """Its share of the batches, as the mixture asks for it."""
    num_batches: int
    """How many it gave."""
    seen: int = 0
    """Rows that were trained on, each counted once."""
    held_out: int = 0
    excluded: int = 0
    """Rows that were never drawn, since they have the query of a held-out row."""


@dataclass(frozen=True)
class RunFacts:
    """What a run knows when it ends, for its model's card."""

    spec: ModelSpec
    """Of the model that is written."""
    base: str
    """What it was trained from: a hub id, package:NAME or a folder's name."""
    base_fingerprint: str
    sources: tuple[SourceFacts, ...]
    step: int
    """Behind which the weights are those of the card."""
    total_steps: int
    """That were run."""
    rows: int
    tokens: int
    texts: int
    truncated: int
    """Texts that were longer than the model reads."""
    short: int
    """Batches that could not be filled without texts that stand twice."""
    seconds: float
    device: str
    replaced: int = 0
    """Rows that stood in for others, of which a text was in the batch already."""
    missing: int = 0
    """Rows by which batches were short."""
    own_negatives: int = 0
    """Negatives that were the query or a positive of their own row."""
    world_size: int = 1
    without_gradient: int = 0
    """Steps whose gradient was 0."""
    first_loss: float | None = None
    last_loss: float | None = None
    before: Scores = field(default_factory=dict[str, float])
    after: Scores = field(default_factory=dict[str, float])
    score_name: str | None = None
    """What the scores are, where they are not the library's own."""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    """Package -> version."""
    license: str | None = None
    """Of the base."""
    teacher: str | None = None
    """What guided or taught it, named as the base is."""
    teacher_fingerprint: str = ""


def render_model_card(recipe: Recipe, facts: RunFacts) -> str:
    """Markdown behind a front matter of YAML, as the hub reads it."""
    name = Path(recipe.output).absolute().name
    parts = [
        ["---", _front_matter(recipe, facts).strip(), "---", "", f"# {name}", ""],
        _render_summary(recipe, facts),
        ["## How to use", "", *_use(facts), ""],
        ["## Data", "", *_data(recipe, facts), ""],
        ["## Figures", "", *_figures(recipe, facts), ""],
        ["## Recipe", "", *_fenced("toml", to_toml(recipe))],
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def _front_matter(recipe: Recipe, facts: RunFacts) -> str:
    from huggingface_hub import ModelCardData

    hub = [path.split(":")[1] for source in recipe.sources for path in source.path if path.startswith("hf:")]
    return ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction", f"loss:{recipe.loss.name}"],
        base_model=facts.base if _is_hub_id(facts.base) else None,
        license=facts.license,
        datasets=list(dict.fromkeys(hub)) or None,
    ).to_yaml()


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith(".") and not Path(name).exists()


def _render_summary(recipe: Recipe, facts: RunFacts) -> list[str]:
    spec, rows = facts.spec, sum(source.rows for source in facts.sources)
    sources = "1 source" if len(facts.sources) == 1 else f"{len(facts.sources)} sources"
    widths = f", or their first {_join_with_or(spec.matryoshka_dims)}" if spec.matryoshka_dims else ""
    limit = spec.tokenizer.max_seq_length
    read = f" It reads {limit:,} tokens of a text." if limit else ""
    loss = recipe.loss.name + (f" and the {_teacher_role(recipe)} `{facts.teacher}`" if facts.teacher else "")
    trained = f"`{facts.base}`, trained on {rows:,} rows of {sources} with the loss {loss}, by gnomon."
    vectors = f"A text becomes {spec.full_dim} numbers{widths}; texts are compared by {spec.similarity}.{read}"
    return [f"{trained} {vectors}", ""]


def _teacher_role(recipe: Recipe) -> str:
    return "guide" if recipe.loss.guide else "teacher"


def _use(facts: RunFacts) -> Iterator[str]:
    spec = facts.spec
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
    """A line of code; without a prompt of its kind a text gets none, the model's default neither."""
    prompt = f", prompt={kind}_prompt" if prompted else ', prompt=""' if default else ""
    return f'{"queries" if kind == "query" else "documents"} = model.encode(["{text}"]{prompt})'


def _data(recipe: Recipe, facts: RunFacts) -> Iterator[str]:
    drawn = sum(source.num_batches for source in facts.sources) or 1
    yield from _table(
        ("source", "rows", "seen", "held out", "share asked for", "share drawn", "fingerprint"),
        [
            (
                each.name,
                f"{each.rows:,}",
                f"{each.seen:,}",
                f"{each.held_out:,}",
                f"{each.target_share:.2%}",
                f"{each.num_batches / drawn:.2%}",
                each.fingerprint[:16],
            )
            for each in facts.sources
        ],
    )
    yield ""
    share = f" ({facts.truncated / facts.texts:.2%})" if facts.texts else ""
    used = [each for each in facts.sources if each.target_share]
    rows, seen, held, apart = (
        sum(getattr(each, what) for each in used) for what in ("rows", "seen", "held_out", "excluded")
    )
    yield f"- {facts.rows:,} rows were trained on, of one source in each batch: {seen:,} different ones of {rows:,}."
    if held:
        yield f"- {held:,} rows were held out, and {apart:,} more were left out since they have a query of those."
    yield f"- {rows - seen - held - apart:,} rows were never seen."
    if facts.replaced or facts.missing:
        yield (
            f"- {facts.replaced + facts.missing:,} rows could not stand where they were due, since a text of theirs "
            f"was in the batch: {facts.replaced:,} were replaced by other rows, {facts.missing:,} by none."
        )
    if facts.short:
        yield f"- {facts.short:,} batches were short for that reason."
    if facts.own_negatives:
        fate = "left out of the loss" if masks_duplicates(recipe.loss) else "trained as negatives"
        yield (
            f"- {facts.own_negatives:,} negatives were, as the model reads them, the query or a positive of their "
            f"own row, and were {fate}."
        )
    yield f"- {facts.truncated:,} of {facts.texts:,} texts{share} were longer than the model reads, and were cut."


def _figures(recipe: Recipe, facts: RunFacts) -> Iterator[str]:
    if facts.after:
        own = (
            "Spearman correlation of cosine and grade"
            if recipe.loss.name in LABEL_LOSSES
            else "mean reciprocal rank at 10"
        )
        yield f"The {facts.score_name or f'{own}, on rows that were held out of training'}:"
        yield ""
        before = {name: f"{score:.4f}" for name, score in facts.before.items()}
        yield from _table(
            ("source", "before", "after"),
            [(name, before.get(name, ""), f"{score:.4f}") for name, score in facts.after.items()],
        )
        yield ""
    chosen = (
        ""
        if facts.step == facts.total_steps
        else f"; the weights are those behind step {facts.step:,}, the best of them"
    )
    yield f"- {facts.total_steps:,} steps{chosen}."
    if facts.without_gradient:
        yield f"- In {facts.without_gradient:,} of them the gradient was 0: their rows taught nothing."
    if facts.first_loss is not None and facts.last_loss is not None:
        yield f"- The loss was {facts.first_loss:.4f} at first and {facts.last_loss:.4f} at last."
    processes = f"{facts.world_size} processes on {facts.device}" if facts.world_size > 1 else facts.device
    took = f"{facts.seconds / 3600:.2f} hours" if facts.seconds >= 3600 else f"{facts.seconds / 60:.1f} minutes"
    yield f"- {facts.tokens:,} tokens in {took}, by {processes}."
    yield f"- Fingerprint of the model that it was trained from: {facts.base_fingerprint[:16]}."
    if facts.teacher:
        yield f"- Fingerprint of the {_teacher_role(recipe)}: {facts.teacher_fingerprint[:16]}."
    if facts.versions:
        yield f"- {', '.join(f'{package} {version}' for package, version in facts.versions.items())}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def _fenced(language: str, text: str) -> list[str]:
    """A block whose fence is longer than any within."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text.rstrip("\n"), fence]


def _join_with_or(numbers: Sequence[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
