"""Which model a client's name means."""

from types import SimpleNamespace
from typing import Any

import pytest

from gnomon.errors import InputError
from gnomon.serve.models import ModelRegistry
from gnomon.serve.options import ModelOptions, check_names


def make_registry(*models: ModelOptions) -> ModelRegistry:
    made: list[Any] = [SimpleNamespace(options=options, names=options.client_names) for options in models]
    return ModelRegistry(made)


def test_two_models_with_one_name_are_refused_before_and_after_they_are_loaded() -> None:
    models = [ModelOptions(source="a/m"), ModelOptions(source="b/m", names=("x", "a/m"))]
    for check in (check_names, lambda models: make_registry(*models)):
        with pytest.raises(InputError) as caught:
            check(models)
        assert [part for part in ("'a/m'", "a/m and b/m") if part not in str(caught.value)] == []


def test_a_name_may_repeat_for_one_model_and_be_the_source_of_another() -> None:
    first = ModelOptions(source="b/m", names=("x", "x", "y"))
    registry = make_registry(first, ModelOptions(source="a/b/m", names=("z",)), ModelOptions(source="/c/d/e"))
    found = [registry.find(name)[0].options.source for name in ("x", "y", "b/m", "z", "a/b/m", "d/e", "/c/d/e")]
    assert found == ["b/m", "b/m", "b/m", "a/b/m", "a/b/m", "/c/d/e", "/c/d/e"]
