"""`gnomon evaluate`, `compare` and `report`, as a user meets them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from goldens import GIST, GOLDEN, STELLA, require

from gnomon.cli import main
from gnomon.install import CPU_TORCH

Run = Callable[..., Result]

require(whole_module=True)
pytestmark = pytest.mark.slow
WORDS = ("stone", "river", "window", "quiet engine", "library", "seven ships", "cold soup", "a narrow road")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs in a folder of its own, where the verbs write."""
    monkeypatch.chdir(tmp_path)

    def invoke(*args: object) -> Result:
        return CliRunner(env={"COLUMNS": "100"}).invoke(main, [str(arg) for arg in args])

    return invoke


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    rows = [
        {"sentence1": f"{word} {place}", "sentence2": f"{word} {place * place}", "score": place % 4}
        for place, word in enumerate(WORDS)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    folder = tmp_path / "questions"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{at}", "title": word, "text": f"all about {word}"} for at, word in enumerate(WORDS)]
    queries = [{"_id": f"q{at}", "text": f"where is the {word}?"} for at, word in enumerate(WORDS)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    judged = "".join(f"q{at}\td{at}\t1\n" for at in range(len(WORDS)))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", "utf-8")
    return folder


def test_a_line_a_task_and_files_that_mteb_reads(run: Run, pairs: Path, questions: Path, tmp_path: Path) -> None:
    ran = run("evaluate", GOLDEN / GIST, "--data", pairs, questions, "--output", "out", "--threads", 1)
    assert ran.exit_code == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == 2
    assert "pairs, cosine_spearman, GIST-Embedding-v0" in lines[0]
    assert "questions, ndcg_at_10" in lines[1]
    assert "gnomon report out" in ran.stderr
    shown = [line for line in ran.stderr.splitlines() if not line.startswith("note: ")]
    assert [line.partition(" in ")[0] for line in shown] == [
        *("task 1 of 2: pairs", "pairs: done", "task 2 of 2: questions", "questions: done"),
    ]
    files = sorted(path.name for path in (tmp_path / "out" / "results").glob("*/*/*.json"))
    assert files == ["model_meta.json", "pairs.json", "questions.json"]
    scored = json.loads(next((tmp_path / "out").rglob("questions.json")).read_text("utf-8"))
    assert lines[1].startswith(f"{scored['scores']['test'][0]['main_score']:.4f} ")
    again = run("evaluate", GOLDEN / GIST, "--data", pairs, questions, "--output", "out", "--threads", 1)
    assert [line.endswith("(was there)") for line in again.stdout.splitlines()] == [True, True]


def test_json_lines_hold_what_the_page_shows(run: Run, questions: Path) -> None:
    ran = run("evaluate", GOLDEN / GIST, "--data", questions, "--methods", "dense", "bm25", "hybrid", "rrf", "--json")
    assert ran.exit_code == 0, ran.stderr
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [row["method"] for row in rows] == ["bm25", "dense", "hybrid", "rrf"]
    words = rows[0]
    assert (words["score"], words["interval"]) == (1.0, {"low": 1.0, "high": 1.0})  # each query's word is in one text
    assert words["texts"] == {"given": 0, "encoded": 0, "from_cache": 0, "cut": 0}
    assert rows[1]["texts"]["given"] == 2 * len(WORDS)
    assert all(Path(row["path"]).is_file() for row in rows)


def test_d5_json_of_a_score_that_is_not_defined_is_json(run: Run, pairs: Path, questions: Path) -> None:
    rows = [{"sentence1": word, "sentence2": word, "score": at % 4} for at, word in enumerate(WORDS)]
    (pairs / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    ran = run("evaluate", GOLDEN / GIST, "--data", pairs, questions, "--threads", 1, "--json")
    assert ran.exit_code == 0, ran.stderr
    first, second = [
        json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in ran.stdout.splitlines()
    ]
    assert (first["score"], first["subsets"], first["interval"]) == (None, {"default": None}, None)
    assert first["reason"].startswith("the model gives all 8 pairs the score 1")
    assert second["score"] is not None and second["reason"] is None
    ran = run("evaluate", GOLDEN / GIST, "--data", pairs, "--threads", 1)
    assert ran.stdout.startswith("n/a ")
    assert "the model gives all 8 pairs the score 1" in ran.stdout
    ran = run("report", "evaluation", "--markdown", "-")
    assert ran.exit_code == 0, ran.stderr
    assert "n/a" in ran.stdout and "nan" not in ran.stdout


def test_d3_missing_ids_pass_where_they_may(run: Run, questions: Path) -> None:
    with (questions / "qrels" / "test.tsv").open("a", encoding="utf-8") as file:
        file.write("q0\tgone\t1\nq99\td0\t1\n")
    ran = run("evaluate", "bm25", "--data", questions)
    assert ran.exit_code == 2
    assert "line 10: corpus.jsonl has no document 'gone'" in ran.stderr and "--allow-missing-ids" in ran.stderr
    ran = run("evaluate", "bm25", "--data", questions, "--allow-missing-ids", "--json")
    assert ran.exit_code == 0, ran.stderr
    # of 8 queries, one finds one of its two documents: 1 / (1 + 1 / log2(3)) = 0.61315
    assert json.loads(ran.stdout)["score"] == pytest.approx((7 + 0.61315) / 8, abs=1e-5)
    assert "in 1 line, first 'gone'" in ran.stderr
    assert "in 1 line, first 'q99'" in ran.stderr


def test_d9_a_subset_that_is_nowhere_is_named(run: Run, questions: Path, pairs: Path) -> None:
    for name in ("de", "en"):
        (pairs / f"{name}.jsonl").write_bytes((pairs / "test.jsonl").read_bytes())
    (pairs / "test.jsonl").unlink()
    ran = run("evaluate", GOLDEN / GIST, "--data", questions, pairs, "--subsets", "ed", "--threads", 1)
    assert ran.exit_code == 2
    assert "no subset 'ed'. They have default, de, en" in ran.stderr
    ran = run("evaluate", GOLDEN / GIST, "--data", questions, pairs, "--subsets", "de", "--threads", 1, "--json")
    assert ran.exit_code == 0, ran.stderr
    assert [list(json.loads(line)["subsets"]) for line in ran.stdout.splitlines()] == [["default"], ["de"]]
    assert "questions has no subsets, so all of it is evaluated" in ran.stderr


def test_bm25_needs_no_model(run: Run, questions: Path) -> None:
    ran = run("evaluate", "bm25", "--data", questions, "--k1", 1.2, "--b", 0.75)
    assert ran.exit_code == 0, ran.stderr
    assert ran.stdout.startswith("1.0000  1.0000 to 1.0000  questions, ndcg_at_10, BM25 (k1 1.2, b 0.75)")


def test_widths_and_precisions_are_judged_beside_the_model(run: Run, pairs: Path) -> None:
    asked = ("--curve-dims", 256, 64, "--curve-precisions", "int8", "binary", "--curve-lengths", 16)
    ran = run("evaluate", GOLDEN / STELLA, "--data", pairs, *asked, "--json", "--threads", 1)
    assert ran.exit_code == 0, ran.stderr
    models = [json.loads(line)["model"] for line in ran.stdout.splitlines()]
    assert models[0] == "stella_en_400M_v5"
    assert len(models) == len(set(models)) == 6
    assert any("256" in model for model in models)
    assert sum("int8" in model or "binary" in model for model in models) == 2


def test_prompts_of_a_file_take_the_place_of_the_models(run: Run, questions: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text('{"query": "find: ", "questions-document": "text: "}')
    ran = run("evaluate", GOLDEN / GIST, "--data", questions, "--prompts", "prompts.json", "--threads", 1)
    assert ran.exit_code == 0, ran.stderr
    manifest = json.loads(next((tmp_path / "evaluation").rglob("gnomon/questions.json")).read_text("utf-8"))
    assert {each["of"]: each["text"] for each in manifest["prompts"]} == {"queries": "find: ", "documents": "text: "}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "nothing to evaluate"),
        (("--data", "nowhere"), "there is no 'nowhere'"),
        (("--tasks", "NFCorpsu"), "Did you mean NFCorpus"),
        (("--data", "questions", "--prompts", "absent.json"), "absent.json"),
        (("--data", "questions", "--alpha", "much", "--methods", "hybrid"), "'much'"),
        (("--data", "questions", "--truncate-dim", "9999"), "truncate_dim is 9999"),
        (("--data", "questions", "--max-seq-length", "9999"), "max_seq_length is 9999"),
        (("--data", "questions", "--cache", "a", "--no-cache"), "exclude each other"),
        (("--data", "questions", "--methods", "sparse"), "'sparse' is not one of"),
        (("--data", "questions", "--k1", "1.2"), "--k1 applies to BM25"),
        (("--data", "questions", "--methods", "bm25", "--curve-dims", "16"), "a curve needs the method dense"),
        (("--data", "questions", "--metric", "mrr@10"), "Did you mean 'mrr_at_10'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(run: Run, questions: Path, args: tuple[str, ...], message: str) -> None:
    ran = run("evaluate", GOLDEN / GIST, *args, "--threads", 1)
    assert ran.exit_code == 2
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""


def test_a_model_at_the_end_is_taken_for_data(run: Run) -> None:
    ran = run("evaluate", "--data", "questions", GOLDEN / GIST)
    assert ran.exit_code == 2
    assert "MODEL is missing; it comes first" in ran.stderr


@pytest.mark.parametrize("idle", [("--dim", 8), ("--engine", "onnx"), ("--methods", "dense")])
def test_options_of_a_model_are_none_of_bm25s(run: Run, questions: Path, idle: tuple[object, ...]) -> None:
    ran = run("evaluate", "bm25", "--data", questions, *idle)
    assert ran.exit_code == 2
    assert f"{idle[0]} applies to a model, and bm25" in ran.stderr


def test_no_request_is_made_where_none_may_be(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import config
    from huggingface_hub import constants

    for place in (config, constants):  # the tests' own rule is lifted
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", False)

    def connect(*address: object) -> None:
        raise AssertionError(f"a request was made: {address}")

    monkeypatch.setattr("socket.socket.connect", connect)
    ran = run("evaluate", GOLDEN / GIST, "--tasks", "STSBenchmark", "--local-files-only", "--threads", 1)
    assert ran.exit_code == 2
    assert "mteb/stsbenchmark-sts" in ran.stderr
    assert "a request was made" not in ran.stderr
    assert not config.HF_HUB_OFFLINE


def test_without_the_extra_the_error_names_it(run: Run, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    ran = run("evaluate", GOLDEN / GIST, "--data", pairs)
    assert ran.exit_code == 2
    assert "[evaluate]" in ran.stderr
    assert CPU_TORCH in ran.stderr


def test_a_task_of_the_hub_without_a_network(run: Run) -> None:
    ran = run("evaluate", GOLDEN / GIST, "--tasks", "NFCorpus", "--threads", 1)
    assert ran.exit_code == 2
    assert "mteb/nfcorpus" in ran.stderr
    assert "fetch('NFCorpus')" in ran.stderr


def test_two_models_are_compared(run: Run, pairs: Path, questions: Path, tmp_path: Path) -> None:
    for name in (GIST, STELLA):
        assert run("evaluate", GOLDEN / name, "--data", pairs, questions, "--threads", 1).exit_code == 0
    a, b = (next((tmp_path / "evaluation" / "results").glob(f"{name}*")) for name in (GIST, STELLA))
    ran = run("compare", a, b)
    assert ran.exit_code == 0, ran.stderr
    assert "questions" in ran.stdout
    assert "model.fingerprint" in ran.stdout
    found = json.loads(run("compare", a, b, "--json").stdout)
    assert {row["task"] for row in found["rows"]} == {"pairs", "questions"}
    both = run("compare", tmp_path / "evaluation", b)
    assert both.exit_code == 2
    assert "several models" in both.stderr


def test_a_page_and_a_table(run: Run, pairs: Path, tmp_path: Path) -> None:
    assert run("evaluate", GOLDEN / GIST, "--data", pairs, "--threads", 1).exit_code == 0
    made = run("report", "evaluation")
    assert made.exit_code == 0, made.stderr
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert "GIST-Embedding-v0" in page
    table = run("report", "evaluation", "--markdown", "-")
    assert table.exit_code == 0
    assert "| pairs" in table.stdout
    both = run("report", "evaluation", "--markdown", "-", "--output", "a.html")
    assert "--output applies to the page" in both.stderr
    nothing = run("report", "pairs")
    assert nothing.exit_code == 2
    assert "holds no results" in nothing.stderr
