"""Compares two JUnit reports of sentence-transformers' tests: with itself, and with gnomon.compat.

    python -m experiments.switching.upstream.compare itself.xml compat.xml

What passes with itself is the denominator. Each test that fails with compat is in one class of `CLASSES`.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from pathlib import Path

INTERNALS = "torch modules, hooks, adapters, private methods"
CLASSES: dict[str, tuple[str, ...]] = {
    INTERNALS: (
        *("test_config_delegates", "test_config_is_settable", "test_use_auth_token_warns", "test_empty_modules"),
        *(
            "test_cache_folder_from_env",
            "test_save_with_safe_serialization_fallback",
            "test_load_module_class_from_ref",
        ),
        *("test_gradient_checkpointing", "test_device_map_controls", "test_can_flatten", "test_dtype_no_parameters"),
        *("test_parse_model_config", "test_get_model_type", "test_met_requirements", "test_modules_and_path_combo"),
        *("test_third_party_module", "test_private_load", "test_load_local_without_normalize", "test_get_model_kwargs"),
        *("test_transformers_model_property", "test_encode_routes_through", "test_load_with_model_kwargs"),
        *("test_prompt_length_calculation", "test_supports_parametrized", "test_preprocess_modality_error"),
    ),
    "uploads to the hub": ("test_push_to_hub",),
    "sparse tensors, several vectors per text, pairs, other kinds of input": (
        *("_sparse", "test_mean_maxsim", "test_quantize_multi_vector", "test_is_singular_input"),
        *("test_encode_numpy_2d", "test_conversion_ignores", "test_similarity_fn_name_rejects"),
    ),
    "words of logs, of errors, of the card, and a version in the config": (
        *("test_save_load_roundtrip", "test_load_logs", "test_tokenize_deprecation", "test_save_creates_expected"),
        *("test_model_path_pointing", "test_model_card_save", "test_unmet_requirements"),
    ),
}
"""Why a test fails -> how such tests are called."""


def read_report(path: str) -> dict[str, str]:
    """Test -> passed, failure, error or skipped."""
    outcomes: dict[str, str] = {}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        marks = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcomes[f"{case.get('classname')}::{case.get('name')}"] = marks[0] if marks else "passed"
    return outcomes


def main() -> None:
    itself, compat = map(read_report, sys.argv[1:3])
    counted = [test for test, outcome in itself.items() if outcome == "passed"]
    failed = [test for test in counted if compat.get(test) != "passed"]
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for test in failed:
        reason = next((why for why, names in CLASSES.items() if any(name in test for name in names)), "not explained")
        reasons[reason].append(test.partition("::")[2])
    files, passed = (
        Counter(test.partition("::")[0] for test in tests) for tests in (counted, set(counted) - {*failed})
    )
    internals = len(reasons[INTERNALS])
    report = {
        "counted": len(counted),
        "passed": len(counted) - len(failed),
        "counted_without_internals": len(counted) - internals,
        "files": {name: [passed[name], files[name]] for name in files},
        "failed": {why: sorted(tests) for why, tests in sorted(reasons.items())},
    }
    Path(__file__).with_name("results.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps({why: len(tests) for why, tests in reasons.items()} | {"passed": report["passed"]}, indent=1))


if __name__ == "__main__":
    main()
