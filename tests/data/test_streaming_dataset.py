"""Every pair of input and target stands in exactly one place, for any number of tokens, rows, ranks and segments."""

import itertools

import numpy as np
import pytest
import torch

from fairseq_srupp.data.streaming_dataset import (
    RowLayout,
    SegmentKey,
    StreamingDataset,
)
from fairseq_srupp.data.token_stream import TokenStream

PAD = 1
CASES = list(itertools.product((2, 3, 5, 17, 101), (1, 2, 8), (1, 3), (1, 7, 100)))
TRAINABLE = [case for case in CASES if case[0] > case[1] * case[2]]  # the task refuses more rows than pairs


def rank_datasets(layout, tokens, ranks):
    stream = TokenStream([tokens])
    rows = layout.rows // ranks
    return [StreamingDataset(stream, "valid", layout.tokens_per_sample, PAD, layout, rank * rows, rows) for rank in range(ranks)]


def pairs_by_row(datasets):
    """The unpadded inputs and targets of each row, over all segments, in the order of the rows."""
    inputs, targets = [], []
    for dataset in datasets:
        batches = [dataset[s] for s in range(len(dataset))]
        for row in range(len(dataset.rows)):
            for batch in batches:
                length = int(batch["net_input"]["src_lengths"][row])
                source, target = batch["net_input"]["src_tokens"][row], batch["target"][row]
                assert (source[length:] == PAD).all() and (target[length:] == PAD).all()
                assert (source[:length] != PAD).all() and (target[:length] != PAD).all()
                inputs += source[:length].tolist()
                targets += target[:length].tolist()
    return inputs, targets


@pytest.mark.parametrize("n, rows, ranks, tokens_per_sample", CASES)
def test_evaluation_scores_every_token_but_the_first_once(n, rows, ranks, tokens_per_sample):
    tokens = np.arange(10, 10 + n)
    layout = RowLayout.evaluation(n - 1, rows * ranks, tokens_per_sample)
    datasets = rank_datasets(layout, tokens, ranks)
    inputs, targets = pairs_by_row(datasets)
    assert inputs == tokens[:-1].tolist()
    assert targets == tokens[1:].tolist()
    batches = [[dataset[s] for s in range(len(dataset))] for dataset in datasets]
    assert sum(batch["ntokens"] for batch in itertools.chain(*batches)) == n - 1
    shapes = [[tuple(batch["target"].shape) for batch in of_rank] for of_rank in batches]
    assert all(of_rank == shapes[0] for of_rank in shapes)
    assert layout.trimmed == 0


@pytest.mark.parametrize("n, rows, ranks, tokens_per_sample", TRAINABLE)
def test_training_rows_are_equally_long_and_leave_out_less_than_a_pair_each(n, rows, ranks, tokens_per_sample):
    tokens = np.arange(10, 10 + n)
    layout = RowLayout.training(n - 1, rows * ranks, tokens_per_sample)
    datasets = rank_datasets(layout, tokens, ranks)
    inputs, targets = pairs_by_row(datasets)
    kept = n - 1 - layout.trimmed
    assert 0 <= layout.trimmed < rows * ranks
    assert inputs == tokens[:kept].tolist()
    assert targets == tokens[1 : kept + 1].tolist()
    for dataset in datasets:
        lengths = torch.stack([dataset[s]["net_input"]["src_lengths"] for s in range(len(dataset))])
        assert (lengths.sum(0) == kept // layout.rows).all()
        assert (lengths[:-1] == tokens_per_sample).all()


def test_targets_cross_segment_and_row_borders():
    tokens = np.arange(10, 10 + 13)  # 12 pairs: 2 rows of 6, segments of 4 and 2
    dataset = StreamingDataset(TokenStream([tokens]), "valid", 4, PAD, RowLayout.evaluation(12, 2, 4))
    assert len(dataset) == 2
    assert dataset[0]["target"].tolist() == [[11, 12, 13, 14], [17, 18, 19, 20]]
    assert dataset[1]["net_input"]["src_tokens"].tolist() == [[14, 15], [20, 21]]
    assert dataset[1]["target"].tolist() == [[15, 16], [21, 22]]


def test_ragged_end_and_empty_row_are_padded():
    tokens = np.arange(10, 10 + 6)  # 5 pairs in 4 rows of 2: 2, 2, 1, 0
    dataset = StreamingDataset(TokenStream([tokens]), "valid", 9, PAD, RowLayout.evaluation(5, 4, 9))
    batch = dataset[0]
    assert batch["net_input"]["src_tokens"].tolist() == [[10, 11], [12, 13], [14, PAD], [PAD, PAD]]
    assert batch["target"].tolist() == [[11, 12], [13, 14], [15, PAD], [PAD, PAD]]
    assert batch["net_input"]["src_lengths"].tolist() == [2, 2, 1, 0]
    assert batch["ntokens"] == 5 and batch["nsentences"] == 4


def test_key_names_split_epoch_and_segment():
    dataset = StreamingDataset(TokenStream([np.arange(10, 30)]), "valid", 4, PAD)
    assert dataset[2]["net_input"]["stream"] == ("valid", 1, 2)
    dataset.set_epoch(3)
    assert dataset[2]["net_input"]["stream"] == ("valid", 3, 2)
    assert isinstance(dataset[0]["net_input"]["stream"], SegmentKey)
    unkeyed = StreamingDataset(dataset.stream, "valid", 4, PAD, keyed=False)
    assert set(unkeyed[0]["net_input"]) == {"src_tokens", "src_lengths"}


def test_ids_follow_the_text():
    tokens = np.arange(10, 10 + 41)
    datasets = rank_datasets(RowLayout.evaluation(40, 4, 3), tokens, 2)
    batches = [dataset[s] for dataset in datasets for s in range(len(dataset))]
    first_tokens = {int(i): int(row[0]) for batch in batches for i, row in zip(batch["id"], batch["net_input"]["src_tokens"])}
    assert sorted(first_tokens) == list(range(16))
    assert [first_tokens[i] for i in range(16)] == sorted(first_tokens.values())
