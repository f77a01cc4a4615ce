"""The first steps of a model: they show that it computes, and how fast."""

from __future__ import annotations

import threading
import time

import numpy as np

from gnomon.encoder import Encoder
from gnomon.errors import NumericError
from gnomon.packed import Ids, pack
from gnomon.serve.batcher import Batcher
from gnomon.serve.prepare import PreparedText
from gnomon.serve.work import Job

WARM_UP_LENGTHS = (8, 64, 512)
"""Tokens of the texts of a warm-up. The first length is that of a query."""

WARM_UP_SECONDS = 3.0
"""A warm-up begins no step after so many seconds."""

WARM_UP_TOKENS = 32_768
"""Tokens of a step of the warm-up at most: an operator's budget may be larger than the memory."""

SELF_TEST_TEXTS = ("a text", "another text, with some more words, so that the first one is padded beside it")

FLOAT32_TOLERANCE, OTHER_TOLERANCE = 1e-3, 0.15
"""How far the vector of a text may lie from the same text's in a batch, relative to its length: in float32, and in
other dtypes, whose steps are coarse. They only show a broken engine.
"""


def test_engine(encoder: Encoder) -> None:
    """Check that the engine computes: a text has one finite vector, alone and in a batch.

    Raises:
        NumericError: it does not.
    """
    tokenizer = encoder.tokenizer
    ids = [tokenizer.truncate(ids_T) for ids_T in tokenizer.encode(SELF_TEST_TEXTS)]
    together_BD = encoder.engine.pool(pack(ids))
    alone_D = encoder.engine.pool(pack(ids[:1]))[0]
    if not (np.isfinite(together_BD).all() and np.isfinite(alone_D).all()):
        why = encoder.engine.explain_nonfinite(pack(ids[:1]))
        raise NumericError(f"the self-test of {encoder.name} failed: NaN or infinity in a vector: {why}.")
    distance = float(np.linalg.norm(together_BD[0] - alone_D) / max(float(np.linalg.norm(alone_D)), 1e-12))
    tolerance = FLOAT32_TOLERANCE if encoder.dtype == "float32" else OTHER_TOLERANCE
    if distance > tolerance:
        raise NumericError(
            f"the self-test of {encoder.name} failed: in a batch, a text's vector differs by {distance:.2g} of its "
            f"length, and {tolerance} is allowed. The engine {encoder.engine.name} does not compute this model rightly."
        )


def measure_speed(encoder: Encoder, batcher: Batcher, budget: int) -> None:
    """Run full steps of several lengths through the batcher, which measures its speed by them."""
    until = time.monotonic() + WARM_UP_SECONDS
    budget = min(budget, WARM_UP_TOKENS)
    limit = encoder.max_seq_length or max(WARM_UP_LENGTHS)
    vocabulary = encoder.spec.trunk.vocab_size
    for length in dict.fromkeys(min(length, limit) for length in WARM_UP_LENGTHS):
        if time.monotonic() > until:
            return
        texts = [
            _make_text(np.arange(number, number + length) % vocabulary, number)
            for number in range(max(1, budget // length))
        ]
        job = batcher.make_job(len(texts), "bulk")
        job.waiter = threading.Event()
        batcher.submit(job, texts)
        job.waiter.wait()


def set_events(jobs: list[Job]) -> None:
    """The `notify` of a batcher during the warm-up: each job's waiter is an event."""
    for job in jobs:
        job.waiter.set()


def _make_text(ids_T: Ids, number: int) -> PreparedText:
    return PreparedText((ids_T.astype(np.int64),), (1,), 0, len(ids_T), truncated=False, key=b"warm-up %d" % number)
