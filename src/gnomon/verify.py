"""Runs the example of a model's card: does the model give the vectors that its authors published?

If the card prints scores, they are compared. If it does not, the evident ranking of its example is checked. The texts
and numbers are from the models' cards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gnomon.checkpoint.known_models import get_known_model
from gnomon.errors import InputError

if TYPE_CHECKING:
    from gnomon.encoder import Encoder

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Check:
    """One row of the result."""

    name: str
    expected: str
    actual: str
    passed: bool


@dataclass(frozen=True)
class Verification:
    card: str
    checks: list[Check]
    note: str
    """Which kind of check it was."""
    is_recognised: bool = True
    """Whether the model was recognised as the card's own; False where the caller named the card."""

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.checks)


@dataclass(frozen=True)
class Example:
    """The example of a card: its queries and documents, and their scores [Q, D] or their ranking."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    query_task: str | None = None
    published_scores: tuple[tuple[float, ...], ...] | None = None
    """None if the card prints no scores."""
    best_documents: tuple[int, ...] | None = None
    """The index of the document that evidently answers each query; None if there are published scores."""


TOLERANCE = 2e-3
"""The largest difference between a cosine and the card's.

Other GPUs and dtypes make a smaller difference, and a wrong prompt or head a much larger one.
"""

_STRESS = (
    "There are many effective ways to reduce stress. Some common techniques include deep breathing, meditation, "
    "and physical activity. Engaging in hobbies, spending time in nature, and connecting with loved ones can "
    "also help alleviate stress. Additionally, setting boundaries, practicing self-care, and learning to say no "
    "can prevent stress from building up."
)
_GREEN_TEA = (
    "Green tea has been consumed for centuries and is known for its potential health benefits. It contains "
    "antioxidants that may help protect the body against damage caused by free radicals. Regular consumption of "
    "green tea has been associated with improved heart health, enhanced cognitive function, and a reduced risk of "
    "certain types of cancer. The polyphenols in green tea may also have anti-inflammatory and weight loss properties."
)
_PROTEIN = (
    "As a general guideline, the CDC's average requirement of protein for women ages 19 to 70 is 46 grams per "
    "day. But, as you can see from this chart, you'll need to increase that if you're expecting or training for "
    "a marathon. Check out the chart below to see how much protein you should be eating each day."
)
_PUMPKIN = (
    "1.清炒南瓜丝 原料:嫩南瓜半个 调料:葱、盐、白糖、鸡精 做法: 1、南瓜用刀薄薄的削去表面一层皮,用勺子刮去瓤 "
    "2、擦成细丝(没有擦菜板就用刀慢慢切成细丝) 3、锅烧热放油,入葱花煸出香味 "
    "4、入南瓜丝快速翻炒一分钟左右,放盐、一点白糖和鸡精调味出锅 2.香葱炒南瓜 原料:南瓜1只 "
    "调料:香葱、蒜末、橄榄油、盐 做法: 1、将南瓜去皮,切成片 2、油锅8成热后,将蒜末放入爆香 "
    "3、爆香后,将南瓜片放入,翻炒 4、在翻炒的同时,可以不时地往锅里加水,但不要太多 5、放入盐,炒匀 "
    "6、南瓜差不多软和绵了之后,就可以关火 7、撒入香葱,即可出锅"
)
_REALTABFORMER = (
    "Illustration of the REaLTabFormer model. The left block shows the non-relational tabular data model using "
    "GPT-2 with a causal LM head. In contrast, the right block shows how a relational dataset's child table is "
    "modeled using a sequence-to-sequence (Seq2Seq) model. The Seq2Seq model uses the observations in the parent "
    "table to condition the generation of the observations in the child table. The trained GPT-2 model on the "
    "parent table, with weights frozen, is also used as the encoder in the Seq2Seq model."
)
_GEOFORMER = (
    "Predicting human mobility holds significant practical value, with applications ranging from enhancing "
    "disaster risk planning to simulating epidemic spread. In this paper, we present the GeoFormer, a "
    "decoder-only transformer model adapted from the GPT architecture to forecast human mobility."
)
_ECONOMIES = (
    "As the economies of Southeast Asia continue adopting digital technologies, policy makers increasingly ask "
    "how to prepare the workforce for emerging labor demands. However, little is known about the skills that "
    "workers need to adapt to these changes"
)

EXAMPLES: dict[str, Example] = {
    "stella_en_400M_v5": Example(
        ("What are some ways to reduce stress?", "What are the benefits of drinking green tea?"),
        (_STRESS, _GREEN_TEA),
        query_task="s2p",
        published_scores=((0.8397531, 0.29900077), (0.32818374, 0.80954516)),
    ),
    "gte-large-en-v1.5": Example(
        ("what is the capital of China?",),
        ("how to implement quick sort in python?", "Beijing", "sorting algorithms"),
        published_scores=((0.4186354093370361, 0.7707076371259589, 0.3702981979677899),),
    ),
    "multilingual-e5-small": Example(
        ("how much protein should a female eat", "南瓜的家常做法"), (_PROTEIN, _PUMPKIN), best_documents=(0, 1)
    ),
    "GIST-Embedding-v0": Example((_REALTABFORMER,), (_GEOFORMER, _ECONOMIES), best_documents=(0,)),
    "multi-qa-distilbert-cos-v1": Example(
        ("How many people live in London?",),
        ("Around 9 Million people live in London", "London is known for its financial district"),
        best_documents=(0,),
    ),
}
"""Name of a card -> its example."""


def verify(encoder: Encoder, card: str | None = None) -> Verification:
    """Run the example of the model's card, or of `card`.

    Raises:
        InputError: the model is not recognised and no card is named; the card has no example.
    """
    if card is None and encoder.checkpoint.known_model is None:
        raise InputError(
            f"{encoder.name} is not recognised. Name its card, or that of the model it was fine-tuned from: "
            f"{', '.join(EXAMPLES)}."
        )
    known_model = get_known_model(card) if card else encoder.checkpoint.known_model
    assert known_model
    if known_model.name not in EXAMPLES:
        raise InputError(f"the card of {known_model.name} has no example here. These have one: {', '.join(EXAMPLES)}.")
    example = EXAMPLES[known_model.name]
    queries = encoder.encode_query(example.queries, task=example.query_task, normalize_embeddings=True)
    documents = encoder.encode_document(example.documents, normalize_embeddings=True)
    scores_QD = queries @ documents.T
    checkpoint = encoder.checkpoint
    is_recognised = checkpoint.known_model == known_model and checkpoint.recognised_by != "card="
    if example.published_scores:
        return Verification(known_model.name, _check_scores(example, scores_QD), "published scores", is_recognised)
    note = "the evident ranking; the card prints no scores"
    return Verification(known_model.name, _check_ranking(example, scores_QD), note, is_recognised)


def _check_scores(example: Example, scores_QD: Scores) -> list[Check]:
    assert example.published_scores
    return [
        Check(
            f"query {q + 1}, document {d + 1}",
            f"{expected:.6f} +- {TOLERANCE:g}",
            f"{scores_QD[q, d]:.6f}",
            bool(abs(scores_QD[q, d] - expected) <= TOLERANCE),
        )
        for q, row in enumerate(example.published_scores)
        for d, expected in enumerate(row)
    ]


def _check_ranking(example: Example, scores_QD: Scores) -> list[Check]:
    assert example.best_documents
    checks: list[Check] = []
    for q, best in enumerate(example.best_documents):
        ranking = ", ".join(f"{d + 1}: {score:.4f}" for d, score in enumerate(scores_QD[q]))
        checks.append(
            Check(f"query {q + 1}", f"document {best + 1} first", ranking, int(scores_QD[q].argmax()) == best)
        )
    return checks
