"""How often two tests find a difference where there is none: python bench/significance.py

A centred bootstrap and the sign flips of `gnomon compare`, at 5 %, on normal differences of few units.
"""

import numpy as np

RESAMPLES, SETS = 999, 4000
random = np.random.default_rng(0)


def by_bootstrap(differences_N: np.ndarray) -> bool:
    rows_RN = random.integers(len(differences_N), size=(RESAMPLES, len(differences_N)))
    return significant((differences_N - differences_N.mean())[rows_RN].mean(1), differences_N.mean())


def by_swaps(differences_N: np.ndarray) -> bool:
    signs_RN = random.choice([-1, 1], (RESAMPLES, len(differences_N)))
    return significant((signs_RN * differences_N).mean(1), differences_N.mean())


def significant(resampled_R: np.ndarray, found: float) -> bool:
    as_much = np.count_nonzero(np.abs(resampled_R) >= abs(found) - 1e-12)
    return (1 + as_much) / (1 + RESAMPLES) < 0.05


if __name__ == "__main__":
    for units in (5, 10):
        sets = [random.normal(size=units) for _ in range(SETS)]
        rates = {test.__name__: np.mean([test(each) for each in sets]) for test in (by_bootstrap, by_swaps)}
        print(f"{units} units:", ", ".join(f"{name} {rate:.1%}" for name, rate in rates.items()))
