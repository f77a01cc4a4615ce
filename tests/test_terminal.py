"""Text in columns, and errors in the words of the command line."""

import io

import numpy as np
import pytest

from gnomon import terminal
from gnomon.errors import InputError
from gnomon.terminal import (
    display_width,
    format_error,
    format_hits,
    format_matrix,
    format_table,
    prepare_streams,
    supports_unicode,
    truncate_line,
    wrap_text,
)


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("南瓜", 4), ("e\u0301", 1), ("ｆｕｌｌ", 8), ("ｶﾅ", 2), ("a\u200db", 2), ("🎃", 2)]
)
def test_display_width(text: str, width: int) -> None:
    assert display_width(text) == width


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("short  text\n here", ["short text", "here"]),
        ("a word, verylongwordindeed", ["a word,", "verylongwo", "rdindeed"]),
        ("南瓜的家常做法", ["南瓜的家常", "做法"]),
        ("a南瓜的家常做法", ["a南瓜的家", "常做法"]),
        ("one two three four five six seven", ["one two", "three four", "five six…"]),
    ],
)
def test_wrapped_breaks_at_spaces_and_wide_characters(text: str, lines: list[str]) -> None:
    assert wrap_text(text, 10, 3) == lines


def test_cut_never_splits_a_wide_character() -> None:
    assert truncate_line("南瓜的家", 6) == "南瓜…"
    assert truncate_line("南瓜的家", 7) == "南瓜的…"
    assert truncate_line("南瓜的家", 8) == "南瓜的家"


def test_wrapped_keeps_the_start_raw_and_indents_the_rest() -> None:
    assert wrap_text("name:   one  two three", 13, 9, indent=8, num_verbatim=8) == [
        "name:   one",
        "        two",
        "        three",
    ]


def test_what_is_shown_holds_no_escape_sequences_and_keeps_joiners() -> None:
    assert wrap_text("\x1b[31mred\x1b[0m \x07bell a\u200db", 40, 1) == ["[31mred[0m bell a\u200db"]


def test_a_table_is_as_wide_as_its_widest_cells() -> None:
    assert list(format_table([("", "got"), ("南瓜", "1"), ("a", "22")])) == ["      got", "南瓜  1", "a     22"]


def test_a_matrix_goes_on_below_where_it_does_not_fit() -> None:
    scores = np.arange(144).reshape(12, 12) / 144 - 0.5
    labels = [f"text number {index} that is long enough to be cut 日本語" for index in range(12)]
    found = list(format_matrix(labels, scores.tolist(), 80))
    assert max(map(display_width, found)) <= 80
    blocks = [block.split("\n") for block in "\n".join(found).split("\n\n")]
    assert [int(name) for block in blocks for name in block[0].split()] == list(range(1, 13))
    cells = np.hstack([[line.split("…")[1].split() for line in block[1:]] for block in blocks])
    np.testing.assert_allclose(cells.astype(float), scores, atol=6e-4)


def test_results_show_rank_score_label_and_the_start_of_the_text() -> None:
    hits = [
        {
            "score": 0.98765,
            "place": f"{'folder/' * 6}a\x1b[0m.md:3",
            "heading": f"d1: {'南' * 40}",
            "columns": "price: 3",
            "text": "word " * 40,
        },
        {"score": -0.5, "place": "b\udcff.txt:1", "heading": "", "text": "short"},
        {"score": 0, "text": "\n"},
    ]
    lead = " " * 13
    assert list(format_hits(hits, 40)) == [
        f"  1   0.988  {'folder/' * 6}a?[0m.md:3",
        f"{lead}d1: 南南南南南南南南南南南…",
        f"{lead}price: 3",
        f"{lead}word word word word word",
        f"{lead}word word word word word w…",
        "  2  -0.500  b\udcff.txt:1",
        f"{lead}short",
        "  3   0.000  ",
    ]


def test_b7_standard_output_takes_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, written in (("cp1252", b"caf\xe9 ?? \xff ?"), ("utf-8", "café 日本 ".encode() + b"\xff ?")):
        raw = io.BytesIO()
        monkeypatch.setattr(terminal.sys, "stdout", io.TextIOWrapper(raw, encoding))
        prepare_streams()
        print("café 日本 \udcff \ud83c", end="", flush=True)  # a byte of a file name, and half a surrogate pair
        assert raw.getvalue() == written
        assert supports_unicode(terminal.sys.stdout) == (encoding == "utf-8")
    raw = io.BytesIO()
    monkeypatch.setattr(terminal.sys, "stdout", io.TextIOWrapper(raw, "cp1252", "backslashreplace"))
    prepare_streams()
    print("日", end="", flush=True)  # as the user asked for
    assert raw.getvalue() == b"\\u65e5"
    assert not supports_unicode(None)


OPTIONS = {"on_truncate": "--on-truncate", "dtype": "--dtype", "skip_bad": "--skip-bad", "form": "--format"}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InputError("let on_truncate= be 'mean'."), "let --on-truncate be 'mean'."),
        (InputError("use engine='onnx', or dtype='int8'."), "use engine='onnx', or --dtype int8."),
        (InputError("no (skip_bad=True) line"), "no (--skip-bad) line"),
        (InputError("with skip_bad=True (--skip-bad)."), "with --skip-bad."),
        (InputError("and form= (--format) names it"), "and --format names it"),
        (InputError("form=a/in.txt: no folder form=a or form=/b"), "form=a/in.txt: no folder form=a or form=/b"),
        (InputError("one\ntwo"), "one two"),
        (FileNotFoundError(2, "No such file", "in.txt"), "in.txt: No such file"),
        (OSError("told at length: dtype='int8'"), "told at length: dtype='int8'"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "not UTF-8 text ("),
        (MemoryError(), "there is not enough memory for this"),
        (KeyError("missing"), "KeyError: 'missing' (a fault of gnomon; gnomon --traceback COMMAND shows where)"),
    ],
)
def test_an_error_is_one_line_in_the_words_of_the_command_line(error: Exception, text: str) -> None:
    assert format_error(error, OPTIONS).startswith(text)
    assert "\n" not in format_error(error, OPTIONS)
