"""`Service`: from a request to its result, whatever the dialect. One event loop; the engine has its own threads.

B: inputs of a request; D: dimensions of a vector.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from gnomon.engines.select import available_cores
from gnomon.errors import GnomonError
from gnomon.messages import shorten
from gnomon.modules import Postprocessor
from gnomon.packed import Ids, Vectors, pack
from gnomon.serve.answer_cache import AnswerCache
from gnomon.serve.cl100k import Decode
from gnomon.serve.models import ModelRegistry, ServedModel
from gnomon.serve.options import ServeOptions, TokenIds
from gnomon.serve.prepare import TEXTS_PER_SLICE, Preparation, PreparedText
from gnomon.serve.requests import (
    LOADING_RETRY_SECONDS,
    DecodeRequest,
    EmbedRequest,
    EmbedResult,
    ErrorKind,
    Inputs,
    RequestError,
    SimilarityRequest,
    StatesResult,
    Timings,
    Token,
    TokenizeRequest,
    Truncate,
    VectorType,
)
from gnomon.serve.work import Job, Lane
from gnomon.tokenizer import TokenReport

INTERACTIVE_TOKENS, INTERACTIVE_TEXTS = 2048, 8
"""A request of at most so many tokens and texts is interactive, unless it says otherwise."""

INLINE_CHARACTERS = 2048
"""Texts with fewer characters are tokenized at once: handing them to a thread takes longer."""

INLINE_IDS = 4096
"""So many token ids that a client sends are read at once."""

BYTES_PER_NUMBER = 17
"""What a number of an answer takes until it is sent: 4 bytes as float32, and about 13 as JSON."""

MAX_ANSWER_BYTES = 512 << 20
"""Of all requests under way: what their answers may take together. One request may always be larger."""

BULK_SHARE = 0.75
"""Bulk requests may take this share of it: the rest is for interactive ones, whose answers are small."""

MAX_BODIES_BYTES = 256 << 20
"""Of all requests under way: what their bodies may take together. One request may always have more."""

SMALL_BODY_BYTES = 64 << 10
"""Smaller bodies are not counted."""

INLINE_NUMBERS = 65_536
"""Vectors with fewer numbers are finished on the event loop."""

CHARACTERS_PER_TOKEN = 4
"""An estimate, for requests that are refused before they are tokenized."""

MAX_PROMPT_CHARACTERS = 32_768
"""A prompt stands before every text, so that it costs many times its length."""

MAX_TOKEN_CHARACTERS = 1 << 20
"""Characters, or token ids, of a request for tokens: each token takes a hundred bytes of the answer."""

GIANT_CHARACTERS = 1 << 18
"""A text with more characters takes a thread for long."""

SLICE_CHARACTERS = 1 << 16
"""Characters, prompts included, that one thread tokenizes before it looks for other work."""

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """The client has closed its connection: there is nobody to answer."""


@dataclass(eq=False)
class Call:
    """One request on its way: who makes it, and how long it may take."""

    client: Hashable = None
    timeout: float = 60.0
    reads_cache: bool = True
    began: float = field(default_factory=time.monotonic)
    job: Job | None = None
    gone: bool = False
    """Whether the client has closed its connection."""
    model: ServedModel | None = None
    lane: Lane | None = None
    num_inputs: int = 0
    num_tokens: int = 0
    num_truncated: int = 0
    num_unknown_fields: int = 0
    timings: Timings | None = None
    counts: bool = False
    """Whether it is a request for vectors."""
    answer_bytes: int = 0
    """What its answer takes, until that is sent."""
    body_bytes: int = 0
    """What its body takes, if that is large. It counts until the request ends: its texts live as long."""
    error_kind: ErrorKind | None = None
    request_id: str = ""

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    @property
    def seconds_left(self) -> float:
        return self.timeout - self.seconds

    def check_alive(self) -> None:
        """
        Raises:
            ClientGoneError: the client went away.
            RequestError: its time is over.
        """
        if self.gone:
            raise ClientGoneError
        if self.seconds_left <= 0:
            raise _timeout_error()

    def disconnect(self) -> None:
        """The client has gone: what has not begun is dropped. Called on the event loop."""
        self.gone = True
        if self.job is not None and self.model is not None:
            self.model.batcher.cancel(self.job)
            if not self.job.waiter.done():
                self.job.waiter.set_exception(ClientGoneError())


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
        self.answer_bytes = 0
        """What their answers take together."""
        self.body_bytes = 0
        """What their large bodies take together."""
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
        self.answer_bytes -= call.answer_bytes
        self.body_bytes -= call.body_bytes

    def reserve_body(self, call: Call, num_bytes: int) -> None:
        """Count the bytes of a request's body, as many as have come so far.

        Raises:
            RequestError: the bodies of the requests under way take too much memory.
        """
        if num_bytes < SMALL_BODY_BYTES:
            return
        others = self.body_bytes - call.body_bytes
        if others and others + num_bytes > MAX_BODIES_BYTES:
            raise RequestError(
                f"the server is busy: the bodies of other requests take {others >> 20:,} MiB of the "
                f"{MAX_BODIES_BYTES >> 20:,} MiB that all may take. Try again later.",
                "overloaded",
                retry_after=1.0,
            )
        call.body_bytes = num_bytes
        self.body_bytes = others + num_bytes

    def close(self) -> None:
        """End the threads; what waits for them is dropped."""
        for threads in (self.threads, self.render_thread, self.states_thread):
            threads.shutdown(wait=False, cancel_futures=True)

    def notify(self, jobs: list[Job]) -> None:
        """Jobs are done. Called from the engine's threads."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(_resolve, jobs)

    def apply_defaults(self, request: EmbedRequest) -> EmbedRequest:
        """The request with what it leaves open: the kind of input that its model's name chooses, and the operator's
        type of vectors.

        Raises:
            RequestError: an unknown model.
        """
        model, input_type = self.models.find(request.model)
        prompts = request.prompt, request.prompt_name, request.input_type, request.optional_prompt_name
        if input_type is not None and all(prompt is None for prompt in prompts):
            request = replace(request, input_type=input_type)
        kind = model.options.vector_type
        if kind != "float" and not request.types_named:
            request = replace(request, vector_types=(kind,))
        return request

    async def embed(self, request: EmbedRequest, call: Call, token_ids: TokenIds | None = None) -> EmbedResult:
        """The vectors of a request.

        Args:
            token_ids: what ids are, where inputs are ids; None for what the operator chose.

        Raises:
            RequestError: it cannot be answered.
            ClientGoneError: nobody waits for the answer.
        """
        model, prompt = self._find_model(request, call)
        postprocessor = model.make_postprocessor(request.dimensions, request.normalize)
        num_tokens = _estimate_tokens(request, prompt, model)
        lane = _choose_lane(request, num_tokens)
        self._reserve_answer(call, len(request.inputs) * postprocessor.dim * BYTES_PER_NUMBER, lane)
        kinds: list[VectorType] = [kind for kind in request.vector_types if kind not in ("float", "base64")]
        for kind in kinds:
            model.quantize(np.zeros((1, postprocessor.dim), np.float32), kind)  # whether it can, before the work
        truncate = _choose_truncation(request, self.options.truncate)
        preparation = Preparation.from_request(model.encoder, prompt, truncate, request.max_tokens, model.salt)
        # before it costs any work
        model.batcher.check_room(num_tokens, len(request.inputs), lane, call.seconds_left)
        inputs = await self._read_ids(request.inputs, preparation, token_ids or self.options.token_ids)
        texts, seconds = await self._tokenize(inputs, preparation, call)
        job = await self._compute(texts, model, request, call)
        finish = partial(_finish, job, postprocessor, model, kinds)
        is_small = len(texts) * postprocessor.dim <= INLINE_NUMBERS
        vectors_BD, quantized = finish() if is_small else await self.run_in_thread(finish)
        count = max(1, len(texts) - job.num_cached)
        call.timings = Timings(
            time.monotonic() - call.began, seconds, job.queue_seconds / count, job.inference_seconds / count
        )
        report = None
        if request.report and texts:
            report = await self.run_in_thread(partial(_make_report, inputs, preparation))
        return EmbedResult(
            model=model.name,
            fingerprint=model.fingerprint,
            vectors_BD=vectors_BD,
            quantized=quantized,
            token_counts=[text.num_tokens for text in texts],
            full_token_counts=[text.num_full_tokens for text in texts],
            truncated=[index for index, text in enumerate(texts) if text.truncated],
            num_characters=_count_characters(inputs),
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

    async def states(self, request: EmbedRequest, call: Call) -> StatesResult:
        """The states of tokens. They do not go through the batcher: one request at a time, in a thread beside it.

        Raises:
            RequestError: it cannot be answered.
            ClientGoneError: nobody waits for the answer.
        """
        assert self.loop is not None
        model, prompt = self._find_model(request, call)
        truncate = _choose_truncation(request, self.options.truncate)
        if truncate == "mean":
            raise RequestError("states of tokens have no mean. Let truncate be true, false or a side.", "invalid")
        preparation = Preparation.from_request(model.encoder, prompt, truncate, request.max_tokens, model.salt)
        inputs = await self._read_ids(request.inputs, preparation, "model")
        texts, seconds = await self._tokenize(inputs, preparation, call)
        call.num_tokens = sum(text.num_tokens for text in texts)
        call.num_truncated = sum(text.truncated for text in texts)
        self._reserve_states(call, call.num_tokens * model.encoder.spec.trunk.hidden_size * BYTES_PER_NUMBER)
        work = self.loop.run_in_executor(self.states_thread, partial(_compute_states, texts, model, call))
        try:
            began, states = await asyncio.wait_for(work, call.seconds_left)
        except TimeoutError:
            raise _timeout_error() from None
        queue = began - call.began - seconds
        call.timings = Timings(call.seconds, seconds, queue, time.monotonic() - began)
        return StatesResult(
            model=model.name,
            fingerprint=model.fingerprint,
            states=states,
            token_counts=[text.num_tokens for text in texts],
            truncated=[index for index, text in enumerate(texts) if text.truncated],
            num_characters=_count_characters(inputs),
            timings=call.timings,
        )

    async def tokenize(self, request: TokenizeRequest, call: Call) -> tuple[list[list[Token]], ServedModel]:
        """The tokens of whole texts, and the model that they are for.

        Raises:
            RequestError: an unknown model or prompt name.
        """
        model, _ = self.models.find(request.model)
        call.model, call.num_inputs = model, len(request.texts)
        prompt = model.resolve_prompt(None if request.prompt_name else "", request.prompt_name, None)
        raw = model.encoder.tokenizer.raw
        _check_amount(sum(len(prompt) + len(text) for text in request.texts), "characters")

        def tokenize() -> list[list[Token]]:
            encodings = raw.encode_batch(
                [prompt + text for text in request.texts], add_special_tokens=request.add_special_tokens
            )
            return [
                _list_tokens(encoding, prompt + text) for encoding, text in zip(encodings, request.texts, strict=True)
            ]

        return await self.run_in_thread(tokenize), model

    async def decode(self, request: DecodeRequest, call: Call) -> list[str]:
        """The texts of token ids.

        Raises:
            RequestError: an unknown model, or an id that it does not have.
        """
        model, _ = self.models.find(request.model)
        call.model, call.num_inputs = model, len(request.ids)
        rows = model.encoder.spec.trunk.vocab_size
        _check_amount(sum(map(len, request.ids)), "token ids")
        raw = model.encoder.tokenizer.raw

        def decode() -> list[str]:
            for index, ids in enumerate(request.ids):
                if ids and max(ids) >= rows:
                    raise RequestError(
                        f"ids[{index}] holds {max(ids)}, and this model has ids from 0 to {rows - 1}.",
                        "invalid",
                        param="ids",
                    )
            skip = request.skip_special_tokens
            return [raw.decode(list(ids), skip_special_tokens=skip) for ids in request.ids]

        return await self.run_in_thread(decode)

    def _find_model(self, request: EmbedRequest, call: Call) -> tuple[ServedModel, str]:
        """The model of a request, and the prompt before its texts.

        Raises:
            RequestError: the model is unknown, does not compute now, or has another fingerprint; or the prompt cannot
                be used.
        """
        model, _ = self.models.find(request.model)
        call.model, call.num_inputs = model, len(request.inputs)
        _check_engine(model)
        _check_fingerprint(request, model)
        prompt = model.resolve_prompt(
            request.prompt, request.prompt_name, request.input_type, request.optional_prompt_name
        )
        _check_prompt(prompt)
        return model, prompt

    def _reserve_states(self, call: Call, num_bytes: int) -> None:
        """
        Raises:
            RequestError: the states take too much memory, alone or beside other answers.
        """
        if num_bytes > MAX_ANSWER_BYTES:
            raise RequestError(
                f"the states of {call.num_tokens:,} tokens take {num_bytes >> 20:,} MiB, and {MAX_ANSWER_BYTES >> 20} "
                "are the limit. Send fewer texts at once.",
                "too_many",
            )
        self._reserve_answer(call, num_bytes, "bulk")

    def _reserve_answer(self, call: Call, num_bytes: int, lane: Lane) -> None:
        """
        Raises:
            RequestError: the answers of the requests under way take too much memory.
        """
        limit = MAX_ANSWER_BYTES if lane == "interactive" else int(BULK_SHARE * MAX_ANSWER_BYTES)
        if self.answer_bytes and self.answer_bytes + num_bytes > limit:
            raise RequestError(
                f"the server is busy: the answers of requests under way take {self.answer_bytes >> 20:,} MiB, and this "
                f"one needs {-(-num_bytes >> 20):,} MiB of the {limit >> 20:,} MiB for {lane} requests. Try again "
                "later.",
                "overloaded",
                retry_after=1.0,
            )
        call.answer_bytes = num_bytes
        self.answer_bytes += num_bytes

    # ---- from inputs to prepared texts

    async def _read_ids(
        self, inputs: Inputs, preparation: Preparation, token_ids: TokenIds
    ) -> Sequence[str] | list[Ids]:
        """Texts as they are; ids as texts, or as ids of the model.

        Raises:
            RequestError: ids are refused, or are not of the vocabulary.
        """
        if not inputs or isinstance(inputs[0], str):
            return inputs  # pyright: ignore[reportReturnType] all are str where one is
        if token_ids == "refuse":
            raise RequestError(
                "input holds token ids. LangChain's OpenAIEmbeddings sends ids of OpenAI's vocabulary, which mean "
                "other texts here. Set check_embedding_ctx_length=False there (tiktoken_enabled=False in older "
                "versions), or start the server with --token-ids cl100k; with --token-ids model if they are this "
                "model's own.",
                "token_ids",
                param="input",
            )
        complete, decode = preparation.complete_ids, partial(_decode, self.decode_cl100k)
        read: Callable[..., Any] = complete if token_ids == "model" else decode

        def read_all() -> list[Any]:
            return [read(ids, index) for index, ids in enumerate(inputs)]

        return read_all() if sum(map(len, inputs)) <= INLINE_IDS else await self.run_in_thread(read_all)

    async def _tokenize(
        self, inputs: Sequence[str] | list[Ids], preparation: Preparation, call: Call
    ) -> tuple[list[PreparedText], float]:
        """The prepared texts, and how many seconds that took. Many texts are tokenized slice by slice in the threads,
        so that those of other requests get their turns.

        Raises:
            RequestError: a text that the model cannot read.
            ClientGoneError: the client went away in between.
        """
        began = time.monotonic()
        is_text = bool(inputs) and isinstance(inputs[0], str)
        prepare: Callable[..., list[PreparedText]] = preparation.prepare_texts if is_text else preparation.prepare_ids
        sizes = [len(each) + len(preparation.prompt) for each in inputs]
        if len(inputs) <= TEXTS_PER_SLICE and sum(sizes) <= INLINE_CHARACTERS:
            return prepare(inputs, 0), time.monotonic() - began
        texts = list[PreparedText]()
        for part in _slice(sizes):
            call.check_alive()
            work = partial(prepare, inputs[part], part.start)
            if sum(sizes[part]) <= GIANT_CHARACTERS:
                texts += await self.run_in_thread(work)
                continue
            async with self.giants:  # one thread stays free for the texts of others
                texts += await self.run_in_thread(work)
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
        call.num_tokens = sum(text.num_tokens for text in texts)
        call.num_truncated = sum(text.truncated for text in texts)
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

    async def run_in_thread(self, function: Callable[[], Result]) -> Result:
        """Run what would hold the event loop up."""
        assert self.loop is not None
        return await self.loop.run_in_executor(self.threads, function)

    async def render_in_thread(self, function: Callable[[], Result]) -> Result:
        """Write a large answer."""
        assert self.loop is not None
        return await self.loop.run_in_executor(self.render_thread, function)


def _decode(decode_cl100k: Decode | None, ids: Any, index: int) -> str:
    """
    Raises:
        RequestError: an id that is not in cl100k.
    """
    assert decode_cl100k is not None, "loaded at the start"
    try:
        return decode_cl100k(ids)
    except Exception as error:
        message = f"input[{index}] holds an id that is not in cl100k. Send text."
        raise RequestError(message, "token_ids", param="input", index=index) from error


def _slice(sizes: Sequence[int]) -> list[slice]:
    """Slices of at most `TEXTS_PER_SLICE` texts, and of about `SLICE_CHARACTERS`; a larger text is one alone."""
    slices, start, total = list[slice](), 0, 0
    for index, size in enumerate(sizes):
        if index > start and (index - start == TEXTS_PER_SLICE or total + size > SLICE_CHARACTERS):
            slices.append(slice(start, index))
            start, total = index, 0
        total += size
    return [*slices, slice(start, len(sizes))]


def _estimate_tokens(request: EmbedRequest, prompt: str, model: ServedModel) -> int:
    """About how many tokens the model will read, before texts are tokenized."""
    sizes = [len(each) for each in request.inputs]
    if sizes and isinstance(request.inputs[0], str):
        sizes = [(len(prompt) + size) // CHARACTERS_PER_TOKEN for size in sizes]
    limit = model.encoder.max_seq_length
    return sum(sizes) if limit is None else sum(min(size, limit) for size in sizes)


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


def _check_prompt(prompt: str) -> None:
    """
    Raises:
        RequestError: it is too long to stand before every text.
    """
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise RequestError(
            f"the prompt has {len(prompt):,} characters, and it may have {MAX_PROMPT_CHARACTERS:,}. Shorten it.",
            "invalid",
            param="prompt",
        )


def _check_amount(number: int, what: str) -> None:
    """
    Raises:
        RequestError: more than a request for tokens may have.
    """
    if number > MAX_TOKEN_CHARACTERS:
        raise RequestError(
            f"the request has {number:,} {what}, and it may have {MAX_TOKEN_CHARACTERS:,}. Split it.", "too_many"
        )


def _check_engine(model: ServedModel) -> None:
    """
    Raises:
        RequestError: the model's engine does not compute now.
    """
    if model.batcher.is_ok:
        return
    health = model.batcher.check_health()
    if health.state != "ok":
        raise RequestError(
            f"the engine of {model.name} is {health.state}: {health.reason}.",
            "unavailable",
            retry_after=LOADING_RETRY_SECONDS,
        )


def _check_fingerprint(request: EmbedRequest, model: ServedModel) -> None:
    if request.require_fingerprint not in (None, model.fingerprint):
        raise RequestError(
            f"the model {model.name!r} has the fingerprint {model.fingerprint}, and "
            f"{shorten(request.require_fingerprint, 70)} is "
            "required. Its vectors cannot be compared with yours: encode anew, or name the other model.",
            "fingerprint",
            param="require_fingerprint",
        )


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


def _make_report(inputs: Sequence[str] | list[Ids], preparation: Preparation) -> TokenReport | None:
    """What was read of each text; None for token ids, which have no characters."""
    if not isinstance(inputs[0], str):
        return None
    side = preparation.truncate if preparation.truncate in ("left", "right") else None
    texts = [preparation.prompt + text for text in inputs]  # pyright: ignore[reportOperatorIssue] all are str
    report = preparation.encoder.tokenizer.tokenize(texts, limit=preparation.max_tokens, side=side)
    whole = preparation.truncate == "mean"
    return replace(report, truncated_at=[None] * len(texts)) if whole else report


def _compute_states(texts: Sequence[PreparedText], model: ServedModel, call: Call) -> tuple[float, list[Vectors]]:
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


def _list_tokens(encoding: Encoding, text: str) -> list[Token]:
    special_mask: list[int] = encoding.special_tokens_mask
    tokens = list[Token]()
    for id_, name, special, (start, stop) in zip(
        encoding.ids, encoding.tokens, special_mask, encoding.offsets, strict=True
    ):
        if special:
            tokens.append(Token(id_, name, True, None, None))
        else:
            tokens.append(Token(id_, text[start:stop], False, start, stop))
    return tokens


def _count_characters(inputs: Sequence[str] | list[Ids]) -> int:
    return sum(map(len, inputs)) if inputs and isinstance(inputs[0], str) else 0


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
        waiter.set_exception(_timeout_error())


def _timeout_error() -> RequestError:
    return RequestError("the request took longer than it may. Try again, with fewer texts.", "timeout")
