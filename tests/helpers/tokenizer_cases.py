"""Small tokenizer folders with side files of every kind, drawn by a function that picks from a list.

`python tests/helpers/tokenizer_cases.py FOLDER COUNT` writes COUNT drawn folders; `... FOLDER ids.json` writes the ids
that the installed transformers gives for them, so that two versions of it can be compared, each in its environment.
"""

import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Pick = Callable[[Sequence[Any]], Any]
Json = dict[str, Any]

TEXTS = [
    "Hello World",
    "café Naïve RÉSUMÉ",
    "漢字 kana日本",
    "a <ticket> b<Ticket>c < ticket >",
    "[MASK] <mask> </s> [SEP] <s> [CLS]",
    "x" * 12 + " " + "hello" * 30,
    "",
    "  two  spaces ",
    "tab\tline\nend\u0007",
    "hello<extra>world <EXTRA> hello <extra>",
    "ﬁ ½ Ａ",
    "an <Other> <other> <OTHER>x",
    "<MASK> <Mask>x <mask>y a<s>b",
]

CHARACTERS = [*"abcdefghijklmnopqrstuvwxyzHWNRSTÉéïü<>[]/漢字日本"]
WORDS = ["hello", "world", "Hello", "World", "cafe", "café", "naive", "ticket", "Ticket", "extra", "kana", "resume"]
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FAIRSEQ_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def added(index: int, content: str, **flags: bool) -> Json:
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": content, **token, **flags}


def bert_json(pick: Pick) -> Json:
    words = [*BERT_SPECIAL, *CHARACTERS, *("##" + c for c in CHARACTERS), *WORDS, "[BOS]"]
    vocab = {word: index for index, word in enumerate(dict.fromkeys(words))}
    cls, sep = vocab["[CLS]"], vocab["[SEP]"]
    template = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
        ],
        "pair": [
            {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
            {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
        ],
        "special_tokens": {
            "[CLS]": {"id": "[CLS]", "ids": [cls], "tokens": ["[CLS]"]},
            "[SEP]": {"id": "[SEP]", "ids": [sep], "tokens": ["[SEP]"]},
        },
    }
    bert = {
        "type": "BertNormalizer",
        "clean_text": pick([True, True, True, False]),
        "handle_chinese_chars": pick([True, True, False]),
        "strip_accents": pick([None, None, True, False]),
        "lowercase": pick([True, True, False]),
    }
    return {
        "added_tokens": [added(vocab[text], text) for text in BERT_SPECIAL],
        "normalizer": pick([bert] * 6 + [{"type": "Lowercase"}, {"type": "Sequence", "normalizers": [bert]}]),
        "pre_tokenizer": pick([{"type": "BertPreTokenizer"}] * 6 + [{"type": "WhitespaceSplit"}]),
        "post_processor": pick(
            [template] * 5 + [{"type": "BertProcessing", "sep": ["[SEP]", sep], "cls": ["[CLS]", cls]}, None]
        ),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": pick([100, 100, 100, 10]),
            "vocab": vocab,
        },
    }


def roberta_json(pick: Pick) -> Json:
    from tokenizers import pre_tokenizers

    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "hello"), ("Ġ", "w"), ("t", "i"), ("Ġ", "ti")]
    words = [*FAIRSEQ_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    vocab = {word: index for index, word in enumerate(words)}
    prefix = pick([False, False, True])
    roberta = {
        "type": "RobertaProcessing",
        "sep": ["</s>", 2],
        "cls": ["<s>", 0],
        "trim_offsets": pick([True, False]),
        "add_prefix_space": prefix,
    }
    level = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}
    tokens = [added(index, text) for index, text in enumerate(FAIRSEQ_SPECIAL)]
    tokens[-1] |= {"lstrip": pick([True, True, False])}
    return {
        "added_tokens": tokens,
        "normalizer": pick([None] * 5 + [{"type": "Lowercase"}]),
        "pre_tokenizer": pick(
            [level] * 5
            + [{"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level]}]
        ),
        "post_processor": pick([roberta] * 5 + [None]),
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pick([None, None, "<unk>"]),
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": vocab,
            "merges": [" ".join(pair) for pair in merges],
        },
    }


def xlm_roberta_json(pick: Pick) -> Json:
    pieces = [
        *FAIRSEQ_SPECIAL[:4],
        "▁",
        *CHARACTERS,
        *("▁" + word for word in WORDS),
        *WORDS,
        "<mask>",
    ]
    scores = {piece: -float(2 + len(pieces) - index) / 10 for index, piece in enumerate(pieces)}
    vocab = [[piece, 0.0 if piece in FAIRSEQ_SPECIAL else scores[piece]] for piece in pieces]
    mask = len(pieces) - 1
    template = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}},
        ],
        "pair": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}},
        ],
        "special_tokens": {
            "<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
            "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]},
        },
    }
    space = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": pick(["always", "always", "first"]),
        "split": True,
    }
    split = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space]}
    tokens = [
        *(added(index, text) for index, text in enumerate(FAIRSEQ_SPECIAL[:4])),
        added(mask, "<mask>", lstrip=True),
    ]
    return {
        "added_tokens": tokens,
        "normalizer": pick([None] * 5 + [{"type": "NFKC"}]),
        "pre_tokenizer": pick([split] * 5 + [space]),
        "post_processor": pick([template] * 5 + [None]),
        "decoder": space,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": pick([False, False, False, True])},
    }


