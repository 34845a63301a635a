"""Sentences in a random order, against the same text put into that order."""

import itertools

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary, indexed_dataset

from fairseq_srupp.data.stream_iterator import StreamBatchIterator
from fairseq_srupp.data.streaming_dataset import RowLayout, StreamingDataset
from fairseq_srupp.data.token_stream import (
    ShuffledStream,
    TokenArrays,
    TokenFile,
    TokenStream,
    load_token_stream,
)

EOS, PAD = 2, 1
LENGTHS = np.random.default_rng(0).integers(0, 6, 60)
SENTENCES = [np.append(10 * i + 10 + np.arange(n), EOS).astype(np.int32) for i, n in enumerate(LENGTHS)]


def stream_of(sentences, parts=1):
    size = -(-len(sentences) // parts)
    return TokenStream([TokenArrays(sentences[i : i + size]) for i in range(0, len(sentences), size)])


def text(stream):
    return stream.take(np.arange(len(stream)))


def sentences_of(tokens):
    found = np.split(tokens, np.flatnonzero(tokens == EOS) + 1)
    assert len(found[-1]) == 0
    return [tuple(sentence.tolist()) for sentence in found[:-1]]


@pytest.mark.parametrize("parts", [1, 3])
def test_each_sentence_is_there_once_and_whole(parts):
    stream = stream_of(SENTENCES, parts)
    shuffled = ShuffledStream(stream, (1, 1))
    found = sentences_of(text(shuffled))
    assert len(shuffled) == len(stream) and found != sentences_of(text(stream))
    assert sorted(found) == sorted(tuple(sentence.tolist()) for sentence in SENTENCES)
    positions = np.random.default_rng(1).integers(0, len(stream), (4, 7))
    assert shuffled.take(positions).dtype == np.int64
    assert np.array_equal(shuffled.take(positions), text(shuffled)[positions])


def test_the_order_is_that_of_seed_and_epoch_and_stays_what_it_is():
    def order(*seed):
        return text(ShuffledStream(stream_of(SENTENCES), seed)).tolist()

    assert order(1, 1) == order(1, 1)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (1, 2)}) == 4
    # a run goes on on another machine, with another numpy
    few = [np.array([10 + i], np.int32) for i in range(8)]
    assert text(ShuffledStream(stream_of(few), (1, 3))).tolist() == [12, 11, 15, 16, 10, 13, 14, 17]


def test_orders_are_uniform():
    """Each of the 6 orders of three sentences comes about as often."""
    three = [np.array(tokens, np.int32) for tokens in ([4, EOS], [5, EOS], [6, 7, 8, EOS])]
    counts = {}
    for epoch in range(1200):
        found = tuple(text(ShuffledStream(stream_of(three), (7, epoch))).tolist())
        counts[found] = counts.get(found, 0) + 1
    assert len(counts) == 6 and 150 < min(counts.values()) and max(counts.values()) < 250


def test_empty_items_are_passed_over():
    tokens = [np.array(t, np.int32) for t in ([], [4, EOS], [], [5, 6, EOS], [])]
    for epoch in range(10):
        assert sorted(sentences_of(text(ShuffledStream(stream_of(tokens), (1, epoch))))) == [(4, EOS), (5, 6, EOS)]


@pytest.mark.parametrize("impl", ["mmap", "cached", "lazy"])
def test_every_format_has_its_sentences(tmp_path, impl):
    dictionary = Dictionary()
    for i in range(700):
        dictionary.add_symbol(f"w{i}")
    for split in ("train", "train1"):
        builder = indexed_dataset.make_builder(str(tmp_path / f"{split}.bin"), impl, 1000)
        for sentence in SENTENCES:
            builder.add_item(torch.from_numpy(sentence))
        builder.finalize(str(tmp_path / f"{split}.idx"))
    stream = load_token_stream(str(tmp_path / "train"), dictionary, impl, combine=True)
    assert stream.sentence_lengths().tolist() == [len(sentence) for sentence in SENTENCES] * 2
    assert sorted(sentences_of(text(ShuffledStream(stream, (1, 1))))) == sorted(sentences_of(text(stream)))
    if impl == "mmap":
        assert isinstance(TokenFile(str(tmp_path / "train")).sentence_lengths, np.memmap)


def ranks_of(rows, ranks, epoch=1, seed=1, tokens_per_sample=5):
    stream = stream_of(SENTENCES)
    layout = RowLayout.training(len(stream) - 1, rows * ranks, tokens_per_sample)
    datasets = [
        StreamingDataset(stream, "train", tokens_per_sample, PAD, layout, rank * rows, rows, shuffle_seed=seed)
        for rank in range(ranks)
    ]
    for dataset in datasets:
        dataset.set_epoch(epoch)
    return datasets


def by_row(datasets):
    """Inputs and targets of all rows."""
    batches = [[dataset[s] for s in range(len(dataset))] for dataset in datasets]
    inputs = [torch.cat([b["net_input"]["src_tokens"] for b in of_rank], 1) for of_rank in batches]
    targets = [torch.cat([b["target"] for b in of_rank], 1) for of_rank in batches]
    return torch.cat(inputs), torch.cat(targets)


@pytest.mark.parametrize("rows, ranks", list(itertools.product((1, 3), (1, 2))))
def test_rows_of_all_ranks_hold_the_shuffled_text(rows, ranks):
    for epoch in (1, 2):
        tokens = text(ShuffledStream(stream_of(SENTENCES), (1, epoch)))
        inputs, targets = by_row(ranks_of(rows, ranks, epoch))
        kept = inputs.numel()
        assert len(tokens) - 1 - rows * ranks < kept <= len(tokens) - 1
        assert inputs.flatten().tolist() == tokens[:kept].tolist()
        assert targets.flatten().tolist() == tokens[1 : kept + 1].tolist()


def test_resuming_in_an_epoch_has_the_order_of_that_epoch():
    def iterator(epoch=1, seed=1):
        return StreamBatchIterator(ranks_of(2, 1, seed=seed)[0], epoch=epoch)

    whole = iterator()
    epochs = [[batch["target"].tolist() for batch in whole.next_epoch_itr()] for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    stopped = iterator()
    for _ in range(2):
        running = stopped.next_epoch_itr()
        if stopped.epoch == 1:
            list(running)
    next(running), next(running)
    state = stopped.state_dict()
    resumed = iterator(epoch=2)
    resumed.load_state_dict(state)
    rest = [batch["target"].tolist() for batch in resumed.next_epoch_itr()]
    assert rest == epochs[1][2:]
    assert [batch["target"].tolist() for batch in resumed.next_epoch_itr()] == epochs[2]
    for seed, message in ((2, "--seed 2 instead of shuffled with --seed 1"), (None, "in the order of the text instead of")):
        with pytest.raises(SystemExit, match=message):
            iterator(epoch=2, seed=seed).load_state_dict(state)
