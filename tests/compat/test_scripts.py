"""Scripts as people write them for sentence-transformers give the same results after one import is changed."""

import contextlib
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from goldens import GOLDEN, require

SCRIPTS = Path(__file__).parent / "scripts"
SWITCHED = "from gnomon.compat"

MINILM_SCRIPTS = {
    "semantic_search": ("results",),
    "util_search": ("hits",),
    "clustering": ("cluster_assignment", "agglomerative_assignment", "clusters"),
    "paraphrase_mining": ("paraphrases",),
    "duplicates": ("matrix", "pairs", "nearest"),
    "retrieve_rerank": ("bits", "candidates", "results", "short_hits"),
}
"""Script on all-MiniLM-L6-v2 -> its variables that are compared."""

CARD_SCRIPTS = {
    "card_multi_qa": ("sentence-transformers/multi-qa-distilbert-cos-v1", ("doc_score_pairs",)),
    "card_gist": ("avsolatorio/GIST-Embedding-v0", ("scores",)),
    "card_e5": ("intfloat/multilingual-e5-small", ("embeddings",)),
}
"""Script of a model card -> the hub id in it, for which a tiny model of the same layout stands in, and variables."""


def run_script(name: str, *, switched: bool) -> dict[str, Any]:
    """The variables of a script after it ran, with the one import changed or as it is."""
    source = (SCRIPTS / f"{name}.py").read_text("utf-8")
    if switched:
        assert "from sentence_transformers" in source
        source = source.replace("from sentence_transformers", SWITCHED)
    module = ModuleType("script")
    sys.modules.pop("script", None)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(source, name, "exec"), module.__dict__)
    return vars(module)


def assert_equal(ours: Any, theirs: Any) -> None:
    """Equal, numbers to 1e-5; containers item by item."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_equal(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for our, their in zip(ours, theirs, strict=True):
            assert_equal(our, their)
    elif isinstance(theirs, str):
        assert ours == theirs
    else:
        assert type(ours) is type(theirs)
        np.testing.assert_allclose(np.asarray(ours, np.float64), np.asarray(theirs, np.float64), atol=1e-5)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in, where models lie under their hub ids."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def link_model(here: Path, name: str, folder: Path) -> None:
    (here / name).parent.mkdir(parents=True, exist_ok=True)
    (here / name).symlink_to(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", MINILM_SCRIPTS)
def test_a_script_gives_the_same_after_the_import_is_changed(name: str, here: Path, minilm_folder: Path) -> None:
    for hub_id in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        link_model(here, hub_id, minilm_folder)
    ours, theirs = run_script(name, switched=True), run_script(name, switched=False)
    for variable in MINILM_SCRIPTS[name]:
        assert_equal(ours[variable], theirs[variable])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::gnomon.errors.Notice")
@pytest.mark.parametrize("name", CARD_SCRIPTS)
def test_the_example_of_a_card_gives_the_same(name: str, here: Path) -> None:
    require()
    hub_id, variables = CARD_SCRIPTS[name]
    link_model(here, hub_id, GOLDEN / hub_id.rpartition("/")[2])
    ours, theirs = run_script(name, switched=True), run_script(name, switched=False)
    for variable in variables:
        assert_equal(ours[variable], theirs[variable])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")
def test_cards_whose_models_need_remote_code_there_run_here(here: Path) -> None:
    """sentence-transformers cannot load these two without code of the checkpoint, so the reference is `Encoder`, which
    other tests hold to the golden values."""
    require()
    from gnomon import Encoder

    for hub_id in ("Alibaba-NLP/gte-large-en-v1.5", "dunzhang/stella_en_400M_v5"):
        link_model(here, hub_id, GOLDEN / hub_id.rpartition("/")[2])
    gte, stella = run_script("card_gte", switched=True), run_script("card_stella", switched=True)
    encoder = Encoder.load("Alibaba-NLP/gte-large-en-v1.5")
    vectors_BD = encoder.encode(gte["sentences"])
    assert_equal(np.asarray(gte["score"]), encoder.similarity(vectors_BD[:1], vectors_BD[1:]))
    encoder = Encoder.load("dunzhang/stella_en_400M_v5")
    queries_BD = encoder.encode(stella["queries"], prompt_name="s2p_query")
    documents_CD = encoder.encode(stella["docs"], prompt="")
    assert_equal(np.asarray(stella["similarities"]), encoder.similarity(queries_BD, documents_CD))


def test_every_script_is_run() -> None:
    names = {*MINILM_SCRIPTS, *CARD_SCRIPTS, "card_gte", "card_stella"}
    assert names == {path.stem for path in SCRIPTS.glob("*.py")}
    assert len(names) >= 10
