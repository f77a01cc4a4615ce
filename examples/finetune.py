"""Fine-tune a model on pairs of your own, and compare it with the model as it was.

    python examples/finetune.py
    python examples/finetune.py --model MODEL --output tuned --steps 30

A pair here is a question that names a system by its code name, and what that system is for. No published model knows
that "Heron" means the printers of this office; a few steps of training teach it. Needs pip install '.[train]'.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from gnomon import Encoder
from gnomon.search import top_k
from gnomon.train import DataSource, LossSettings, Recipe, train

SYSTEMS = {
    "Heron": "printers and scanners on every floor", "Falcon": "salaries and pay slips", "Otter": "holiday requests",
    "Lynx": "badges and doors", "Badger": "travel expenses and receipts", "Crane": "meeting rooms and desks",
    "Beaver": "backups of laptops", "Raven": "mailing lists and shared mailboxes", "Stork": "onboarding of new people",
    "Viper": "software licences", "Bison": "the canteen and its menu", "Moose": "company cars and parking",
}  # fmt: skip
TRAIN = (
    "How do I log in to {}?",
    "Who looks after {}?",
    "{} shows an error",
    "Where is the manual of {}?",
    "{} is slow",
)
TEST = ("I cannot open {} today", "Please give me access to {}")


def find_share(model: str | Path, questions: list[str], answers: list[str]) -> float:
    """The share of questions whose own answer comes first among all systems."""
    encoder, documents = Encoder.load(model), list(SYSTEMS.values())
    rows = top_k(encoder.encode_query(questions), encoder.encode_document(documents), 1)[1][:, 0]
    return float(np.mean([documents[row] == answer for row, answer in zip(rows, answers, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tune a model on own pairs, and compare before and after.")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--output", type=Path, default=Path("tuned"), help="a folder for the run")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()

    pairs = [{"query": text.format(name), "positive": use} for name, use in SYSTEMS.items() for text in TRAIN]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pairs.jsonl")
        path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), "utf-8")
        tuned = train(
            Recipe(
                model=options.model,
                output=str(options.output),
                sources=(DataSource((str(path),)),),
                loss=LossSettings("info_nce", directions="symmetric"),
                batch_size=12,
                max_steps=options.steps,
                learning_rate=5e-4,
                warmup_ratio=0.1,
                freeze=("embed",),
                cache_dir=str(Path(folder, "cache")),
            )
        )

    questions = [text.format(name) for name in SYSTEMS for text in TEST]  # worded in other ways than the training rows
    answers = [use for use in SYSTEMS.values() for _ in TEST]
    print(f"before: {find_share(options.model, questions, answers):.2f} of the questions find their system")
    print(f"after:  {find_share(tuned, questions, answers):.2f}, with {tuned}")


if __name__ == "__main__":
    main()
