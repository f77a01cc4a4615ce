"""What `inspect` says of a model, and how it is laid out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from goldens import DISTILBERT, E5, GIST, GTE, STELLA, load

from gnomon import Encoder, describe
from gnomon.checkpoint.folder import read_folder
from gnomon.checkpoint.hub import resolve_source
from gnomon.fidelity import Fidelity
from gnomon.terminal import display_width

Read = Callable[..., dict[str, Any]]


@pytest.fixture
def facts_of(golden_folder: Callable[[str], Path]) -> Read:
    def read(name: str, *, fidelity: Fidelity | None = None, **how: Any) -> dict[str, Any]:
        return describe.collect_facts(read_folder(resolve_source(golden_folder(name)), **how), fidelity)

    return read


def shown(facts: dict[str, Any], width: int = 80) -> str:
    return " ".join("\n".join(describe.format_facts(facts, width)).split())


def test_facts_are_those_of_the_encoder(facts_of: Read, golden_folder: Callable[[str], Path]) -> None:
    folder = golden_folder("stella_en_400M_v5")
    encoder, facts = Encoder.load(folder), facts_of("stella_en_400M_v5")
    trunk: Any = encoder.spec.trunk
    assert facts["trunk"] == {"layers": trunk.num_layers, "hidden": 64, "heads": 4, "inner": 160}
    assert facts["fingerprint"] == encoder.fingerprint
    assert facts["query_prompt"] == encoder.spec.query_prompt_name() == "s2p_query"
    assert facts["query_tasks"]["sts"] == encoder.spec.query_prompt_name("sts")
    assert (facts["card"], facts["card_by"]) == ("stella_en_400M_v5", "its folder's name")
    assert facts["dims"] == [256, 512, 1024]
    assert facts["folder"] == str(folder)
    assert facts["file_dtype"] == ["float32"]
    assert facts["max_seq_length"] == 96
    assert "fidelity" not in facts


def test_lines_say_what_a_model_is(facts_of: Read) -> None:
    facts = facts_of("stella_en_400M_v5")
    for part in ("1024; also 256, 512 (--dim)", "task s2s, task sts", facts["fingerprint"], "2_Dense_256: 64 to 256"):
        assert part in shown(facts)
    assert max(map(display_width, describe.format_facts(facts, 80))) <= 80
    assert all(line.startswith(" " * 16) or line[:16].rstrip()[-1] == ":" for line in describe.format_facts(facts, 60))


def test_what_was_assumed_is_said(facts_of: Read) -> None:
    facts = facts_of("multilingual-e5-small")
    assert (facts["query_prompt"], facts["document_prompt"]) == ("query", "document")
    assert "prompts" in facts["assumed"][0]
    assert f"assumed: {facts['assumed'][0]}" in shown(facts)
    assert "document = 'passage: ' (used for: document)" in shown(facts)


def test_a_card_that_the_caller_named_is_known_by_the_option(facts_of: Read) -> None:
    facts = facts_of("GIST-Embedding-v0", card="e5-small")
    assert "card: e5-small, known by --card" in shown(facts)
    plain = facts | {"card": None, "card_by": None}
    assert "card: not recognised" in shown(plain)


@pytest.mark.parametrize(
    ("name", "lower_cases"), [(STELLA, True), (GTE, True), (E5, False), (GIST, True), (DISTILBERT, True)]
)
def test_lower_casing_is_what_the_tokenizer_does(name: str, lower_cases: bool, facts_of: Read) -> None:
    """Whoever does it: its own normalizer (BERT's), or sentence-transformers' do_lower_case."""
    facts, encoder = facts_of(name), load(name)
    capital, small = encoder.tokenize(["WHAT A DAY", "what a day"]).ids
    assert facts["tokenizer"]["lower_case"] is lower_cases is (capital.tolist() == small.tolist())
    assert (", lower-cases" in shown(facts)) is lower_cases


def test_lower_casing_by_the_models_own_setting(
    golden_folder: Callable[[str], Path], tmp_path: Path, facts_of: Read
) -> None:
    folder = shutil.copytree(golden_folder(E5), tmp_path / "cased")
    settings = json.loads((folder / "sentence_bert_config.json").read_text("utf-8"))
    (folder / "sentence_bert_config.json").chmod(0o644)
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings | {"do_lower_case": True}), "utf-8")
    facts = describe.collect_facts(read_folder(resolve_source(folder)))
    assert facts["tokenizer"]["lower_case"] is True


def test_fidelity_is_shown_where_it_was_measured(facts_of: Read) -> None:
    found = Fidelity(lowest=0.98765, mean=0.995, texts=64, precision="int8", cached=True)
    line = "int8 against float32: cosine 0.99500 on average, 0.98765 at worst, over 64 texts"
    assert f"fidelity: {line}, measured before" in shown(facts_of("GIST-Embedding-v0", fidelity=found))
