"""GradCache (Gao et al. 2021, 2101.06983): the gradient of a batch that does not fit, in memory that a chunk takes.

One mechanism for every loss, head and number of ranks:

    1. pooled vectors of all texts, chunk by chunk, without a gradient;
    2. heads, the vectors of all ranks, and the loss part by part: the gradient of each vector;
    3. the chunks once more, with their gradient, under the random numbers of the first time.

Where all texts are one chunk, the first pass keeps its gradient and there is no third. Random numbers are those of a
seed for each chunk, so that nothing has to be kept for the second pass.

N: texts of this rank, in the order queries, positives, negatives; P: width of a pooled vector; Q: rows of all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from gnomon.batching import build_batches
from gnomon.packed import Ids, Packed, pack
from gnomon.spec import PoolingSpec
from gnomon.train.data.collate import CollatedBatch
from gnomon.train.distributed import Ranks
from gnomon.train.model import Model, VectorsByDim
from gnomon.train.process import malloc_trim

SideSizes = tuple[int, ...]
"""How many texts of this rank are queries, positives and negatives."""

LossParts = Callable[[Mapping[int, tuple[Tensor, ...]]], Iterable[Tensor]]
"""(queries, positives, negatives of all ranks, by width) -> tensors whose sum is this rank's loss, made one at a time.

Each is used up before the next is asked for, so that the memory of the scores is that of one part.
"""


@dataclass(frozen=True)
class Chunk:
    text_numbers: list[int]
    packed: Packed
    seed: int


def accumulate_gradient(
    model: Model,
    chunks: Sequence[Chunk],
    sides: SideSizes,
    parts: LossParts,
    *,
    ranks: Ranks,
    dims: tuple[int, ...] = (),
    cached: bool | None = None,
) -> float:
    """Add the gradient of this rank's loss to the parameters; returns the loss.

    Gradients of the vectors travel between the ranks here, those of the parameters do not: that is done once a step,
    behind the last batch of it (`ranks.add_up`). Their sum over the ranks is then the gradient of the sum of the ranks'
    losses.

    Args:
        dims: widths that have heads of their own, where the loss wants these.
        cached: False keeps the activations of every chunk, as a loss without GradCache would; None does so where there
            is one chunk.
    """
    keep = len(chunks) == 1 if cached is None else not cached
    made: list[Tensor] = []
    leaf_NP: Tensor | None = None
    for chunk in chunks:
        with torch.set_grad_enabled(keep):
            pooled = _pool_chunk(model, chunk)
        if leaf_NP is None:
            leaf_NP = pooled.new_empty(sum(sides), pooled.shape[1])
        leaf_NP[chunk.text_numbers] = pooled.detach()
        if keep:  # else the second pass makes it again
            made.append(pooled)
    assert leaf_NP is not None
    leaf_NP.requires_grad_()
    if not keep:
        malloc_trim()

    loss = _backward_through_modules(model.apply_modules(leaf_NP, dims), sides, parts, ranks)

    if not keep:
        malloc_trim()
    assert leaf_NP.grad is not None
    for place, chunk in enumerate(chunks):
        pooled = made[place] if keep else _pool_chunk(model, chunk)
        if pooled.requires_grad:
            pooled.backward(leaf_NP.grad[chunk.text_numbers].to(pooled.dtype))
    return loss


def _backward_through_modules(vectors_by_dim: VectorsByDim, sides: SideSizes, parts: LossParts, ranks: Ranks) -> float:
    """The loss of the vectors; its gradient goes to the heads and to what they were made of."""
    own = {dim: vectors.split(sides) for dim, vectors in vectors_by_dim.items()}
    leaves = {dim: tuple(ranks.all_gather(side).requires_grad_() for side in split) for dim, split in own.items()}
    losses: list[Tensor] = []
    for part in parts(leaves):
        part.backward()
        losses.append(part.detach())
    flat = [leaf for split in leaves.values() for leaf in split]
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in flat]
    ranks.all_reduce(gradients)
    mine = [
        gradient[ranks.rank * len(side) : (ranks.rank + 1) * len(side)]
        for gradient, side in zip(gradients, (side for split in own.values() for side in split), strict=True)
    ]
    torch.autograd.backward([side for split in own.values() for side in split], mine)
    return float(torch.stack(losses).sum())


def split_into_chunks(
    ids: Sequence[Ids], prompt_tokens: Sequence[int], *, chunk_tokens: int, seed: tuple[int, ...]
) -> list[Chunk]:
    """Texts of about one length together, at most `chunk_tokens` tokens a chunk; a longer text is a chunk alone.

    Args:
        prompt_tokens: how many first tokens of each text pooling leaves out. All texts of a chunk have one number, so
            that a batch has the same chunks, and rounds the same way, with every loss and pooling.
        seed: what the random numbers of the chunks come of, such as (seed, step, rank).
    """
    found: list[Chunk] = []
    for prompt in dict.fromkeys(prompt_tokens):
        places = [place for place, tokens in enumerate(prompt_tokens) if tokens == prompt]
        for batch in build_batches([len(ids[place]) for place in places], chunk_tokens, padded=False):
            texts = [places[index] for index in batch]
            packed = pack([ids[text] for text in texts], skip_B=[prompt] * len(texts))
            found.append(Chunk(texts, packed, _seed(*seed, len(found))))
    return found


def skipped_prompt_tokens(collated: CollatedBatch, pooling: PoolingSpec) -> list[int]:
    """Of each text, the tokens in front that pooling leaves out; 0 where it leaves none."""
    query, document = (0, 0) if pooling.include_prompt else collated.prompt_tokens
    queries = len(collated.rows.queries)
    return [query] * queries + [document] * (len(collated.ids) - queries)


def encode_in_one_graph(model: Model, chunks: Sequence[Chunk], dims: tuple[int, ...] = ()) -> VectorsByDim:
    """Vectors of all texts, in their order, with one graph over everything: what GradCache is checked against."""
    made = torch.cat([_pool_chunk(model, chunk) for chunk in chunks])
    order = torch.tensor([text for chunk in chunks for text in chunk.text_numbers], device=model.device)
    return model.apply_modules(made[order.argsort()], dims)


def encode_chunks(model: Model, chunks: Iterable[Chunk]) -> Iterator[tuple[list[int], Tensor]]:
    """(texts, vectors [B, D]) of each chunk, without dropout and without a gradient."""
    before = model.training
    model.eval()
    try:
        with torch.no_grad():
            for chunk in chunks:
                (vectors_BD,) = model.apply_modules(model(chunk.packed)).values()
                yield chunk.text_numbers, vectors_BD
    finally:
        model.train(before)


def _pool_chunk(model: Model, chunk: Chunk) -> Tensor:
    torch.manual_seed(chunk.seed)
    return model(chunk.packed)


def _seed(*numbers: int) -> int:
    """One number of many, spread over 63 bits: neighbours must not give neighbouring streams."""
    return int.from_bytes(blake2b(repr(numbers).encode(), digest_size=8).digest(), "big") >> 1