def herbert_json(pick: Pick) -> Json:
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o</w>"), ("t", "i"), ("ti", "c")]
    letters = [*CHARACTERS, *(c + "</w>" for c in CHARACTERS)]
    words = [*FAIRSEQ_SPECIAL, *letters, *(a + b for a, b in merges)]
    vocab = {word: index for index, word in enumerate(dict.fromkeys(words))}
    bert = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": False,
        "lowercase": pick([False, False, True]),
    }
    return {
        "added_tokens": [added(index, text) for index, text in enumerate(FAIRSEQ_SPECIAL)],
        "normalizer": bert,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": pick([{"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}] * 3 + [None]),
        "decoder": {"type": "BPEDecoder", "suffix": "</w>"},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pick(["<unk>", "<unk>", None]),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "vocab": vocab,
            "merges": [" ".join(pair) for pair in merges],
        },
    }


BERT_CLASSES = [
    *("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "LayoutLMTokenizer", "LxmertTokenizer"),
    *("MobileBertTokenizer", "SqueezeBertTokenizer", "ConvBertTokenizer", "DPRContextEncoderTokenizer"),
    *("DPRQuestionEncoderTokenizer", "DPRReaderTokenizer", "RealmTokenizer", "RetriBertTokenizer"),
]
ROBERTA_CLASSES = ["RobertaTokenizer", "BartTokenizer", "LEDTokenizer", "LongformerTokenizer", "MvpTokenizer"]
WRAPPERS = ["PreTrainedTokenizerFast", "TokenizersBackend"]
UNKNOWN = {"bert": ["SplinterTokenizer", "MPNetTokenizer"], "roberta": ["Qwen2Tokenizer", "NoSuchTokenizer"]}
"""Classes that gnomon says it does not know."""

# Kind -> model_type, tokenizer.json, classes.
KINDS: dict[str, tuple[str, Callable[[Pick], Json], list[str | None]]] = {
    "bert": ("bert", bert_json, ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", None]),
    "bert classes": ("bert", bert_json, [*BERT_CLASSES, *(name + "Fast" for name in BERT_CLASSES)]),
    "distilbert": ("distilbert", bert_json, ["DistilBertTokenizer", "DistilBertTokenizerFast", "BertTokenizer", None]),
    "roberta": ("roberta", roberta_json, [*ROBERTA_CLASSES, *(name + "Fast" for name in ROBERTA_CLASSES), None]),
    "gpt2": ("roberta", roberta_json, ["GPT2Tokenizer", "GPT2TokenizerFast"]),
    "herbert": ("bert", herbert_json, ["HerbertTokenizer", "HerbertTokenizerFast"]),
    "xlm-roberta": ("xlm-roberta", xlm_roberta_json, ["XLMRobertaTokenizer", "XLMRobertaTokenizerFast", None]),
}


def draw_folder(pick: Pick) -> dict[str, Any]:
    """The files of one folder by name: JSON values and texts."""
    kind = pick([*KINDS])
    model_type, build, classes = KINDS[kind]
    tokenizer = {"version": "1.0", "truncation": None, "padding": None} | build(pick)
    own, size = _own_tokens(pick, tokenizer), len(tokenizer["model"]["vocab"])
    name = pick([*classes * 2, *WRAPPERS, *UNKNOWN.get(kind, ())])
    config: Json = {"tokenizer_class": name} if name else {}
    bert = build is bert_json
    for key, values in {
        "do_lower_case": [True, False],
        "strip_accents": [None, True, False],
        "tokenize_chinese_chars": [True, False],
        "add_prefix_space": [True, False],
        "trim_offsets": [True, False],
        "sep_token": ["[SEP]", "[BOS]"] if bert else ["</s>", "<s>"],
        "mask_token": ["[MASK]"] if bert else ["<mask>"],
        "split_special_tokens": [False, False, True],
        "extra_token": ["<extra>"],
        "add_bos_token": [False, True],
        "add_eos_token": [False, True],
    }.items():
        if pick([False, False, True]):
            config[key] = pick(values)
    files: dict[str, Any] = {"tokenizer.json": tokenizer, "config.json": {"model_type": model_type}}
    writer = pick([None, None, "4.8.2", "4.57.6", "5.23.0"])
    if writer:
        files["config.json"]["transformers_version"] = writer
    if (
        kind not in ("gpt2", "herbert", "xlm-roberta")
        and name not in UNKNOWN.get(kind, ())
        and pick([False] * 4 + [True])
    ):
        _as_vocabulary(files, own)
    _side_tokens(pick, files, config, own, size)
    if config or pick([False, True]):
        files["tokenizer_config.json"] = config
    return files


def _as_vocabulary(files: dict[str, Any], own: list[Json]) -> None:
    """The files of a folder that is older than tokenizer.json; its added tokens stand in side files alone."""
    model = files.pop("tokenizer.json")["model"]
    own[:] = [token for token in own if token["content"] != "<Other>"]
    if model["type"] == "WordPiece":
        files["vocab.txt"] = "\n".join(model["vocab"]) + "\n"
    else:
        files["vocab.json"], files["merges.txt"] = model["vocab"], "#version: 0.2\n" + "\n".join(model["merges"]) + "\n"


def _own_tokens(pick: Pick, tokenizer: Json) -> list[Json]:
    """Adds tokens to tokenizer.json's own, past its vocabulary."""
    size = len(tokenizer["model"]["vocab"])
    if pick([False, False, True]):
        normalized = pick([False, True])
        tokenizer["added_tokens"].append(added(size, "<Other>", normalized=normalized, special=not normalized))
    return tokenizer["added_tokens"]


def _side_tokens(pick: Pick, files: dict[str, Any], config: Json, own: list[Json], vocabulary_size: int) -> None:
    """Tokens in the files beside: none, or in one of the ways in which versions have written them."""
    size = vocabulary_size + sum(token["content"] == "<Other>" for token in own)
    special = pick([True, False])
    new = {"<ticket>": size, "<extra>": size + 1}
    match pick(["none", "none", "decoder", "decoder of all", "added", "additional", "map", "extra"]):
        case "decoder":
            config["added_tokens_decoder"] = {
                str(index): _flags(text, special, lstrip=pick([True, False])) for text, index in new.items()
            }
        case "decoder of all":
            config["added_tokens_decoder"] = {
                str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in own
            } | {str(index): _flags(text, special) for text, index in new.items()}
        case "added":
            files["added_tokens.json"] = new
        case "additional":
            config["additional_special_tokens"] = [*new]
        case "map":
            files["special_tokens_map.json"] = {"additional_special_tokens": [*new]}
            files["added_tokens.json"] = pick([{}, new])
        case "extra":
            config["extra_special_tokens"] = pick([{"image": "<ticket>"}, {}])
        case _:
            pass


def _flags(content: str, special: bool, *, lstrip: bool = False) -> Json:
    flags = {"single_word": False, "lstrip": lstrip, "rstrip": False, "normalized": not special, "special": special}
    return {"content": content, **flags}


def write_folder(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (folder / name).write_text(text, "utf-8")
    return folder


def ids_of(folder: Path) -> list[list[int]] | str:
    """What the installed transformers gives for TEXTS, or the error."""
    import transformers.models.dpr.tokenization_dpr_fast  # noqa: F401  once a DPR class is loaded, it is not found
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        return [tokenizer(text)["input_ids"] for text in TEXTS]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    folder, what = Path(sys.argv[1]), sys.argv[2]
    if what.isdigit():
        for number in range(int(what)):
            write_folder(folder / f"{number:04}", draw_folder(random.Random(number).choice))
    else:
        ids = {path.name: ids_of(path) for path in sorted(folder.iterdir()) if path.is_dir()}
        Path(what).write_text(json.dumps(ids))


if __name__ == "__main__":
    main()
