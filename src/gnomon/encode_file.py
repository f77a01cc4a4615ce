"""Encodes the texts of a file into a file of vectors, group by group, in memory that does not grow with their number.

B: texts of a group; D: dimensions of a vector.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import gnomon
from gnomon.encode_options import EncodeOptions
from gnomon.encoder import Encoder
from gnomon.errors import InputError, TruncationError
from gnomon.messages import count, shorten_json
from gnomon.progress import progress_bar
from gnomon.quantization import VectorPrecision
from gnomon.text_files import TextFile, TextStream, describe_empty
from gnomon.vector_drafts import Draft, JsonlDraft, NpyDraft, ParquetDraft, StreamDraft, unify_schemas
from gnomon.vector_files import check_precision, convert_precision, describe_origin, ranges_path, row_json
from gnomon.vector_output import EncodeState, Ranges, VectorOutput

Precision = VectorPrecision | Literal["float32"]

SETTING_NAMES = {"long_texts": "on_truncate", "max_texts": "texts per group", "max_chars": "characters per group"}
"""Settings whose names in messages are others."""


# ---- before the work


@dataclass
class TextSurvey:
    """How many texts an input has, and how many lines of it hold none."""

    name: str
    unit: str = "line"
    num_texts: int = 0
    num_empty: int = 0
    first_empty: list[int] = field(default_factory=list[int])
    skipped: int = 0

    def add(self, group: TextFile) -> None:
        """Count the next group of texts."""
        self.unit, self.skipped = group.unit, group.skipped
        self.num_texts += len(group.texts)
        self.num_empty += len(group.empty_texts)
        self.first_empty = [*self.first_empty, *group.empty_texts.values()][:3]

    def describe_empty(self) -> str | None:
        """How many texts are empty, and on which lines; None if no text is."""
        return describe_empty(self.name, self.unit, self.num_empty, self.first_empty, self.num_texts)


def survey_texts(stream: TextStream, output_form: str) -> TextSurvey | None:
    """Read an input once before the work, so that what is wrong in it is known early; None for one that is read once.

    Raises:
        InputError: a line that cannot be used; rows whose fields do not fit one Parquet table.
    """
    if not stream.is_rereadable:
        return None
    survey, schema = TextSurvey(stream.name), None
    for group in stream.read_groups(show_progress=True):
        survey.add(group)
        if output_form == "parquet":
            schema = unify_schemas(schema, group.table.schema)
    return survey


def check_lengths(encoder: Encoder, stream: TextStream, options: EncodeOptions) -> None:
    """
    Raises:
        TruncationError: texts are longer than the model reads; counts them all.
    """
    limit, num_texts, num_long, longest, longest_line, unit = encoder.max_seq_length, 0, 0, 0, 0, "line"
    if limit is None:
        return
    for group in stream.read_groups(quiet=True):
        counts = encoder.tokenize(group.texts, prompt=options.prompt, prompt_name=options.prompt_name).counts
        num_texts += len(counts)
        num_long += sum(number > limit for number in counts)
        if max(counts) > longest:
            longest, longest_line, unit = max(counts), group.lines[int(np.argmax(counts))], group.unit
    if num_long:
        raise TruncationError(
            f"{num_long:,} of {num_texts:,} texts are longer than {limit} tokens; the longest, on {unit} "
            f"{longest_line} of {stream.name}, has {longest:,}. Shorten them, or let on_truncate= be 'mean', 'warn' or "
            "'silent'."
        )


# ---- the work


@dataclass(frozen=True)
class EncodeReport:
    """What was written."""

    survey: TextSurvey
    dim: int
    num_truncated: int
    num_new: int
    """Texts that were encoded now, and not in an attempt before."""
    seconds: float
    """Time of these texts."""


def encode_file(
    encoder: Encoder,
    stream: TextStream,
    output: VectorOutput,
    options: EncodeOptions,
    *,
    precision: Precision = "float32",
    ranges_2D: NDArray[Any] | None = None,
    survey: TextSurvey | None = None,
) -> EncodeReport:
    """Encode the texts of a stream into an output, from where an attempt before has stopped.

    After every group, its vectors are kept. A group is encoded by itself, so that the file does not depend on where
    the work was stopped.

    Args:
        precision, ranges_2D: as in `quantize`; without ranges, those of all vectors are used.
        survey: of `survey_texts`, if the texts were read before.

    Raises:
        InputError: other settings or texts than those of the attempt before; and as `Encoder.encode`.
        TruncationError, NumericError, WorkerError: as `Encoder.encode`.
        OSError: the output cannot be written.
    """
    job = _Job(encoder, stream, output, options, precision, ranges_2D, survey)
    return job.run()


class _Job:
    """One call of `encode_file`."""

    def __init__(
        self,
        encoder: Encoder,
        stream: TextStream,
        output: VectorOutput,
        options: EncodeOptions,
        precision: Precision,
        ranges_2D: NDArray[Any] | None,
        survey: TextSurvey | None,
    ) -> None:
        self.encoder, self.stream, self.output, self.options = encoder, stream, output, options
        self.precision: Precision = precision
        self.ranges_2D = ranges_2D
        self.needs_ranges = precision in ("int8", "uint8") and ranges_2D is None
        self.expected = survey
        self.survey = TextSurvey(stream.name)
        self.space, self.dim = encoder.space(options), encoder.output_dim(options)
        self.prompt = encoder.prompts[options.prompt_name] if options.prompt_name is not None else options.prompt or ""
        check_precision(self.dim, precision, ranges_2D)
        if self.needs_ranges and survey and survey.num_texts < 2:
            convert_precision(np.zeros((survey.num_texts, self.dim), np.float32), precision, None)  # which raises
        settings = self._describe_settings()
        self.state = output.state or EncodeState(settings, output.overwrites)
        _check_settings(output, self.state.settings, settings)
        self.num_old = self.state.num_texts
        self._groups: deque[tuple[TextFile, str]] = deque()
        """Groups that are under way, with the digest of all texts up to their end."""

    def run(self) -> EncodeReport:
        started = time.perf_counter()
        if self.state.final and not (self.output.folder / self.state.final).exists():  # stopped when all was done
            self._publish(self.output.folder / self.state.final)
        else:
            self._encode()
        survey = replace(self.survey, num_texts=self.state.num_texts, skipped=self.state.skipped)
        num_new, seconds = self.state.num_texts - self.num_old, time.perf_counter() - started
        return EncodeReport(survey, self.dim, self.state.num_truncated, num_new, seconds)

    def _encode(self) -> None:
        with ExitStack() as stack:
            draft = stack.enter_context(closing(self._open_draft(stack)))
            total = self.expected.num_texts if self.expected else None
            if self.options.on_truncate == "error" and self.stream.is_rereadable:
                check_lengths(self.encoder, self.stream, self.options)
            bar = progress_bar(total, "encoding", "texts", initial=self.state.num_texts)
            with bar as advance:
                encoded = self.encoder.encode_stream(
                    self._read_new_groups(),
                    self.options,
                    first_position=self.state.num_texts,
                    num_texts=total,
                    on_progress=advance,
                )
                self._write_groups(stack.enter_context(closing(encoded)), draft)
            convert = partial(self._convert_all, self._find_ranges()) if self.needs_ranges else None
            final = draft.finish(self.state.num_texts, convert)
        if final is not None:
            self.state = replace(self.state, final=final.name, skipped=self.survey.skipped)
            self.output.save(self.state)
            self._publish(final)
        else:
            self.state = replace(self.state, skipped=self.survey.skipped)

    def _write_groups(self, encoded: Iterator[Any], draft: Draft) -> None:
        """Append each group to the draft, and then keep the state."""
        ranges = Ranges(self.state)
        for each in encoded:
            group, digest = self._groups.popleft()
            if self.needs_ranges:
                ranges.add(each.vectors)
                draft.append(group, each.vectors)
            else:
                draft.append(group, convert_precision(each.vectors, self.precision, self.ranges_2D)[0])
            self.state = replace(
                self.state,
                num_groups=self.state.num_groups + 1,
                num_texts=self.state.num_texts + len(group.texts),
                num_truncated=self.state.num_truncated + len(each.truncated),
                size=draft.sync(),
                digest=digest,
                **ranges.as_state(),
            )
            self.output.save(self.state)

    def _read_new_groups(self) -> Iterator[list[str]]:
        """The texts of each group that is not encoded yet.

        Raises:
            InputError: the texts before are others than those that were encoded.
        """
        digest, old = "", self.state
        number = 0
        groups = self.stream.read_groups(quiet=self.expected is not None, in_thread=True)
        for number, group in enumerate(groups, 1):
            self.survey.add(group)
            digest = _extend_digest(digest, group, with_rows=self.output.form != "npy")
            if number == old.num_groups and digest != old.digest:
                raise self._make_input_error(f"its first {count(old.num_texts, 'text')} are others")
            if number > old.num_groups:
                self._groups.append((group, digest))
                yield group.texts
        if number < old.num_groups:
            raise self._make_input_error(f"it has {count(self.survey.num_texts, 'text')} only")

    def _make_input_error(self, difference: str) -> InputError:
        return InputError(
            f"{self.stream.name} is not the input of which {self.output.folder} holds "
            f"{count(self.num_old, 'text')}: {difference}. Give the same input, or start anew with overwrite=True "
            "(--overwrite)."
        )

    def _find_ranges(self) -> NDArray[Any]:
        """The ranges of all vectors, [2, D]."""
        if self.state.num_texts < 2:
            convert_precision(np.zeros((1, self.dim), np.float32), self.precision, None)  # which raises
        self.ranges_2D = Ranges(self.state).as_array()
        return self.ranges_2D

    def _convert_all(self, ranges_2D: NDArray[Any], vectors_BD: NDArray[Any]) -> NDArray[Any]:
        return convert_precision(vectors_BD, self.precision, ranges_2D)[0]

    def _open_draft(self, stack: ExitStack) -> Draft:
        folder, size = self.output.folder, self.state.size
        if self.output.form == "parquet":
            return ParquetDraft(folder, size)
        if self.output.form == "jsonl":
            direct = self.output.streams and not self.needs_ranges
            return StreamDraft(stack.enter_context(self.output.open_stream())) if direct else JsonlDraft(folder, size)
        example = np.zeros((2, self.dim), np.float32)
        if not self.needs_ranges:
            example = convert_precision(example, self.precision, self.ranges_2D)[0]
        return NpyDraft(folder, size, example.shape[1], example.dtype)

    def _publish(self, final: Any) -> None:
        ranges_2D = Ranges(self.state).as_array() if self.needs_ranges else self.ranges_2D
        manifest = describe_origin(self.encoder, self.space) | {
            "prompt": self.prompt,
            "precision": self.precision,
            "ranges": ranges_path(self.output.path).name if ranges_2D is not None else None,
            "count": self.state.num_texts,
            "cut": self.state.num_truncated,
            "skipped": self.state.skipped,
        }
        self.output.publish(final, manifest, ranges_2D)

    def _describe_settings(self) -> dict[str, Any]:
        """What the vectors depend on beside the texts, by the names of options where there are any."""
        limits, ranges = self.stream.limits, self.ranges_2D
        return {
            "gnomon": gnomon.__version__,
            "model": f"{self.encoder.name}, fingerprint {self.space.fingerprint[:16]}",
            "engine": self.encoder.engine.identity,
            "max_seq_length": self.encoder.max_seq_length,
            "dim": self.space.dim,
            "cut_from": self.space.cut_from,
            "normalized": self.space.normalized,
            "long_texts": self.space.long_texts,
            "prompt": self.prompt,
            "precision": self.precision,
            "ranges": None if ranges is None else hashlib.sha256(ranges.tobytes()).hexdigest()[:16],
            "output": self.output.form,
            "format": self.stream.form,
            "field": None if self.stream.fields is None else list(self.stream.fields),
            "delimiter": self.stream.delimiter,
            "skip_bad": self.stream.skip_bad,
            "max_texts": limits and limits.max_texts,
            "max_chars": limits and limits.max_chars,
        }


def _check_settings(output: VectorOutput, old: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """
    Raises:
        InputError: what is kept was made with other settings; says which, with both values.
    """
    different = [name for name in settings if settings[name] != old.get(name)]
    if different:
        differences = "; ".join(
            f"{SETTING_NAMES.get(name, name)} is {shorten_json(settings[name])} and was {shorten_json(old.get(name))}"
            for name in different
        )
        raise InputError(
            f"{output.folder} was begun with other settings: {differences}. Give the same ones, or start anew with "
            "overwrite=True (--overwrite)."
        )


def _extend_digest(digest: str, group: TextFile, *, with_rows: bool) -> str:
    """SHA-256 of the texts of a group, and of their rows where the output holds them, after those of earlier groups."""
    content = hashlib.sha256(digest.encode())
    for index, text in enumerate(group.texts):
        for part in (text, row_json(group, index)) if with_rows else (text,):
            data = part.encode("utf-8", "surrogatepass")
            content.update(len(data).to_bytes(8, "little"))
            content.update(data)
    return content.hexdigest()
