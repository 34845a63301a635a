"""No query is left without a key: not every attention kernel survives an empty softmax."""

import itertools

import torch

from fairseq_srupp.modules.masks import causal_mask, full_mask


def paddings(batch, length):
    """Every pattern of padding of a row, all combinations in a batch."""
    rows = list(itertools.product([False, True], repeat=length))
    return torch.tensor([rows[(i * 7) % len(rows)] for i in range(len(rows) * batch)]).view(-1, batch, length)


def test_full_masks():
    for padding in paddings(2, 4):
        allowed = full_mask(padding).allowed
        assert allowed.any(-1).all()
        for row, pad in enumerate(padding):
            assert pad.all() or (allowed[row].expand(1, 4, 4) == ~pad).all()


def test_causal_masks():
    for padding, source_padding in zip(paddings(2, 4), paddings(2, 4).flip(0)):
        allowed = causal_mask(4, 4, padding_mask=padding, source_padding_mask=source_padding).allowed
        assert allowed.shape == (2, 1, 4, 8) and allowed.any(-1).all()
        for row, query, key in itertools.product(range(2), range(4), range(4)):
            seen = key <= query and (key == query or not padding[row, key])
            assert allowed[row, 0, query, 4 + key] == seen
            assert allowed[row, 0, query, key] == (not source_padding[row, key])
