"""What counts as texts, and the words of a refusal."""

from array import array
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.errors import InputError
from gnomon.inputs import as_texts

TEXTS = ["one", "", "two", "Привет ❤️", "one"]

COLUMNS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "generator": lambda texts: (text for text in texts),
    "iterator": iter,
    "values": lambda texts: dict(enumerate(texts)).values(),
    "numpy U": np.array,
    "numpy strings": lambda texts: list(np.array(texts)),
    "numpy object": lambda texts: np.array(texts, dtype=object),
    "numpy StringDType": lambda texts: np.array(texts, dtype=np.dtypes.StringDType()),
    "numpy strided": lambda texts: np.repeat(np.array(texts), 2)[::2],
    "Series": lambda texts: pd.Series(texts, index=range(len(texts), 0, -1)),
    "string Series": lambda texts: pd.Series(texts, dtype="string"),
    "Arrow Series": lambda texts: pd.Series(texts, dtype=pd.ArrowDtype(pa.string())),
    "category Series": lambda texts: pd.Series(texts, dtype="category"),
    "Index": pd.Index,
    "Arrow": pa.array,
    "large Arrow": lambda texts: pa.array(texts, pa.large_string()),
    "chunked": lambda texts: pa.chunked_array([texts[:2], [], texts[2:]]),
    "dictionary": lambda texts: pa.array(texts).dictionary_encode(),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("texts", [TEXTS, []], ids=["full", "empty"])
def test_columns_of_every_kind(kind: str, texts: list[str]) -> None:
    column = COLUMNS[kind](texts)
    if kind == "numpy U" and not texts:
        column = column.astype("U1")
    assert as_texts(column) == texts


@given(st.lists(st.text()))
def test_a_list_is_itself_and_a_str_a_list_of_one(texts: list[str]) -> None:
    assert as_texts(texts) == texts
    assert as_texts("".join(texts)) == ["".join(texts)]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", None], "text 1 is NoneType None; every text must be a str: drop missing values"),
        (["a", b"b"], "text 1 is bytes b'b'; every text must be a str: decode it first"),
        (["a", "b", 3], "text 2 is int 3; every text must be a str."),
        ([float("nan")], "text 0 is float nan; every text must be a str: drop missing values"),
        ([["a"], ["b"]], "text 0 is list ['a']; every text must be a str."),
        ([("question", "answer")], "text 0 is tuple"),
        ([{"text": "a"}], "text 0 is dict {'text': 'a'}"),
        ([list(range(99))], "text 0 is list [0, 1, 2, 3, 4, 5"),
        ([np.array(["a", "b"])], "text 0 is ndarray"),
        ([pd.Series(["a", "b"])], "text 0 is Series"),
        (pd.Series(["a", None]), "text 1 is "),
        (pd.Series(["a", None], dtype="string"), "text 1 is NAType <NA>; every text must be a str: drop missing"),
        (pa.array(["a", None]), "text 1 is NoneType None"),
        (pa.array([1, 2]), "text 0 is int 1"),
        (np.array([1.5]), "text 0 is float 1.5"),
        (array("i", [7]), "text 0 is int 7"),
        (b"abc", "texts is bytes b'abc'; give a str, or a list or column of str: decode it first"),
        (bytearray(b"abc"), "text"),
        (None, "texts is NoneType None; give a str"),
        (5, "texts is int 5; give a str"),
        ({"a": 1}, "texts is dict {'a': 1}; give a str"),
        ({"a"}, "texts is set {'a'}; give a str"),
        (frozenset("a"), "texts is frozenset"),
        (pd.DataFrame({"a": ["x"]}), "texts is a table (DataFrame); give one of its columns."),
        (pa.table({"a": ["x"]}), "texts is a table (Table); give one of its columns."),
        (pa.record_batch({"a": ["x"]}), "texts is a table (RecordBatch); give one of its columns."),
        (np.array([["a", "b"]]), "texts is an array of 2 dimensions; give one of 1."),
        (np.array("a"), "texts is an array of 0 dimensions; give one of 1."),
        (["fine", "\ud800"], "text 1 "),
        (["é", "ok", "tail \udcff"], "text 2 "),
        ("a\udfffb", "text 0 "),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isprintable() and value.isascii() else "",
)
def test_what_is_not_a_text_is_refused_with_its_place(texts: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        as_texts(texts)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 250


def test_the_first_of_several_is_named() -> None:
    with pytest.raises(InputError, match=r"^text 2 is NoneType"):
        as_texts(["a", "b", None, 5, None])
    with pytest.raises(InputError, match=r"^text 1 "):
        as_texts(["a", "\ud800", "\ud801"])
