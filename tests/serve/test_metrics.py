"""TEI's counters."""

from types import SimpleNamespace
from typing import Any, get_args

import pytest
from prometheus_client import CollectorRegistry

from gnomon.serve.metrics import _TeiMetrics
from gnomon.serve.requests import ErrorKind

OWN = {
    "overloaded": "overloaded",
    "too_many": "batch_size",
    "unsupported": "model_type",
    "engine": "inference",
    "internal": "inference",
    "timeout": "inference",
    "unavailable": "inference",
    None: "dropped",
}


@pytest.mark.parametrize("kind", [*get_args(ErrorKind), None])
def test_only_a_mistake_of_the_client_is_a_failed_validation(kind: ErrorKind | None) -> None:
    metrics = _TeiMetrics(CollectorRegistry())
    call: Any = SimpleNamespace(num_inputs=3, error_kind=kind)
    metrics.count(call, 400, 0.1)
    assert metrics.counts["te_request_count", "method", "batch"] == 1
    assert metrics.counts["te_embed_count", "", ""] == 3  # texts, as in TEI
    failures = {value: count for (name, _, value), count in metrics.counts.items() if name == "te_request_failure"}
    assert failures == {OWN.get(kind, "validation"): 1}
