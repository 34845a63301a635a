"""fairseq's uses of names that numpy 2 took away."""

import numpy
import pytest
import torch
from fairseq.data import Dictionary, LanguagePairDataset, ListDataset, TokenBlockDataset


@pytest.fixture(autouse=True)
def repaired(fairseq_cli):
    pass


def sentences():
    return [torch.arange(4, 4 + n) for n in (3, 5, 2)]


def test_token_blocks_of_sentences():
    """fairseq-interactive cuts the lines of a language model so."""
    data = TokenBlockDataset(sentences(), [3, 5, 2], block_size=None, pad=1, eos=2, break_mode="eos")
    assert [len(block) for block in data] == [3, 5, 2]


def test_buckets_of_language_pairs():
    """--num-batch-buckets, which pads lengths to a few sizes."""
    dictionary, sizes = Dictionary(), numpy.array([3, 5, 2])
    data = LanguagePairDataset(
        ListDataset(sentences(), sizes),
        sizes,
        dictionary,
        ListDataset(sentences(), sizes),
        sizes,
        dictionary,
        num_buckets=2,
    )
    assert data.bucketed_num_tokens.max() == 5


def test_numpy_itself_is_left_alone():
    assert not hasattr(numpy, "compat")
