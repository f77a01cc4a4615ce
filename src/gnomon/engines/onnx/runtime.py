"""The package onnxruntime, imported on use and without its telemetry."""

from __future__ import annotations

import os
from types import ModuleType

from gnomon.errors import ExtraError

TELEMETRY_VARIABLE = "ORT_DISABLE_TELEMETRY"


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime. Version 1.31 sends statistics to its makers, and writes an id of the machine into the user's cache,
    unless a variable is set before its import. A value that the user has set stays.

    Raises:
        ExtraError: it is not installed.
    """
    os.environ.setdefault(TELEMETRY_VARIABLE, "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise ExtraError("the package onnxruntime is not installed; pip install onnxruntime") from error
    return onnxruntime
