"""`Service`: from a request to its vectors, whatever the dialect. One event loop; the engine has its own threads.

B: inputs of a request; D: dimensions of a vector.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gnomon.engines.select import available_cores
from gnomon.modules import Postprocessor
from gnomon.packed import Vectors
from gnomon.serve.answer_cache import AnswerCache
from gnomon.serve.call import Call, ClientGoneError, timeout_error
from gnomon.serve.checks import check_engine, check_fingerprint, check_named_prompt, check_prompt
from gnomon.serve.cl100k import Decode
from gnomon.serve.inputs import Texts, TokenIds, sort_inputs
from gnomon.serve.memory import Memory
from gnomon.serve.models import ModelRegistry, ServedModel
from gnomon.serve.options import IdVocabulary, ServeOptions
from gnomon.serve.prepare import TEXTS_PER_SLICE, Preparation, PreparedText
from gnomon.serve.requests import (
    LOADING_RETRY_SECONDS,
    EmbedRequest,
    EmbedResult,
    RequestError,
    SimilarityRequest,
    Timings,
    Truncate,
    VectorType,
)
from gnomon.serve.work import Job, Lane

INTERACTIVE_TOKENS, INTERACTIVE_TEXTS = 2048, 8
"""A request of at most so many tokens and texts is interactive, unless it says otherwise."""

INLINE_CHARACTERS = 2048
"""Texts with fewer characters are tokenized at once: handing them to a thread takes longer."""

INLINE_IDS = 4096
"""So many token ids that a client sends are read at once."""

INLINE_NUMBERS = 65_536
"""Vectors with fewer numbers are finished on the event loop."""

GIANT_CHARACTERS = 1 << 18
"""A text with more characters takes a thread for long."""

SLICE_CHARACTERS = 1 << 16
"""Characters, prompts included, that one thread tokenizes before it looks for other work."""

Result = TypeVar("Result")


class Service:
    """Answers requests with the models of a registry.

    Args:
        options: limits and defaults.
    """

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.cache = AnswerCache(options.cache_bytes)
        """Of all models: their texts' keys differ."""
        self.models = ModelRegistry(())
        """Another registry may take its place while requests run."""
        self.decode_cl100k: Decode | None = None
        """Set where token ids are of OpenAI's vocabulary."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.calls: set[Call] = set()
        """Requests under way."""
        self.memory = Memory()
        self.num_threads = options.tokenizer_threads or available_cores()
        self.threads = ThreadPoolExecutor(self.num_threads, thread_name_prefix="gnomon-tokenizing")
        self.render_thread = ThreadPoolExecutor(1, thread_name_prefix="gnomon-rendering")
        """Large answers are written one after the other: each holds up the event loop a little."""
        self.giants = asyncio.Semaphore(max(1, self.num_threads - 1))
        self.parsing = asyncio.Semaphore(1)
        """Large bodies are parsed one after the other: their objects take many times their bytes."""
        self.states_thread = ThreadPoolExecutor(1, thread_name_prefix="gnomon-states")

    def open_call(self, call: Call) -> None:
        self.calls.add(call)

    def close_call(self, call: Call) -> None:
        self.calls.discard(call)
        self.memory.release(call)

    def close(self) -> None:
        """End the threads; what waits for them is dropped."""
        for threads in (self.threads, self.render_thread, self.states_thread):
            threads.shutdown(wait=False, cancel_futures=True)

    def notify(self, jobs: list[Job]) -> None:
        """Jobs are done. Called from the engine's threads."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(_resolve, jobs)

    def apply_defaults(self, request: EmbedRequest) -> EmbedRequest:
        """The request with what it leaves open: the prompt that its model's name chooses, and the operator's type of
        vectors. `model` is the name without its end.

        Raises:
            RequestError: an unknown model, or one whose name chooses another prompt than the request.
        """
        named = self.models.find(request.model)
        prompts = request.prompt, request.prompt_name, request.input_type, request.optional_prompt_name
        if all(prompt is None for prompt in prompts):
            request = replace(request, input_type=named.input_type, prompt_name=named.prompt_name)
        else:
            check_named_prompt(request, named)
        if request.model != named.name:
            request = replace(request, model=named.name)
        kind = named.model.options.vector_type
        if kind != "float" and not request.types_named:
            request = replace(request, vector_types=(kind,))
        return request

    async def embed(self, request: EmbedRequest, call: Call, vocabulary: IdVocabulary | None = None) -> EmbedResult:
        """The vectors of a request.

        Args:
            vocabulary: what token ids are, where inputs are ids; None for what the operator chose.

        Raises:
            RequestError: it cannot be answered.
            ClientGoneError: nobody waits for the answer.
        """
        model, prompt = self.find_model(request, call)
        postprocessor = model.make_postprocessor(request.dimensions, request.normalize)
        kinds: list[VectorType] = [kind for kind in request.vector_types if kind not in ("float", "base64")]
        for kind in kinds:
            model.quantize(np.zeros((1, postprocessor.dim), np.float32), kind)  # whether it can, before the work
        preparation = self.make_preparation(request, model, prompt)
        self._reserve(request, model, prompt, postprocessor.dim, call)
        inputs = await self.read_ids(request, preparation, vocabulary or self.options.token_ids)
        texts, seconds = await self.prepare(inputs, preparation, call)
        job = await self._compute(texts, model, request, call)
        finish = partial(_finish, job, postprocessor, model, kinds)
        is_small = len(texts) * postprocessor.dim <= INLINE_NUMBERS
        vectors_BD, quantized = finish() if is_small else await self.run_in_thread(finish)
        count = max(1, len(texts) - job.num_cached)
        call.timings = Timings(call.seconds, seconds, job.queue_seconds / count, job.inference_seconds / count)
        report = await self.run_in_thread(partial(inputs.describe, preparation)) if request.report else None
        return EmbedResult(
            model=model.choose_name(request.model),
            fingerprint=model.fingerprint,
            vectors_BD=vectors_BD,
            quantized=quantized,
            token_counts=[text.num_tokens for text in texts],
            full_token_counts=[text.num_full_tokens for text in texts],
            truncated=[index for index, text in enumerate(texts) if text.truncated],
            num_characters=inputs.num_characters,
            timings=call.timings,
            prompt=prompt,
            report=report,
        )

    async def similarity(self, request: SimilarityRequest, call: Call) -> tuple[list[float], EmbedResult]:
        """The cosines of one text with others, and the result of all of them; the source is first there.

        Raises:
            RequestError: it cannot be answered.
            ClientGoneError: nobody waits for the answer.
        """
        embed = EmbedRequest(
            inputs=[request.source, *request.texts],
            model=request.model,
            prompt_name=request.prompt_name,
            truncate=request.truncate,
            truncation_side=request.truncation_side,
            normalize=True,
            types_named=True,  # cosines need floats, whatever the operator's type
        )
        result = await self.embed(self.apply_defaults(embed), call)
        return (result.vectors_BD[1:] @ result.vectors_BD[0]).tolist(), result

    # ---- before the work

    def find_model(self, request: EmbedRequest, call: Call) -> tuple[ServedModel, str]:
        """The model of a request, and the prompt before its texts.

        Raises:
            RequestError: the model is unknown, does not compute now, or has another fingerprint; or the prompt cannot
                be used.
        """
        model = self.models.find(request.model).model
        call.model, call.num_inputs = model, len(request.inputs)
        check_engine(model)
        check_fingerprint(request, model)
        prompt = model.resolve_prompt(
            request.prompt, request.prompt_name, request.input_type, request.optional_prompt_name
        )
        check_prompt(prompt)
        return model, prompt

    def make_preparation(self, request: EmbedRequest, model: ServedModel, prompt: str) -> Preparation:
        """
        Raises:
            RequestError: as `Preparation.from_request`.
        """
        truncate = _choose_truncation(request, self.options.truncate or model.encoder.tokenizer.spec.truncation_side)
        return Preparation.from_request(model.encoder, prompt, truncate, request.max_tokens, model.salt)

    def _reserve(self, request: EmbedRequest, model: ServedModel, prompt: str, dim: int, call: Call) -> None:
        """
        Raises:
            RequestError: too much waits already, before this request costs any work.
        """
        num_texts = len(request.inputs)
        num_tokens = sort_inputs(request.inputs).estimate_tokens(prompt, model.encoder.max_seq_length)
        lane = _choose_lane(request, num_tokens)
        self.memory.reserve_answer(call, num_texts * dim, lane)
        model.batcher.check_room(num_tokens, num_texts, lane, call.seconds_left)

    # ---- from inputs to prepared texts

    async def read_ids(
        self, request: EmbedRequest, preparation: Preparation, vocabulary: IdVocabulary
    ) -> Texts | TokenIds:
        """The inputs of a request: texts as they are; ids as texts, or as ids of the model.

        Raises:
            RequestError: ids are refused, or are not of the vocabulary.
        """
        inputs = sort_inputs(request.inputs)
        if isinstance(inputs, Texts):
            return inputs
        if vocabulary == "refuse":
            raise RequestError(
                "input holds token ids. LangChain's OpenAIEmbeddings sends ids of OpenAI's vocabulary, which mean "
                "other texts here. Set check_embedding_ctx_length=False there (tiktoken_enabled=False in older "
                "versions), or start the server with --token-ids cl100k; with --token-ids model if they are this "
                "model's own.",
                "token_ids",
                param="input",
            )
        if vocabulary == "model":
            read: Callable[[], Texts | TokenIds] = partial(inputs.complete, preparation)
        else:
            assert self.decode_cl100k is not None, "loaded at the start"
            read = partial(inputs.decode, self.decode_cl100k)
        return read() if inputs.num_ids <= INLINE_IDS else await self.run_in_thread(read)

    async def prepare(
        self, inputs: Texts | TokenIds, preparation: Preparation, call: Call
    ) -> tuple[list[PreparedText], float]:
        """The prepared texts, and how many seconds that took. Many texts are tokenized slice by slice in the threads,
        so that those of other requests get their turns.

        Raises:
            RequestError: a text that the model cannot read.
            ClientGoneError: the client went away in between.
        """
        began, sizes = time.monotonic(), inputs.measure(preparation.prompt)
        texts = list[PreparedText]()
        if len(sizes) <= TEXTS_PER_SLICE and sum(sizes) <= INLINE_CHARACTERS:
            texts = inputs.prepare(preparation, slice(0, len(sizes)))
        else:
            for part in _slice(sizes):
                call.check_alive()
                work = partial(inputs.prepare, preparation, part)
                if sum(sizes[part]) <= GIANT_CHARACTERS:
                    texts += await self.run_in_thread(work)
                    continue
                async with self.giants:  # one thread stays free for the texts of others
                    texts += await self.run_in_thread(work)
        call.num_tokens = sum(text.num_tokens for text in texts)
        call.num_truncated = sum(text.truncated for text in texts)
        return texts, time.monotonic() - began

    # ---- from prepared texts to vectors

    async def _compute(
        self, texts: Sequence[PreparedText], model: ServedModel, request: EmbedRequest, call: Call
    ) -> Job:
        """The job of a request, done.

        Raises:
            RequestError: a text failed, or the time is over.
            ClientGoneError: nobody waits any more.
        """
        assert self.loop is not None
        call.lane = lane = _choose_lane(request, call.num_tokens)
        if call.gone:
            raise ClientGoneError
        model.batcher.check_room(call.num_tokens, len(texts), lane, call.seconds_left)
        job = call.job = model.batcher.make_job(len(texts), lane, (call.client, request.user))
        job.reads_answers = call.reads_cache
        job.stores_answers = job.stores_answers and call.reads_cache
        job.waiter = self.loop.create_future()
        timer = self.loop.call_later(max(0.0, call.seconds_left), _expire, job.waiter)
        try:
            model.batcher.submit(job, texts)
            await job.waiter
        except (RequestError, asyncio.CancelledError):
            model.batcher.cancel(job)
            raise
        finally:
            timer.cancel()
        if job.failures:
            raise _make_failure(job)
        return job

    # ---- threads

    async def run_in_thread(self, function: Callable[[], Result]) -> Result:
        """Run what would hold the event loop up."""
        assert self.loop is not None
        return await self.loop.run_in_executor(self.threads, function)

    async def render_in_thread(self, function: Callable[[], Result]) -> Result:
        """Write a large answer."""
        assert self.loop is not None
        return await self.loop.run_in_executor(self.render_thread, function)

    def compute_in_thread(self, function: Callable[[], Result]) -> Awaitable[Result]:
        """Compute states, one request after the other."""
        assert self.loop is not None
        return self.loop.run_in_executor(self.states_thread, function)


