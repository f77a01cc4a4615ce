"""GradCache (Gao et al. 2021, 2101.06983): the gradient of a large batch, in the memory of one chunk.

One mechanism serves every loss, dense module and number of ranks:

    1. The first pass pools all texts, chunk by chunk, without a gradient.
    2. The dense modules, the vectors of all ranks, and the loss in parts give the gradient of each vector.
    3. The second pass pools the chunks again, with a gradient and with the random numbers of the first pass.

Where all texts are one chunk, the first pass has a gradient, and the second is left out. Each chunk has its own random
seed, so that no state of a random generator has to be stored.

N: texts of this rank, in the order queries, positives, negatives; P: dimension of a pooled vector; Q: rows of all
ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from gnomon.batching import NO_PADDING, build_batches
from gnomon.packed import Ids, Packed, pack
from gnomon.spec import PoolingSpec
from gnomon.train.data.collate import CollatedBatch
from gnomon.train.distributed import Ranks
from gnomon.train.model import Model, VectorsByDim
from gnomon.train.process import malloc_trim

SideSizes = tuple[int, ...]
"""How many texts of this rank are queries, positives and negatives."""

LossParts = Callable[[Mapping[int, tuple[Tensor, ...]]], Iterable[Tensor]]
"""(queries, positives, negatives of all ranks, by dimension) -> tensors whose sum is this rank's loss.

The next tensor is computed when the graph of the last one was freed, so that one part's scores are in memory at a time.
"""


@dataclass(frozen=True)
class Chunk:
    text_numbers: list[int]
    packed: Packed
    seed: int


def forward_backward(
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

    The ranks exchange gradients of the vectors here. Gradients of the parameters are summed once per step, after its
    last batch (`TrainingState.clip_gradient`). That sum is the gradient of the sum of the ranks' losses.

    Args:
        dims: dimensions with a dense module each, if the loss uses these.
        cached: False stores the activations of every chunk, as without GradCache. None does so for a single chunk.
    """
    keep = len(chunks) == 1 if cached is None else not cached
    pooled_chunks: list[Tensor] = []
    leaf_NP: Tensor | None = None
    for chunk in chunks:
        with torch.set_grad_enabled(keep):
            pooled = _pool_chunk(model, chunk)
        if leaf_NP is None:
            leaf_NP = pooled.new_empty(sum(sides), pooled.shape[1])
        leaf_NP[chunk.text_numbers] = pooled.detach()
        if keep:  # else the second pass computes it again
            pooled_chunks.append(pooled)
    assert leaf_NP is not None
    leaf_NP.requires_grad_()
    if not keep:
        malloc_trim()

    loss = _backward_through_modules(model.apply_modules(leaf_NP, dims), sides, parts, ranks)

    if not keep:
        malloc_trim()
    assert leaf_NP.grad is not None
    for number, chunk in enumerate(chunks):
        pooled = pooled_chunks[number] if keep else _pool_chunk(model, chunk)
        if pooled.requires_grad:
            pooled.backward(leaf_NP.grad[chunk.text_numbers].to(pooled.dtype))
    return loss


def _backward_through_modules(vectors_by_dim: VectorsByDim, sides: SideSizes, parts: LossParts, ranks: Ranks) -> float:
    """The loss of the vectors. Its gradient flows to the dense modules and to the pooled vectors."""
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
    """Group texts of similar length into chunks of at most `chunk_tokens` tokens. A longer text is a chunk by itself.

    Args:
        prompt_tokens: how many first tokens of each text pooling leaves out. All texts of a chunk have one number, so
            that a batch has the same chunks, and rounds the same way, with every loss and pooling.
        seed: the seeds of the chunks are derived from it; such as (seed, step, rank).
    """
    chunks: list[Chunk] = []
    for prompt in dict.fromkeys(prompt_tokens):
        numbers = [number for number, tokens in enumerate(prompt_tokens) if tokens == prompt]
        for batch in build_batches([len(ids[number]) for number in numbers], chunk_tokens, NO_PADDING):
            texts = [numbers[index] for index in batch]
            packed = pack([ids[text] for text in texts], skip_B=[prompt] * len(texts))
            chunks.append(Chunk(texts, packed, _seed(*seed, len(chunks))))
    return chunks


def skipped_prompt_tokens(collated: CollatedBatch, pooling: PoolingSpec) -> list[int]:
    """For each text, the number of first tokens that pooling leaves out; 0 where it uses all tokens."""
    query, document = (0, 0) if pooling.include_prompt else collated.prompt_tokens
    queries = len(collated.rows.queries)
    return [query] * queries + [document] * (len(collated.ids) - queries)


def encode_in_one_graph(model: Model, chunks: Sequence[Chunk], dims: tuple[int, ...] = ()) -> VectorsByDim:
    """Vectors of all texts, in their order, with one graph over all of them: the reference for GradCache."""
    pooled = torch.cat([_pool_chunk(model, chunk) for chunk in chunks])
    order = torch.tensor([text for chunk in chunks for text in chunk.text_numbers], device=model.device)
    return model.apply_modules(pooled[order.argsort()], dims)


def encode_chunks(model: Model, chunks: Iterable[Chunk]) -> Iterator[tuple[list[int], Tensor]]:
    """(text numbers, vectors [B, D]) of each chunk, without dropout and without a gradient."""
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
    """A seed of 63 bits from some numbers. Similar numbers give unrelated seeds."""
    return int.from_bytes(blake2b(repr(numbers).encode(), digest_size=8).digest(), "big") >> 1
