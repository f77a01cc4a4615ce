"""The parts of messages."""

import pytest

from gnomon import messages
from gnomon.errors import InputError


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [("short", 60, "'short'"), ("abcdefgh", 10, "'abcdefgh'"), ("abcdefghi", 10, "'abcdef..."), ([1, 2], 60, "[1, 2]")],
)
def test_a_value_is_shortened(value: object, limit: int, text: str) -> None:
    assert messages.shorten(value, limit) == text
    assert len(messages.shorten(value, limit)) <= limit


def test_a_json_value_is_written_as_in_the_file() -> None:
    values = None, [True, 1], "é\ud800"
    assert [messages.shorten_json(value) for value in values] == ["null", "[true, 1]", "'é\\ud800'"]
    assert messages.shorten_json(["abcdefghi"], 10) == '["abcde...'


@pytest.mark.parametrize(
    ("number", "text"), [(0, ""), (1, "0"), (3, "0, 1, 2"), (4, "0, 1, 2 and 1 more"), (2003, "0, 1, 2 and 2,000 more")]
)
def test_many_items_are_the_first_and_a_number(number: int, text: str) -> None:
    assert messages.list_some(range(number), 3) == text


def test_a_list_of_the_first_items_names_the_total() -> None:
    assert messages.list_some([1, 2], 3, total=2) == "1, 2"
    assert messages.list_some([1, 2], 3, total=1002) == "1, 2 and 1,000 more"
    assert messages.list_some(["a, b", "c", "d"], 2, separator="; ") == "a, b; c; and 1 more"


def test_words_are_joined_as_in_a_sentence() -> None:
    assert [messages.join_words(list("abc")[:count]) for count in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert messages.join_words(["a", "b"], "or") == "a or b"


def test_a_count_has_its_noun() -> None:
    assert [messages.count(number, "row") for number in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
    assert messages.count(2, "query", "queries") == "2 queries"


def test_the_nearest_name_is_offered() -> None:
    assert messages.did_you_mean("Cosin", ["dot", "cosine"]) == " Did you mean 'cosine'?"
    assert messages.did_you_mean("x", ["dot", "cosine"]) == ""
    assert messages.closest_names("abcd", ["abc", "abcde", "z"], 2) == ["abcde", "abc"]


def test_a_choice_is_checked() -> None:
    messages.check_choice("dot", "score", ("dot", "cosine"))
    with pytest.raises(InputError, match=r"score 'cosin'.*dot, cosine.*'cosine'"):
        messages.check_choice("cosin", "score", ("dot", "cosine"))
