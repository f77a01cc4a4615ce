"""The docs task's rows in other forms: what a question says, what is cut out, what is drawn again."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.learning import question_templates as templates

FIRST = "The first of them is long enough to be one."
SECOND = "Another stands behind it and says something else."
THIRD = "A third one is there for the others to be found by."
SECTIONS = [
    {"anchor": f"Locks: part {name}", "positive": f"{FIRST} {SECOND} {THIRD} It is {name}."} for name in "abcdefgh"
]
ROWS = st.lists(
    st.fixed_dictionaries({"anchor": st.text("aB:? .", min_size=1), "positive": st.text("aB. ", min_size=1)}),
    max_size=20,
)


@pytest.mark.parametrize(
    ("heading", "questions"),
    [
        ("Locks: Usage", {"How do I use locks?", "How is locks used?"}),
        ("GPIO: Overview", {"What is GPIO?", "What does GPIO do?", "What is GPIO for?"}),
        ("Locks: Setting the owner", {form.format(section="setting the owner") for form in templates.DOING}),
        ("Locks: Set the owner", {form.format(section="set the owner") for form in templates.ORDERED}),
        ("Locks: 3.1 Fair ones:", {form.format(section="fair ones", page="Locks") for form in templates.NAMED}),
        ("Locks: Who holds one?", {"Who holds one?"}),
        ("Usage", {form.format(section="usage", page="Usage") for form in templates.NAMED}),
        ("Locks: 4.", {form.format(section="4", page="Locks") for form in templates.NAMED}),
    ],
)
def test_a_heading_becomes_a_question(heading: str, questions: set[str]) -> None:
    row = {"anchor": heading, "positive": "text"}
    assert {templates.question(row, random.Random(seed)) for seed in range(200)} == questions


def test_a_section_is_asked_for_in_all_forms() -> None:
    found = [*templates.mixed(SECTIONS[:1])]
    text = SECTIONS[0]["positive"]
    assert found[0][0] in {form.format(section="part a", page="Locks") for form in templates.NAMED}
    assert [query for query, _ in found[1:3]] == ["part a", "Locks: part a"]
    assert [answer for _, answer in found[:2]] == [text, text]
    assert {query for query, _ in found[3:]} == {FIRST, SECOND, THIRD}
    assert all(query not in answer for query, answer in found[3:])


def test_no_more_is_read_than_the_beginning_of_a_text() -> None:
    long = {
        "anchor": "Locks: part a",
        "positive": " ".join(f"Sentence {number} of a long section." for number in range(99)),
    }
    lengths = [len(answer) for _, answer in templates.mixed([long])]
    assert max(lengths) == lengths[0] == lengths[1] == templates.BEGINNING


def test_a_sentence_alone_is_not_asked_for() -> None:
    found = [*templates.mixed([{"anchor": "Locks: part a", "positive": FIRST}])]
    assert [answer for _, answer in found] == [FIRST] * 3


def test_a_page_is_found_by_a_sentence_that_is_cut_out_or_by_a_heading() -> None:
    ((query, text),) = templates.topics(SECTIONS)
    assert query == FIRST
    assert text.count(FIRST) == len(SECTIONS) - 1
    assert all(f"It is {name}." in text for name in "abcdefgh")
    short = [row | {"positive": "Short."} for row in SECTIONS]
    ((query, text),) = templates.topics(short)
    assert query in {f"part {name}" for name in "abcdefgh"}
    assert text == " ".join(["Short."] * len(SECTIONS))
    assert [*templates.topics(SECTIONS[: templates.FEWEST - 1])] == []


def test_a_long_page_is_read_ten_sections_at_a_time() -> None:
    many = [{"anchor": f"Locks: part {place}", "positive": f"Text {place}."} for place in range(25)]
    texts = [text for _, text in templates.topics(many)]
    assert sorted(text.count("Text") for text in texts) == [5, 10, 10]


def test_only_headings_that_are_questions_are_asked() -> None:
    rows = [*SECTIONS, {"anchor": "Locks: Who holds one? ", "positive": "Nobody."}]
    assert [*templates.asked(rows)] == [("Who holds one? ", "Nobody.")]


@given(ROWS)
def test_whatever_the_rows_are_each_form_says_the_same_again(rows: list[dict[str, str]]) -> None:
    for form in templates.FORMS.values():
        found = [*form(rows)]
        assert found == [*form(rows)]
        assert all(query for query, _ in found)
