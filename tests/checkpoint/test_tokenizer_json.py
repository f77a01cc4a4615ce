"""tokenizer.json: what a newer library wrote is named, with the cure that helps."""

import codecs
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from gnomon.checkpoint.tokenizer_files import read_tokenizer
from gnomon.checkpoint.tokenizer_json import load_tokenizer_json
from gnomon.errors import NotAModelError, UnsupportedError

WORDS = {"[UNK]": 0, "type": 1, "sundial": 2}
PLAIN = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="[UNK]"))
PLAIN.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()


def write(folder: Path, **sections: Any) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(PLAIN.to_str()) | sections))
    return path


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"version": "2.0"}, "version '2.0'"),
        ({"normalizer": {"type": "Romanise"}}, "a normalizer of type 'Romanise'"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Deep"}]}}, "type 'Deep'"),
        ({"pre_tokenizer": {"type": "Syllables", "x": 1}}, "a pre_tokenizer of type 'Syllables'"),
        ({"post_processor": {"type": "Wrap"}}, "a post_processor of type 'Wrap'"),
        ({"decoder": {"type": "Glue"}}, "a decoder of type 'Glue'"),
        ({"model": {"type": "BytePatch", "vocab": WORDS}}, "a model of type 'BytePatch'"),
        ({"model": {"type": "BytePatch"}, "version": "1.1"}, "version '1.1', a model of type 'BytePatch'"),
    ],
)
def test_a12_what_a_newer_library_wrote_asks_for_that_library(
    sections: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = write(tmp_path, **sections)
    with pytest.raises(UnsupportedError, match="pip install -U tokenizers") as caught:
        read_tokenizer(tmp_path)
    assert words in str(caught.value)
    assert f"tokenizers {tokenizers.__version__}" in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "sections",
    [
        {"pre_tokenizer": {"type": "Metaspace"}},
        {"model": {"type": "WordLevel", "vocab": {"[UNK]": "zero"}, "unk_token": "[UNK]"}},
        {"added_tokens": [{"id": 1}]},
        {"version": None},
    ],
)
def test_a12_a_damaged_file_asks_for_the_file(sections: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, **sections)
    with pytest.raises(NotAModelError, match=r"tokenizer\.json cannot be used(?s:.*)Download the file again"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000], ids=lambda content: content[:4])
def test_a12_a_file_that_is_not_one_asks_for_the_file(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(NotAModelError, match=r"tokenizer\.json cannot be used(?s:.*)Download the file again"):
        read_tokenizer(tmp_path)


def test_a13_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert load_tokenizer_json(path).encode("a sundial").ids == [0, 2]
