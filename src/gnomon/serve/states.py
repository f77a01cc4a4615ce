"""The states of tokens. They do not go through the batcher.

T: tokens of a text; H: hidden size of the trunk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial

import numpy as np

from gnomon.errors import GnomonError
from gnomon.packed import Vectors, pack
from gnomon.serve.call import Call, timeout_error
from gnomon.serve.models import ServedModel
from gnomon.serve.prepare import PreparedText
from gnomon.serve.requests import EmbedRequest, RequestError, StatesResult, Timings
from gnomon.serve.service import Service


async def compute_states(service: Service, request: EmbedRequest, call: Call) -> StatesResult:
    """The states of tokens: of one request at a time, in a thread beside the batcher.

    Raises:
        RequestError: it cannot be answered.
        ClientGoneError: nobody waits for the answer.
    """
    model, prompt = service.find_model(request, call)
    preparation = service.make_preparation(request, model, prompt)
    if preparation.truncate == "mean":
        raise RequestError("states of tokens have no mean. Let truncate be true, false or a side.", "invalid")
    inputs = await service.read_ids(request, preparation, "model")
    texts, seconds = await service.prepare(inputs, preparation, call)
    service.memory.reserve_states(call, call.num_tokens, model.encoder.spec.trunk.hidden_size)
    work = service.compute_in_thread(partial(_compute, texts, model, call))
    try:
        began, states = await asyncio.wait_for(work, call.seconds_left)
    except TimeoutError:
        raise timeout_error() from None
    queue = began - call.began - seconds
    call.timings = Timings(call.seconds, seconds, queue, time.monotonic() - began)
    return StatesResult(
        model=model.choose_name(request.model),
        fingerprint=model.fingerprint,
        states=states,
        token_counts=[text.num_tokens for text in texts],
        truncated=[index for index, text in enumerate(texts) if text.truncated],
        num_characters=inputs.num_characters,
        timings=call.timings,
    )


def _compute(texts: Sequence[PreparedText], model: ServedModel, call: Call) -> tuple[float, list[Vectors]]:
    """When it began, and the states of each text.

    Raises:
        RequestError: the engine failed, or gives NaN or infinity; the time is over.
        ClientGoneError: nobody waits for them.
    """
    began, states = time.monotonic(), list[Vectors]()
    for index, text in enumerate(texts):
        call.check_alive()
        try:
            states_TH = model.encoder.engine.states(pack([text.sequences[0]]))
        except (GnomonError, MemoryError, RuntimeError) as error:
            raise RequestError(f"inputs[{index}] has no states: {error}", "engine", index=index) from error
        if not np.isfinite(states_TH).all():
            raise RequestError(f"the states of inputs[{index}] hold NaN or infinity.", "engine", index=index)
        states.append(np.ascontiguousarray(states_TH, np.float32))
    return began, states
