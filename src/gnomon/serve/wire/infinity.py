"""infinity's dialect, known by its field `modality`. Without it a body is OpenAI's, which infinity's clients read."""

from __future__ import annotations

from dataclasses import replace

from gnomon.messages import shorten
from gnomon.serve.requests import Answer, EmbedRequest, EmbedResult, RequestError
from gnomon.serve.wire.dialect import Dialect, Stamp
from gnomon.serve.wire.embed_fields import finish, read_embed
from gnomon.serve.wire.errors import render_infinity_error
from gnomon.serve.wire.fields import Fields
from gnomon.serve.wire.inputs import read_texts
from gnomon.serve.wire.openai import read_openai, render_list

MAX_CHARACTERS = 122_880
"""Of one input."""
ANY_MODEL = "default/not-specified"
"""The name that infinity's clients send for the server's only model."""


def parse_embed(fields: Fields) -> EmbedRequest:
    """
    Raises:
        RequestError: "invalid"; "unsupported" for images and audio.
    """
    modality = (fields.text("modality") or "text").lower()
    if modality != "text":
        if modality not in ("image", "audio"):
            raise fields.error("modality", modality, 'one of "text", "image", "audio"')
        message = f"modality is {shorten(modality)}. This server embeds texts alone. Send texts, with modality 'text'."
        raise RequestError(message, "unsupported", param="modality")
    texts = read_texts(fields, "input")
    for index, text in enumerate(texts):
        if len(text) > MAX_CHARACTERS:
            message = (
                f"input[{index}] has {len(text):,} characters. An input with modality may have {MAX_CHARACTERS:,}. "
                "Shorten it, or leave modality out."
            )
            raise RequestError(message, "invalid", param="input", index=index)
    request = read_openai(fields, read_embed(fields, texts))
    return finish(fields, replace(request, model=None if request.model == ANY_MODEL else request.model))


def render_embed(request: EmbedRequest, result: EmbedResult, stamp: Stamp) -> Answer:
    return render_list(request, result, stamp, "infinity-")


INFINITY = Dialect("infinity", "input", parse_embed, render_embed, render_infinity_error)
