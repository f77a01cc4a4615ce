"""SentencePiece models written field by field: what is read of them, and the XLM-R tokenizer that is built of it."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnomon.checkpoint.sentencepiece import read_sentencepiece
from gnomon.checkpoint.tokenizer_files import read_tokenizer
from gnomon.errors import GnomonError, NotAModelError, UnsupportedError

NAME = "sentencepiece.bpe.model"


def varint(value: int) -> bytes:
    head = b""
    while value > 0x7F:
        head += bytes([value & 0x7F | 0x80])
        value >>= 7
    return head + bytes([value])


def field(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text: str, score: float = 0.0, kind: int = 1) -> bytes:
    return field(1, field(1, text.encode()) + field(2, score) + (field(3, kind) if kind != 1 else b""))


ROWS = [
    ("<unk>", 0.0, 2),
    ("<s>", 0.0, 3),
    ("</s>", 0.0, 3),
    ("▁", -2.0, 1),
    ("a", -3.0, 1),
    ("▁ab", -4.0, 1),
    ("b", -3.5, 1),
]
IDENTITY = field(1, b"identity")


def spm(rows: list = ROWS, trainer: bytes = field(3, 1), normalizer: bytes = IDENTITY) -> bytes:
    return b"".join(piece(*row) for row in rows) + field(2, trainer) + field(3, normalizer)


def spm_folder(folder: Path, blob: bytes) -> Path:
    (folder / NAME).write_bytes(blob)
    return folder


# ---- whole models


def test_pieces_charsmap_and_settings_are_read_and_the_rest_is_left(tmp_path: Path) -> None:
    blob = spm(
        trainer=field(3, 2) + field(4, 300) + field(10, 0.5) + field(41, 7),
        normalizer=IDENTITY + field(2, b"map") + field(5, 0),
    )
    model = read_sentencepiece(spm_folder(tmp_path, blob + field(4, b"self test")) / NAME)
    assert model.pieces == ROWS
    assert model.charsmap == b"map"
    assert model.settings == {
        "model_type": 2, "byte_fallback": 0, "unk_id": 0, "bos_id": 7, "eos_id": 2,
        "add_dummy_prefix": 1, "remove_extra_whitespaces": 1, "escape_whitespaces": 0,
    }  # fmt: skip


def test_small_model_has_the_fairseq_ids(tmp_path: Path) -> None:
    built = read_tokenizer(spm_folder(tmp_path, spm()))
    assert built.get_vocab() == {
        "<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "▁": 4, "a": 5, "▁ab": 6, "b": 7, "<mask>": 8,
    }  # fmt: skip
    assert built.encode("ab a <mask>b ?").ids == [0, 6, 4, 5, 8, 4, 7, 4, 3, 2]


def test_control_and_user_pieces_are_matched_as_they_stand(tmp_path: Path) -> None:
    built = read_tokenizer(spm_folder(tmp_path, spm([*ROWS, ("<ctl>", 0.0, 3), ("ba", 0.0, 4)])))
    assert built.encode("a<ctl>aba").ids == [0, 4, 5, 8, 4, 5, 9, 2]
    assert {i: t.special for i, t in built.get_added_tokens_decoder().items() if i in (8, 9)} == {8: True, 9: False}


@pytest.mark.parametrize("name", [NAME, "spiece.model", "tokenizer.model"])
def test_xlm_roberta_is_known_by_class_or_model_type(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(spm())
    built = []
    for file, config in (
        ("tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizerFast"}),
        ("config.json", {"tokenizer_class": "XLMRobertaTokenizer", "model_type": "bert"}),
        ("config.json", {"model_type": "xlm-roberta"}),
    ):
        (tmp_path / file).write_text(json.dumps(config))
        built.append(read_tokenizer(tmp_path).to_str())
        (tmp_path / file).unlink()
    assert built[0] == built[1] == built[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainer": field(3, 2)}, r"model_type is 2 \(BPE\), and only 1"),
        ({"trainer": field(3, 4)}, r"model_type is 4 \(char\)"),
        ({"trainer": field(40, 1)}, "unk_id is 1, and only 0"),
        ({"trainer": field(41, 2**64 - 1)}, "bos_id is 18446744073709551615"),
        ({"trainer": field(35, 1)}, "byte_fallback is 1"),
        ({"normalizer": field(3, 0)}, "add_dummy_prefix is 0"),
        ({"normalizer": field(4, 0)}, "remove_extra_whitespaces is 0"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, change: dict[str, bytes], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        read_tokenizer(spm_folder(tmp_path, spm(**change)))


# ---- damaged models


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\xff" * 40,
        b"not a protobuf at all",
        spm()[:-1],
        spm() + b"\x0b",
        spm() + b"\x80" * 20,
        spm([*ROWS, ("x", float("nan"), 1)]),
        spm() + field(1, field(1, b"\xff\xfe")),
        spm() + field(1, 7),
        spm() + field(1, field(1, b"x") + field(2, 7)),
        spm() + field(1, field(1, b"x") + field(2, b"abc")),
        spm() + field(1, field(1, b"x") + field(3, b"abc")),
        spm(trainer=field(3, b"abc")),
        spm(normalizer=field(2, b"\xff\xff\xff\xff")),
        spm(normalizer=field(2, b"\x00")),
    ],
)
def test_a_corrupt_model_is_named(tmp_path: Path, blob: bytes) -> None:
    with pytest.raises(NotAModelError, match=r"sentencepiece\.bpe\.model cannot be used"):
        read_tokenizer(spm_folder(tmp_path, blob))


def test_a_truncated_model_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    blob = spm()
    for end in range(len(blob)):
        with pytest.raises(NotAModelError):
            read_tokenizer(spm_folder(tmp_path, blob[:end]))
    with pytest.raises(NotAModelError, match="trainer_spec or normalizer_spec is missing"):
        read_tokenizer(spm_folder(tmp_path, b"".join(piece(*row) for row in ROWS)))


def test_a_truncated_real_model_is_refused(tmp_path: Path, golden: Callable[[str], Path]) -> None:
    blob = (golden("multilingual-e5-small") / NAME).read_bytes()
    for end in [*range(0, len(blob), 4999), len(blob) - 1]:
        with pytest.raises(NotAModelError):
            read_tokenizer(spm_folder(tmp_path, blob[:end]))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(spm()) - 1), byte=st.integers(0, 255), tail=st.binary(max_size=6))
def test_a_damaged_model_raises_only_our_errors(tmp_path: Path, at: int, byte: int, tail: bytes) -> None:
    blob = spm()
    spm_folder(tmp_path, blob[:at] + bytes([byte]) + blob[at + 1 :] + tail)
    try:
        read_tokenizer(tmp_path).encode("ab a <mask> b")
    except GnomonError as error:
        assert str(tmp_path) in str(error)
