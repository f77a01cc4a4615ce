"""Passages of Markdown: titles, places and sizes."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gnomon.search.markdown import LINE_END, MAX_BYTES, split_markdown

WORD = re.compile(r"\w+")


def passages(source: str, **options: int) -> list[tuple[int, str, str]]:
    return [(each.line, each.title, each.text) for each in split_markdown(source, **options)]


def test_sections_begin_at_atx_and_setext_headings() -> None:
    source = (
        "before\n\n# One #\nfirst\n\nTwo *two*\n---\n\nsecond\n\n### `Three` &amp; [link](x)\nthird\n"
        "# Four\n\n> # quoted\n\n- # in a list\n"
    )
    assert passages(source) == [
        (1, "", "before"),
        (4, "One", "first"),
        (9, "One > Two two", "second"),
        (12, "One > Two two > Three & link", "third"),
        (15, "Four", "> # quoted\n\n- # in a list"),
    ]


def test_headings_in_code_are_text() -> None:
    source = "# A\n\n```sh\n# comment\nmake\n```\n\n    # indented\n\ntext\n"
    assert passages(source) == [(3, "A", "```sh\n# comment\nmake\n```\n\n    # indented\n\ntext")]
    assert passages("~~~\n# never closed\n") == [(1, "", "~~~\n# never closed")]


def test_a_heading_without_text_is_lost_nowhere() -> None:
    """It is in the titles below it; else it is a passage."""
    source = "# A\n## B\n### C\ntext\n## D\n---\n## E\n"
    assert passages(source) == [(4, "A > B > C", "text"), (5, "A", "## D"), (7, "A", "## E")]
    assert passages("# Alone") == [(1, "", "# Alone")]
    assert passages("") == passages("\n \n---\n") == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_front_matter_gives_a_title_and_no_text(end: str, mark: str) -> None:
    lines = ["---", 'title: "My notes"', "tags: [a, b]", "---", "", "intro", "# First", "text", "", "more"]
    assert passages(mark + end.join(lines)) == [(6, "My notes", "intro"), (8, "My notes > First", "text\n\nmore")]
    lines[6] = "# My notes"
    assert passages(mark + end.join(lines)) == [(6, "My notes", "intro"), (8, "My notes", "text\n\nmore")]


def test_what_counts_as_front_matter() -> None:
    assert passages("+++\ntitle = 'T'\n+++\nx") == [(4, "T", "x")]
    assert passages("---\n---\nx") == [(3, "", "x")]
    assert passages("---\na: b\n...\nx") == [(4, "", "x")]
    assert passages("---\n# a comment\ntitle: T\n---\nx") == [(5, "T", "x")]
    assert passages("---\na: b\nx") == [(2, "", "a: b\nx")]  # nothing ends it
    assert passages("---\nSome text.\n\n---\nx") == [(2, "", "Some text.\n\n---\nx")]  # two thematic breaks
    assert passages("\n---\na: b\n---\nx") == [(5, "a: b", "x")]  # not at the start: a heading


def test_long_sections_are_split_between_paragraphs_into_equal_parts() -> None:
    paragraphs = [f"Paragraph {number} " + "word " * 20 + "end." for number in range(9)]
    source = "# T\n\n" + "\n\n".join(paragraphs)
    found = split_markdown(source, max_bytes=400)
    assert [each.text for each in found] == ["\n\n".join(paragraphs[start : start + 3]) for start in (0, 3, 6)]
    assert [each.line for each in found] == [3, 9, 15]


def test_long_blocks_are_split_at_lines_sentences_and_words() -> None:
    lines = [f"- item {number} " + "x" * 30 for number in range(10)]
    assert [each.text.count("\n") for each in split_markdown("\n".join(lines), max_bytes=200)] == [4, 4]
    sentences = [f"This is sentence number {number}, no more. " for number in range(6)]
    assert [each.text for each in split_markdown("".join(sentences), max_bytes=90)] == [
        "".join(sentences[start : start + 2]).strip() for start in (0, 2, 4)
    ]
    assert [each.text for each in split_markdown("word " * 10, max_bytes=22)] == ["word word word word"] * 2 + [
        "word word"
    ]
    assert [each.text for each in split_markdown("x" * 25, max_bytes=10)] == ["x" * 10, "x" * 10, "x" * 5]
    assert [each.text for each in split_markdown("南瓜。做法。" * 3, max_bytes=18)] == ["南瓜。做法。"] * 3


def test_the_title_takes_room_but_leaves_half() -> None:
    text = "word " * 40
    assert max(len(each.text) for each in split_markdown(f"# {'t' * 50}\n{text}", max_bytes=100)) <= 50
    assert max(len(each.text) for each in split_markdown(f"# {'t' * 500}\n{text}", max_bytes=100)) <= 50
    assert max(len(each.title) + 1 + len(each.text) for each in split_markdown(f"# t\n{text}")) <= MAX_BYTES


LINES = st.sampled_from(
    ["", " ", "# head one", "## head two #", "#### deep", "setext", "===", "---", "+++", "```", "~~~~", "    code",
     "> quote", "- item one", "  - inner", "1. first", "| a | b |", "|---|---|", "title: name", "<div>", "</div>",
     "[ref]: target", "plain words here. More of them! 南瓜的。", "\ttab", "long " * 40, "x" * 90, "back\\slash",
     "* * *", "\x0c", "a\u2028b"]
)  # fmt: skip


@given(
    st.lists(LINES, max_size=25),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["", "\ufeff"]),
    st.integers(20, 300),
)
@example(["---", "title: name", "---", "", "setext", "==="], "\r\n", "\ufeff", 20)
def test_each_line_is_where_the_text_stands_in_the_file(lines: list[str], end: str, mark: str, max_bytes: int) -> None:
    source = mark + end.join(lines)
    found = split_markdown(source, max_bytes=max_bytes)
    in_file = LINE_END.split(source.removeprefix("\ufeff"))
    for each in found:
        parts = each.text.split("\n")
        assert parts[0] in in_file[each.line - 1]
        assert in_file[each.line : each.line + len(parts) - 2] == parts[1:-1]
        assert len(parts) == 1 or in_file[each.line + len(parts) - 2].startswith(parts[-1])
        assert each.text.strip()
        if not each.text.startswith("#") and not parts[-1].startswith(("===", "---")):  # a heading alone stays whole
            title = f"{each.title}\n" if each.title else ""
            assert len(each.text.encode()) <= max(max_bytes - len(title.encode()), max_bytes // 2)
    assert [each.line for each in found] == sorted(each.line for each in found)


@given(st.lists(LINES, max_size=25), st.integers(20, 300))
def test_no_word_is_lost(lines: list[str], max_bytes: int) -> None:
    """Each word is in a text or a title."""
    source = "\n".join(["text first", *lines])  # so that there is no front matter
    found = split_markdown(source, max_bytes=max_bytes)
    left = " ".join([*(each.title for each in found), *(each.text for each in found)])
    assert set(WORD.findall(source)) - set(WORD.findall(left)) <= {"x" * 90}  # that may be split itself
