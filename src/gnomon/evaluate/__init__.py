"""Evaluates models on mteb's tasks and on local data, by mteb's protocol; each result says how it came about.

    from gnomon.evaluate import evaluate
    results = evaluate(Encoder.load("..."), data=["my-folder"], output="evaluation")

mteb, torch and scikit-learn come with the extra `gnomon[evaluate]` and are imported on use.
"""

from __future__ import annotations

from gnomon.evaluate.mteb.encoder import MtebEncoder
from gnomon.evaluate.options import EvaluationOptions, curve_points
from gnomon.evaluate.results import Result, format_summary, read_results, summarize
from gnomon.evaluate.run import TasksError, evaluate
from gnomon.evaluate.systems import Bm25Settings

__all__ = [
    "Bm25Settings",
    "EvaluationOptions",
    "MtebEncoder",
    "Result",
    "TasksError",
    "curve_points",
    "evaluate",
    "format_summary",
    "read_results",
    "summarize",
]
