"""All sentences are in some batch."""

import numpy
import pytest
from fairseq.data import data_utils


@pytest.fixture(autouse=True)
def repaired(fairseq_cli):
    pass


@pytest.mark.parametrize("number, most, multiple", [(30, 4, 8), (31, 8, 8), (5, 2, 8), (7, 3, 1), (16, 8, 8), (1, 8, 8)])
def test_none_is_lost(number, most, multiple):
    indices = numpy.arange(number)[::-1].copy()
    batches = data_utils.batch_by_size(indices, lambda index: 5, max_sentences=most, required_batch_size_multiple=multiple)
    assert max(map(len, batches)) <= most
    assert numpy.concatenate(batches).tolist() == indices.tolist()


def test_with_a_limit_of_tokens_too():
    lengths = numpy.arange(1, 42)
    batches = data_utils.batch_by_size(
        range(41),
        lambda index: lengths[index],
        num_tokens_vec=lengths,
        max_tokens=100,
        required_batch_size_multiple=8,
    )
    assert numpy.concatenate(batches).tolist() == list(range(41))
    assert all(len(batch) * lengths[batch].max() <= 100 for batch in batches)


def test_no_sentences_give_no_batches():
    assert data_utils.batch_by_size([], lambda index: 5, max_sentences=4, required_batch_size_multiple=8) == []


def test_validation_scores_every_sentence(text, trained, fairseq_cli, capsys):
    fairseq_cli(
        "validate",
        text.data,
        "--task language_modeling --cpu --batch-size 8 --path",
        trained / "checkpoint_last.pt",
        "--sample-break-mode eos",
    )
    assert "bsz 13" in capsys.readouterr().out  # of 13 lines in valid; fairseq alone drops 5
