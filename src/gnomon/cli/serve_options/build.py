"""Settings -> `ServeOptions`, checked."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from gnomon.cli.serve_options.checks import check_listener, check_models, warn_open
from gnomon.cli.serve_options.collect import Setting, Settings
from gnomon.errors import InputError
from gnomon.messages import count

if TYPE_CHECKING:
    from gnomon.serve.options import ServeOptions

OPEN_HOST = "0.0.0.0"


def build_options(settings: Settings, *, as_infinity: bool) -> ServeOptions:
    """
    Args:
        as_infinity: whether the first word was v2: the host is then 0.0.0.0 also without an API key.

    Raises:
        InputError: options that do not go together, or a device, engine or dtype that is not here.
        ExtraError: the engine that they need is not installed.
    """
    from gnomon.serve.options import ModelOptions, ServeOptions, check_names

    models = tuple(ModelOptions(**model) for model in _split_models(settings))
    server_fields = {field.name for field in fields(ServeOptions)} - {"models"}
    server = {name: _server_value(settings[name]) for name in server_fields & settings.keys()}
    server = {name: value for name, value in server.items() if value is not None}
    if "host" not in server and (as_infinity or server.get("api_keys") or server.get("api_key_file")):
        server["host"] = OPEN_HOST
    options = ServeOptions(models=models, **server)
    check_listener(options, settings)
    check_names(options.models)
    check_models(options)
    warn_open(options)
    return options


def _server_value(setting: Setting) -> Any:
    if setting.row.spread != "all":
        return setting.values[-1]
    return tuple(dict.fromkeys(value for value in setting.values if value is not None))


def _split_models(settings: Settings) -> list[dict[str, Any]]:
    """The fields of each model. A single value holds for every model; a name only for its own."""
    from gnomon.serve.options import ModelOptions

    sources = [source for source in settings["source"].values if source] if "source" in settings else []
    if not sources:
        raise InputError("no model is given. A server needs one: gnomon serve MODEL, or --model-id MODEL after v2.")
    if "v2" in sources:
        raise InputError(
            "v2 is not the name of a model. It is the word that begins infinity's command line. Put it first: "
            "gnomon serve v2 MODEL. A folder of that name is ./v2."
        )
    models = [{"source": source} for source in sources]
    names = {field.name for field in fields(ModelOptions)} | {"device_id"}
    for name in sorted(names & settings.keys() - {"source"}):
        for model, value in zip(models, _spread(settings[name], len(models)), strict=True):
            if value is not None:
                model[name] = value
    return [_place_on_gpus(model, settings) for model in models]


def _spread(setting: Setting, number: int) -> tuple[Any, ...]:
    """One value per model."""
    if setting.row.spread == "all":
        return (_server_value(setting),) * number
    if len(setting.values) == 1 and setting.row.spread != "position":
        return setting.values * number
    if len(setting.values) != number:
        values, models = count(len(setting.values), "value"), count(number, "model")
        rule = "one for each model" if setting.row.spread == "position" else "one for all models, or one for each"
        raise InputError(
            f"{setting.label} has {values}, and there {'is' if number == 1 else 'are'} {models}. Give {rule}."
        )
    return setting.values


def _place_on_gpus(model: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Device "cuda" and ids 0, 1 -> "cuda:0,cuda:1"."""
    ids = model.pop("device_id", None)
    if ids is None:
        return model
    device = model.get("device", "auto")
    if device not in ("auto", "cuda"):
        label = settings["device_id"].label
        raise InputError(f"{label} numbers GPUs, and --device is {device}. Give --device cuda, or leave {label} out.")
    return model | {"device": ",".join(f"cuda:{number}" for number in ids)}
