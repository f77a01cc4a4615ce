"""PaddedBuckets: every row has a place, the way back is the way back, and little is padded."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from gnomon.engines.torch.padding import MAX_PADDED_LENGTH, PaddedBuckets

CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(1, 80) | st.sampled_from([255, 256, 257, 300]), min_size=1, max_size=12)


@given(lengths=LENGTHS)
def test_rows_go_there_and_back(lengths: list[int]) -> None:
    buckets = PaddedBuckets.from_lengths(lengths, CPU)
    x_TH = torch.arange(1.0, 2 * sum(lengths) + 1).view(-1, 2).requires_grad_()
    spread_PH = buckets.pad(x_TH)
    assert torch.equal(buckets.unpad(spread_PH), x_TH)
    # reference implementation: text by text
    texts, place = iter(x_TH.detach().split(lengths)), 0
    for count, length in zip(buckets.texts_per_bucket, buckets.padded_lengths, strict=True):
        for _ in range(count):
            text = next(texts)
            wanted = torch.cat([text, torch.zeros(length - len(text), 2)])
            assert torch.equal(spread_PH[place : place + length], wanted)
            place += length
    assert place == len(spread_PH) == sum(buckets.slots_per_bucket)


@given(lengths=LENGTHS)
def test_gradients_go_the_way_back(lengths: list[int]) -> None:
    """As those of torch's own indexing would; nothing comes of empty places."""
    buckets = PaddedBuckets.from_lengths(lengths, CPU)
    draw = torch.Generator().manual_seed(1)
    x_TH, there_PH = (
        torch.randn(rows, 2, dtype=torch.float64, generator=draw, requires_grad=True)
        for rows in (sum(lengths), sum(buckets.slots_per_bucket))
    )
    (there_PH * buckets.pad(x_TH)).sum().backward()
    assert x_TH.grad is not None
    assert torch.equal(x_TH.grad, there_PH.detach()[buckets.slots_T])
    (gradient,) = torch.autograd.grad((buckets.unpad(there_PH) * x_TH.detach()).sum(), there_PH)
    wanted = torch.zeros_like(there_PH).index_put((buckets.slots_T,), x_TH.detach())
    assert torch.equal(gradient, wanted)


@given(lengths=LENGTHS)
def test_little_is_padded_and_long_texts_not_at_all(lengths: list[int]) -> None:
    ordered = sorted(lengths)
    buckets = PaddedBuckets.from_lengths(ordered, CPU)
    texts = iter(ordered)
    for count, longest, mask in zip(buckets.texts_per_bucket, buckets.padded_lengths, buckets.masks, strict=True):
        own = [next(texts) for _ in range(count)]
        assert longest == max(own)
        assert longest - min(own) < (1 if longest > MAX_PADDED_LENGTH else max(16, longest / 4))
        padding = [[place >= length for place in range(longest)] for length in own]
        assert (mask is None) == (not any(map(any, padding)))
        if mask is not None:
            assert torch.equal(mask[:, 0, 0] == -torch.inf, torch.tensor(padding))
            assert mask[~torch.tensor(padding)[:, None, None]].eq(0).all()


def test_lengths_of_many_kinds_are_few_shapes() -> None:
    assert PaddedBuckets.from_lengths(range(1, MAX_PADDED_LENGTH + 1), CPU).padded_lengths == [
        16,
        32,
        48,
        64,
        80,
        96,
        112,
        128,
        160,
        192,
        224,
        256,
    ]
    assert PaddedBuckets.from_lengths([7, 9, 16, 17, 300, 301], CPU).padded_lengths == [16, 17, 300, 301]
