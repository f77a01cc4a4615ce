"""Bodies for the fuzz of each dialect: any JSON under names that clients send, nearly right ones, and bytes."""

import json
from typing import Any

from hypothesis import strategies as st

NAMES = """input inputs texts text images prompt prefix prompt_name input_type task model dimensions output_dimension
truncate on_truncate truncation_side truncation_direction truncate_prompt_tokens max_tokens encoding_format
embedding_types embedding_type encoding_type normalize normalized use_activation priority report require_fingerprint
user parameters options modality late_chunking return_multivector messages embed_dtype endianness add_special_tokens
strict ids tokens source_sentence sentences content type skip_special_tokens query documents x""".split()
WORDS = """query document search_query clustering retrieval.query left right Left mean error none NONE START END warn
silent float base64 int8 uint8 binary ubinary bytes float32 text image little m m:query""".split()


def write(body: object) -> bytes:
    """JSON as Python's clients write it: NaN and lone surrogates too."""
    return json.dumps(body).encode()


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 400)
    | st.integers()
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=6)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
# a lone surrogate, which JSON can write and UTF-8 cannot
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
INPUTS = ANY_TEXT | st.lists(ANY_TEXT, max_size=4) | st.lists(st.lists(st.integers(-1, 31_000), max_size=3), max_size=3)
ANY_OBJECT = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)
ANY_BYTES = st.binary(max_size=60) | ANY_OBJECT.map(lambda body: json.dumps(body).encode()[:-1]) | VALUES.map(write)


SOME_TEXTS = st.text(min_size=1, max_size=8).filter(str.strip)
RIGHT_INPUTS = SOME_TEXTS | st.lists(SOME_TEXTS, min_size=1, max_size=4)


def make_bodies(required: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Bodies for one route: two in six right but for at most one field, two nearly right, the others anything.

    Args:
        required: field -> its value, or None for inputs of every kind; a nearly right body has them all.
    """

    def merge(fields: dict[str, Any], inputs: Any, plain: Any, most: int) -> st.SearchStrategy[bytes]:
        fixed = {name: inputs if value is None else plain(value) for name, value in fields.items()}
        more = st.dictionaries(st.sampled_from(NAMES), LEAVES, max_size=most)
        return st.builds(lambda body, more: write(body | more), st.fixed_dictionaries(fixed), more)

    right = merge(required, RIGHT_INPUTS, st.just, 1)
    nearly_right = merge(required, INPUTS, lambda value: st.just(value) | LEAVES, 2)
    return st.sampled_from([right, right, nearly_right, nearly_right, ANY_OBJECT.map(write), ANY_BYTES]).flatmap(
        lambda bodies: bodies
    )
