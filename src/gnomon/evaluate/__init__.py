"""How good a model is: mteb's tasks and local data, by mteb's protocol; results that say how they came about.

    from gnomon.evaluate import evaluate
    results = evaluate(Encoder.load("..."), data=["my-folder"], output="evaluation")

mteb, torch and scikit-learn come with the extra `gnomon[evaluate]` and are imported on use.
"""

from __future__ import annotations

from gnomon.evaluate.mteb.encoder import Asking, MtebEncoder, curve_points
from gnomon.evaluate.results import Result, format_summary, read_results, summarize
from gnomon.evaluate.run import TasksError, evaluate
from gnomon.evaluate.systems import Bm25Settings

__all__ = [
    "Asking",
    "Bm25Settings",
    "MtebEncoder",
    "Result",
    "TasksError",
    "curve_points",
    "evaluate",
    "format_summary",
    "read_results",
    "summarize",
]
