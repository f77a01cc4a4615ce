"""The tokens of texts, and the texts of tokens."""

from __future__ import annotations

from tokenizers import Encoding

from gnomon.serve.call import Call
from gnomon.serve.models import ServedModel
from gnomon.serve.requests import DecodeRequest, RequestError, Token, TokenizeRequest
from gnomon.serve.service import Service

MAX_TOKEN_CHARACTERS = 1 << 20
"""Characters, or token ids, of a request for tokens: each token takes a hundred bytes of the answer."""


async def tokenize(service: Service, request: TokenizeRequest, call: Call) -> tuple[list[list[Token]], ServedModel]:
    """The tokens of whole texts, and the model that they are for.

    Raises:
        RequestError: an unknown model or prompt name.
    """
    model = service.models.find(request.model).model
    call.model, call.num_inputs = model, len(request.texts)
    prompt = model.resolve_prompt(None if request.prompt_name else "", request.prompt_name, None)
    raw = model.encoder.tokenizer.raw
    _check_amount(sum(len(prompt) + len(text) for text in request.texts), "characters")

    def tokenize() -> list[list[Token]]:
        encodings = raw.encode_batch(
            [prompt + text for text in request.texts], add_special_tokens=request.add_special_tokens
        )
        return [_list_tokens(encoding, prompt + text) for encoding, text in zip(encodings, request.texts, strict=True)]

    return await service.run_in_thread(tokenize), model


async def decode(service: Service, request: DecodeRequest, call: Call) -> list[str]:
    """The texts of token ids.

    Raises:
        RequestError: an unknown model, or an id that it does not have.
    """
    model = service.models.find(request.model).model
    call.model, call.num_inputs = model, len(request.ids)
    rows = model.encoder.spec.trunk.vocab_size
    _check_amount(sum(map(len, request.ids)), "token ids")
    raw = model.encoder.tokenizer.raw

    def decode() -> list[str]:
        for index, ids in enumerate(request.ids):
            if ids and max(ids) >= rows:
                raise RequestError(
                    f"ids[{index}] holds {max(ids)}, and this model has ids from 0 to {rows - 1}.",
                    "invalid",
                    param="ids",
                )
        skip = request.skip_special_tokens
        return [raw.decode(list(ids), skip_special_tokens=skip) for ids in request.ids]

    return await service.run_in_thread(decode)


def _check_amount(number: int, what: str) -> None:
    """
    Raises:
        RequestError: more than a request for tokens may have.
    """
    if number > MAX_TOKEN_CHARACTERS:
        raise RequestError(
            f"the request has {number:,} {what}, and it may have {MAX_TOKEN_CHARACTERS:,}. Split it.", "too_many"
        )


def _list_tokens(encoding: Encoding, text: str) -> list[Token]:
    special_mask: list[int] = encoding.special_tokens_mask
    tokens = list[Token]()
    for id_, name, special, (start, stop) in zip(
        encoding.ids, encoding.tokens, special_mask, encoding.offsets, strict=True
    ):
        if special:
            tokens.append(Token(id_, name, True, None, None))
        else:
            tokens.append(Token(id_, text[start:stop], False, start, stop))
    return tokens
