"""What a recipe names, opened: sources, mixture, batches; and what a loss cannot take."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import bert, checkpoint, graded, recipe_of, rows, taught, write

from gnomon.errors import InputError
from gnomon.tokenizer import Tokenizer
from gnomon.train.data.prepare import TrainingData, count_steps, open_training_data
from gnomon.train.distributed import Ranks
from gnomon.train.recipe.schema import DataSource, LossSettings, Recipe, ValidationSettings


def opened(recipe: Recipe) -> TrainingData:
    base = checkpoint(bert())
    return open_training_data(
        recipe, base.spec, Tokenizer(base.tokenizer, base.spec.tokenizer), Ranks(), progress=False
    )


@pytest.fixture
def of(tmp_path: Path) -> Any:
    """Opens a recipe of sources, each given by its rows and settings."""

    def made(*sources: tuple[list[dict[str, Any]], dict[str, Any]], **changes: Any) -> TrainingData:
        written = []
        for place, (lines, settings) in enumerate(sources):
            source = write(tmp_path / f"rows{place}.jsonl", lines)
            written.append(DataSource(**{**source.__dict__, **settings}))
        return opened(recipe_of(tmp_path, tmp_path / "out", *written, **changes))

    return made


def test_sources_are_opened_by_name_with_their_weights(of: Any, tmp_path: Path) -> None:
    data = of((rows(40), {"name": "first", "weight": 3.0}), (rows(30, seed=1), {"weight": 1.0}))
    assert [index.name for index in data.datasets] == ["first", "rows1"]
    assert data.weights.tolist() == [0.75, 0.25]
    assert [*data.fingerprints] == ["first", "rows1"]
    assert len({*data.fingerprints.values()}) == 2
    assert {data.collator.collate(data.sampler.batch_at(batch)).rows.source_name for batch in range(20)} == {
        "first",
        "rows1",
    }
    assert [*(tmp_path / "cache").iterdir()], "indexes lie where the recipe says"


def test_held_out_rows_are_of_every_source_and_never_drawn(of: Any) -> None:
    sources = ((rows(40), {"name": "a"}), (rows(30, seed=1, negatives=2), {"name": "b"}))
    data = of(*sources, validation=ValidationSettings(5))
    held = data.collate_held_out()
    assert [(each.rows.source_name, len(each.rows.queries), len(each.rows.negatives)) for each in held] == [
        ("a", 5, 0),
        ("b", 5, 10),
    ]
    drawn: dict[str, set[int]] = {"a": set(), "b": set()}
    for batch in range(200):
        some = data.collator.read_rows(data.sampler.batch_at(batch))
        drawn[some.source_name] |= {*some.rows_B.tolist()}
    for each, whole in zip(held, (40, 30), strict=True):
        assert drawn[each.rows.source_name] | {*each.rows.rows_B.tolist()} == {*range(whole)}
        assert not drawn[each.rows.source_name] & {*each.rows.rows_B.tolist()}
    assert of(*sources).collate_held_out() == []


@pytest.mark.parametrize(
    ("lines", "loss"),
    [
        (rows(20), LossSettings()),
        (rows(20, negatives=3), LossSettings()),
        (graded(20), LossSettings("cosent")),
        (taught(20, negatives=2), LossSettings("margin_mse")),
    ],
    ids=["pairs", "triplets", "graded", "taught"],
)
def test_records_are_the_rows_of_the_file(lines: list[dict[str, Any]], loss: LossSettings, of: Any) -> None:
    data = of((lines, {}), loss=loss)
    some = data.collator.read_rows(data.sampler.batch_at(2))
    records = [*data.to_records(some)]
    assert len(records) == 8
    for row, entry in zip(some.rows_B.tolist(), records, strict=True):
        assert entry.pop("place").endswith(f"rows0.jsonl, line {row + 1}")
        assert entry == lines[row]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"max_steps": 7}, 7),
        ({"max_steps": 7, "num_train_epochs": 99.0}, 7),
        ({"max_steps": None}, 9),
        ({"max_steps": None, "num_train_epochs": 2.5}, 22),
        ({"max_steps": None, "gradient_accumulation_steps": 2}, 5),
        ({"max_steps": None, "validation": ValidationSettings(8)}, 7),
        ({"max_steps": None, "num_train_epochs": 0.001}, 1),
    ],
)
def test_steps_are_those_asked_for_or_epochs_of_all_rows(changes: dict[str, Any], steps: int, of: Any) -> None:
    data = of((rows(40), {}), (rows(30, seed=1), {}), **changes)
    source = DataSource(("x",))
    assert count_steps(recipe_of(Path("m"), Path("o"), source, **changes), data) == steps


@pytest.mark.parametrize(
    ("lines", "settings", "loss", "message"),
    [
        (rows(20), {}, LossSettings("cosent"), "'cosent'.*'rows0' has none.*score"),
        (
            taught(20),
            {},
            LossSettings("cosine_regression"),
            "'cosine_regression'.*'rows0' has negatives",
        ),
        (rows(20, negatives=1), {}, LossSettings("margin_mse"), "'margin_mse'.*'rows0' has no scores"),
        (graded(20), {}, LossSettings("kl_and_contrast"), "'kl_and_contrast'.*'rows0' has one score per row"),
        (
            [row | {"score": -5 * row["score"]} for row in graded(20)],
            {},
            LossSettings("cosine_regression"),
            "'cosine_regression'.*from -1 to 1.*'rows0' is -[1-5].*cosent",
        ),
    ],
)
def test_rows_that_a_loss_cannot_take_are_refused(
    lines: list[dict[str, Any]], settings: dict[str, Any], loss: LossSettings, message: str, of: Any
) -> None:
    with pytest.raises(InputError, match=message):
        of((lines, settings), loss=loss)


def test_one_of_two_sources_that_does_not_fit_is_named(of: Any) -> None:
    with pytest.raises(InputError, match="'second' has none"):
        of((graded(20), {}), (rows(20), {"name": "second"}), loss=LossSettings("cosent"))


def test_every_row_is_seen_once_an_epoch(of: Any) -> None:
    data = of((rows(40), {}))
    drawn = np.concatenate([data.sampler.batch_at(batch).rows_B for batch in range(5)])
    assert sorted(drawn.tolist()) == [*range(40)]