def _slice(sizes: Sequence[int]) -> list[slice]:
    """Slices of at most `TEXTS_PER_SLICE` texts, and of about `SLICE_CHARACTERS`; a larger text is one alone."""
    slices, start, total = list[slice](), 0, 0
    for index, size in enumerate(sizes):
        if index > start and (index - start == TEXTS_PER_SLICE or total + size > SLICE_CHARACTERS):
            slices.append(slice(start, index))
            start, total = index, 0
        total += size
    return [*slices, slice(start, len(sizes))]


def _choose_truncation(request: EmbedRequest, default: Truncate) -> Truncate:
    """What the request wants, or the server's default: on the side that the request names, if that truncates."""
    if request.truncate is None and request.truncation_side and default in ("left", "right"):
        return request.truncation_side
    return request.truncate or default


def _choose_lane(request: EmbedRequest, num_tokens: int) -> Lane:
    if request.interactive is not None:
        return "interactive" if request.interactive else "bulk"
    small = num_tokens <= INTERACTIVE_TOKENS and len(request.inputs) <= INTERACTIVE_TEXTS
    return "interactive" if small else "bulk"


def _finish(
    job: Job, postprocessor: Postprocessor, model: ServedModel, kinds: Sequence[VectorType]
) -> tuple[Vectors, dict[VectorType, NDArray[Any]]]:
    """The vectors of a job, float32 and of the quantised types.

    Raises:
        RequestError: NaN or infinity in a vector; names the first.
    """
    vectors_BD = np.ascontiguousarray(postprocessor(job.pooled_BD), np.float32)
    finite_B = np.isfinite(vectors_BD).all(axis=1)
    if not finite_B.all():
        index = int(np.argmin(finite_B))
        raise RequestError(f"the vector of input[{index}] holds NaN or infinity.", "engine", param="input", index=index)
    return vectors_BD, {kind: model.quantize(vectors_BD, kind) for kind in kinds}


def _make_failure(job: Job) -> RequestError:
    """The error of a job in which texts failed; each of the others has its vector, which is not sent."""
    index = min(job.failures)
    if job.aborted:
        return RequestError(f"{job.failures[index]}. Try again.", "unavailable", retry_after=LOADING_RETRY_SECONDS)
    others = f" {len(job.failures)} of {len(job.pooled_BD)} texts failed." if len(job.failures) > 1 else ""
    return RequestError(
        f"input[{index}] has no vector: {job.failures[index]}.{others}", "engine", param="input", index=index
    )


def _resolve(jobs: Sequence[Job]) -> None:
    """Wake the requests whose jobs are done. Runs on the event loop."""
    for job in jobs:
        if not job.waiter.done():
            job.waiter.set_result(None)


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(timeout_error())
