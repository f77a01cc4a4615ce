"""What is refused before a model is read, and before any request to a network."""

from __future__ import annotations

import importlib.util
import ipaddress
from typing import TYPE_CHECKING

from gnomon.cli.serve_options.collect import Settings
from gnomon.cli.shared import note
from gnomon.errors import ExtraError, InputError
from gnomon.install import advise_install

if TYPE_CHECKING:
    from gnomon.serve.options import ServeOptions

SERVER_PACKAGES = ("starlette", "orjson", "prometheus_client")
"""Of the extra `serve`, beside the server itself."""


def check_listener(options: ServeOptions, settings: Settings) -> None:
    """Addresses, TLS and keys.

    Raises:
        InputError: options that do not go together; a file of keys without a key.
    """
    if options.uds:
        if "host" in settings and settings["host"].is_typed:
            label = settings["host"].label
            raise InputError(f"{label} and --uds exclude each other: a server listens in one place. Give one of them.")
        for name in ("host", "port"):  # a variable is often one of an image, as GNOMON_HOST is of ours
            if name in settings and not (name == "host" and options.metrics_port):
                note(f"{settings[name].label} has no effect: the server listens on --uds alone.")
        if not options.uds.absolute().parent.is_dir():
            raise InputError(
                f"--uds is {str(options.uds)!r}, and its folder does not exist. Make it, or correct the path."
            )
    elif not options.host.strip():
        raise InputError("--host is empty. It must be an address, such as 127.0.0.1. Correct it, or leave it out.")
    if options.metrics_port == options.port and not options.uds:
        raise InputError(f"--metrics-port and --port are both {options.port}. Give two ports.")
    for name, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("tls_client_ca", "tls_cert")):
        if getattr(options, name) and not getattr(options, other):
            raise InputError(f"{_flag(name)} needs {_flag(other)}. TLS takes a certificate and its key. Give both.")
    if options.api_key_file:
        from gnomon.serve.key_file import read_key_file

        read_key_file(options.api_key_file)


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def check_models(options: ServeOptions) -> None:
    """
    Raises:
        InputError: a device, engine or dtype that is not here; a default that a model cannot have.
        ExtraError: the engine is not installed.
    """
    from gnomon.engines.select import EngineOptions

    for model in options.models:
        EngineOptions.from_arguments(device=model.device, engine=model.engine, dtype=model.dtype, threads=model.threads)
        if model.default_prompt is not None and model.default_prompt_name is not None:
            raise InputError("--default-prompt and --default-prompt-name exclude each other. Give one of them.")
        if model.vector_type in ("int8", "uint8") and not model.ranges:
            raise InputError(
                f"--embedding-dtype {model.vector_type} needs the ranges of the values. Give --ranges FILE, which "
                f"gnomon encode --precision {model.vector_type} writes beside its vectors, or "
                "--embedding-dtype binary, which needs none."
            )
        if model.ranges:
            from gnomon.vector_files import read_ranges

            read_ranges(model.ranges)


def warn_open(options: ServeOptions) -> None:
    """Print a line where others can reach a server that takes no key."""
    if not (options.uds or options.has_keys or options.tls_client_ca or _is_loopback(options.host)):
        note(
            f"the server listens on {options.host} without an API key: whoever reaches this port can use it. "
            "Set GNOMON_API_KEY, or give --host 127.0.0.1."
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_server(server: str) -> None:
    """
    Raises:
        ExtraError: a package of the extra `serve` is not installed.
    """
    missing = [name for name in (*SERVER_PACKAGES, server) if importlib.util.find_spec(name) is None]
    if missing:
        raise ExtraError(f"the server needs {', '.join(missing)}, which is not installed. {advise_install('serve')}")
