"""How often two tests find a difference where there is none: python -m experiments.significance.run

A centred bootstrap and the sign flips of `gnomon compare`, at 5 %, on normal differences of few units. Writes
results.json.
"""

import json
from pathlib import Path

import numpy as np

RESAMPLES, SETS = 999, 4000
random = np.random.default_rng(0)


def bootstrap(differences_N: np.ndarray) -> bool:
    rows_RN = random.integers(len(differences_N), size=(RESAMPLES, len(differences_N)))
    return is_significant((differences_N - differences_N.mean())[rows_RN].mean(1), differences_N.mean())


def flip_signs(differences_N: np.ndarray) -> bool:
    signs_RN = random.choice([-1, 1], (RESAMPLES, len(differences_N)))
    return is_significant((signs_RN * differences_N).mean(1), differences_N.mean())


def is_significant(resampled_R: np.ndarray, found: float) -> bool:
    as_large = np.count_nonzero(np.abs(resampled_R) >= abs(found) - 1e-12)
    return (1 + as_large) / (1 + RESAMPLES) < 0.05


def main() -> None:
    rates: dict[str, dict[str, float]] = {}
    for units in (5, 10):
        sets = [random.normal(size=units) for _ in range(SETS)]
        rates[f"{units} units"] = {
            test.__name__: float(np.mean([test(each) for each in sets])) for test in (bootstrap, flip_signs)
        }
    print(rates)
    Path(__file__).with_name("results.json").write_text(json.dumps(rates, indent=1) + "\n")


if __name__ == "__main__":
    main()
