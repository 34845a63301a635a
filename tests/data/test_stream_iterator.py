"""Batches come in order, and a run that was stopped goes on where it was."""

import logging
import os

import numpy as np
import pytest
import torch
from fairseq.data.iterators import GroupedIterator
from torch import nn

from fairseq_srupp.data.stream_iterator import StreamBatchIterator
from fairseq_srupp.data.streaming_dataset import RowLayout, StreamingDataset
from fairseq_srupp.data.token_stream import TokenStream
from fairseq_srupp.models.stream_states import StreamStates
from fairseq_srupp.modules import LayerState

ROWS, TOKENS_PER_SAMPLE, PAIRS = 3, 4, 3 * 26 + 2  # 7 segments a row, the last one shorter
MEMORY = 6


class Reader(nn.Module):
    """Keeps, for each row, a number made of all tokens it has read, and the last MEMORY tokens."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.stream_states = StreamStates(hidden_size=1, memories=[True])
        self.calls = []

    def max_memory(self):
        return MEMORY

    def forward(self, src_tokens, src_lengths, stream):
        (state,) = self.stream_states.entry(stream, training=self.training) or [LayerState()]
        x = src_tokens.t().double().unsqueeze(2)
        c = torch.zeros(x.size(1), 1, dtype=torch.double) if state.c is None else state.c
        for token in x:
            c = 0.75 * c + token
        memory = x if state.memory is None else torch.cat((state.memory, x))
        self.calls.append((self.training, torch.rand(1).item()))
        key = (stream[0], stream[1], stream[2] + 1)
        self.stream_states.keep(key, [LayerState(c.detach(), memory[-MEMORY:].detach())])


class BagReader(nn.Module):
    """A model without stream states."""

    def forward(self, src_tokens, src_lengths):
        pass


def rows(rank=0, ranks=1, tokens_per_sample=TOKENS_PER_SAMPLE, pairs=PAIRS, split="train"):
    stream = TokenStream([np.arange(10, 10 + pairs + 1)])
    layout = RowLayout.training(pairs, ROWS * ranks, tokens_per_sample)
    return StreamingDataset(stream, split, tokens_per_sample, 1, layout, rank * ROWS, ROWS)


def iterator(model=None, rank=0, ranks=1, **kwargs):
    epoch = kwargs.pop("epoch", 1)
    return StreamBatchIterator(rows(rank, ranks, **kwargs), model=model, rank=rank, world_size=ranks, epoch=epoch)


def train(model, batches, *, start=0, updates=None):
    """Read batches, one an update; returns what was read."""
    read = []
    for n, batch in enumerate(batches, start=start):
        model.stream_states.set_num_updates(n)
        model(**batch["net_input"])
        read.append(batch)
        if updates is not None and n + 1 == start + updates:
            break
    return read


def write_checkpoint(folder, iterator, update):
    """What a save does: the rank's state, then the checkpoint, then the cleaning. Returns the iterator's part."""
    iterator.before_save(str(folder), update)
    state = iterator.state_dict()
    path = folder / f"checkpoint_{update}.pt"
    torch.save({"extra_state": {"train_iterator": state}}, path)
    iterator.after_save(str(folder))
    return {**state, "checkpoint_path": str(path)}


def same_batches(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b):
        assert x["net_input"]["stream"] == y["net_input"]["stream"]
        assert torch.equal(x["net_input"]["src_tokens"], y["net_input"]["src_tokens"])
        assert torch.equal(x["target"], y["target"])


NO_STATES = {  # what may stand in a state file instead of a state
    "no state": lambda content: content.pop("state"),
    "text": lambda content: content.update(state="text"),
    "no layers": lambda content: content.update(state=[torch.zeros(3)]),
    "a layer more": lambda content: content["state"].append(content["state"][0]),
    "without c": lambda content: content["state"][0].pop("c"),
    "other rows": lambda content: content["state"][0].update(c=torch.zeros(ROWS + 1, 1)),
    "another size": lambda content: content["state"][0].update(c=torch.zeros(ROWS, 2)),
    "whole numbers": lambda content: content["state"][0].update(c=torch.zeros(ROWS, 1, dtype=torch.long)),
    "no memory": lambda content: content["state"][0].update(memory=None),
    "a memory of two dimensions": lambda content: content["state"][0].update(memory=torch.zeros(MEMORY, ROWS)),
    "a memory of other rows": lambda content: content["state"][0].update(memory=torch.zeros(MEMORY, ROWS + 1, 1)),
}


def same_state(a, b):
    a, b = a.stream_states.export("train"), b.stream_states.export("train")
    assert a["key"] == b["key"]
    assert torch.equal(a["state"][0]["c"], b["state"][0]["c"])
    assert torch.equal(a["state"][0]["memory"], b["state"][0]["memory"])


def test_segments_come_in_order_with_their_epoch():
    batches = iterator()
    for epoch in (1, 2, 3):
        found = list(batches.next_epoch_itr(shuffle=True))
        assert [batch["net_input"]["stream"] for batch in found] == [("train", epoch, s) for s in range(7)]
        same_batches(found, [batches.dataset[s] for s in range(7)])
        assert batches.end_of_epoch()


def test_every_rank_walks_all_segments_of_its_own_rows():
    found = [list(iterator(rank=rank, ranks=3).next_epoch_itr()) for rank in range(3)]
    assert {len(batches) for batches in found} == {2}
    firsts = torch.cat([batches[0]["net_input"]["src_tokens"][:, 0] for batches in found])
    assert torch.equal(firsts, 10 + torch.arange(9) * (PAIRS // 9))


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_resuming_in_an_epoch_is_exact(tmp_path, stop):
    whole, stopped, resumed = Reader(), Reader(), Reader()
    expected = train(whole, iterator(whole).next_epoch_itr())
    batches = iterator(stopped)
    first = train(stopped, batches.next_epoch_itr(), updates=stop)
    saved = write_checkpoint(tmp_path, batches, stop)
    assert saved["iterations_in_epoch"] == stop

    batches = iterator(resumed)
    batches.load_state_dict(saved)
    same_state(resumed, stopped)
    assert batches.next_epoch_idx == 1
    same_batches(first + train(resumed, batches.next_epoch_itr(), start=stop), expected)
    same_state(resumed, whole)


def test_resuming_in_a_later_epoch_with_gradient_accumulation(tmp_path):
    stopped, resumed = Reader(), Reader()
    batches = iterator(stopped)
    train(stopped, batches.next_epoch_itr())
    groups = GroupedIterator(batches.next_epoch_itr(), 2)
    train(stopped, next(groups) + next(groups))
    saved = write_checkpoint(tmp_path, batches, 9)
    assert (saved["epoch"], saved["iterations_in_epoch"]) == (2, 4)

    batches = iterator(resumed, epoch=2)
    batches.load_state_dict(saved)
    rest = list(GroupedIterator(batches.next_epoch_itr(), 2))
    same_batches([batch for group in rest for batch in group], [batches.dataset[s] for s in (4, 5, 6)])
    train(resumed, rest[0] + rest[1])


def test_between_epochs_nothing_is_saved_and_the_next_starts_from_zero(tmp_path):
    model = Reader()
    batches = iterator(model)
    train(model, batches.next_epoch_itr())
    saved = write_checkpoint(tmp_path, batches, 7)
    assert saved["stream"]["update"] is None and not (tmp_path / "stream_states").exists()

    resumed = Reader()
    batches = iterator(resumed, tokens_per_sample=5, epoch=2)  # a new epoch may be laid out anew
    batches.load_state_dict(saved)
    found = train(resumed, batches.next_epoch_itr())
    assert found[0]["net_input"]["stream"] == ("train", 2, 0)


def test_state_of_another_position_is_not_saved(tmp_path):
    model = Reader()
    batches = iterator(model)
    running = batches.next_epoch_itr()
    train(model, running, updates=2)
    next(running)  # handed out, but not read by the model
    with pytest.raises(RuntimeError, match="the data stand at"):
        batches.before_save(str(tmp_path), 2)
    assert not (tmp_path / "stream_states").exists()


def test_a_checkpoint_names_its_state_only_where_it_was_saved(tmp_path):
    model = Reader()
    batches = iterator(model)
    running = batches.next_epoch_itr()
    train(model, running, updates=2)
    batches.before_save(str(tmp_path), 2)
    assert batches.state_dict()["stream"]["update"] == 2
    train(model, running, start=2, updates=1)
    assert batches.state_dict()["stream"]["update"] is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ranks": 2}, "6 rows instead of 3, 2 ranks instead of 1"),
        ({"tokens_per_sample": 5}, "5 tokens per sample instead of 4"),
        ({"pairs": PAIRS + 1}, f"{PAIRS + 1} pairs instead of {PAIRS}"),
    ],
)
def test_another_layout_is_refused_in_the_middle_of_an_epoch(tmp_path, change, message):
    model = Reader()
    batches = iterator(model)
    train(model, batches.next_epoch_itr(), updates=3)
    saved = write_checkpoint(tmp_path, batches, 3)
    with pytest.raises(SystemExit) as refusal:
        iterator(Reader(), **change).load_state_dict(saved)
    line = str(refusal.value)
    assert message in line and "--reset-dataloader" in line and "\n" not in line


def test_a_checkpoint_of_another_task_is_refused_in_the_middle_of_an_epoch():
    state = {"version": 2, "epoch": 1, "iterations_in_epoch": 3, "shuffle": True}
    with pytest.raises(SystemExit, match="--reset-dataloader"):
        iterator(Reader()).load_state_dict(state)


@pytest.mark.parametrize(
    "damage",
    ["missing", "truncated", "of another run", "checkpoint elsewhere", "no checkpoint path", "a folder", *NO_STATES],
)
@pytest.mark.parametrize("stop", [1, 6])
def test_without_its_state_file_the_last_segments_are_read_again(tmp_path, caplog, damage, stop):
    stopped, resumed = Reader(), Reader()
    batches = iterator(stopped)
    train(stopped, batches.next_epoch_itr(), updates=stop)
    saved = write_checkpoint(tmp_path, batches, stop)
    path = tmp_path / "stream_states" / f"update{stop}.rank0.pt"
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        os.truncate(path, 50)
    elif damage == "a folder":
        path.unlink()
        path.mkdir()
    elif damage in NO_STATES:
        content = torch.load(path)
        NO_STATES[damage](content)
        torch.save(content, path)
    elif damage == "of another run":
        content = torch.load(path)
        torch.save({**content, "key": ("train", 1, stop - 1)}, path)
    elif damage == "checkpoint elsewhere":
        saved["checkpoint_path"] = str(tmp_path / "elsewhere" / "checkpoint.pt")
    else:
        del saved["checkpoint_path"]

    resumed.eval()
    batches = iterator(resumed)
    torch.manual_seed(5)
    batches._get_iterator_for_epoch(1, False, offset=stop)  # takes a seed for itself
    before = torch.get_rng_state()
    torch.manual_seed(5)
    with caplog.at_level(logging.WARNING):
        batches.load_state_dict(saved)
    assert "to rebuild the stream state" in caplog.text
    assert torch.equal(torch.get_rng_state(), before) and not resumed.training
    # Four segments of four tokens fill a memory of six twice over; with one segment there is nothing before it.
    assert [training for training, _ in resumed.calls] == [True] * min(stop, 4)
    expected, found = (model.stream_states.export("train") for model in (stopped, resumed))
    assert found["key"] == expected["key"] == ("train", 1, stop)
    assert torch.equal(found["state"][0]["memory"], expected["state"][0]["memory"])
    torch.testing.assert_close(found["state"][0]["c"], expected["state"][0]["c"], rtol=0.1, atol=0)
    train(resumed, batches.next_epoch_itr(), start=stop)


def test_a_kill_between_state_and_checkpoint_goes_back_to_the_checkpoint_before(tmp_path):
    whole, killed, resumed = Reader(), Reader(), Reader()
    train(whole, iterator(whole).next_epoch_itr(), updates=3)
    batches = iterator(killed)
    running = batches.next_epoch_itr()
    train(killed, running, updates=2)
    saved = write_checkpoint(tmp_path, batches, 2)
    train(killed, running, start=2, updates=2)
    batches.before_save(str(tmp_path), 4)

    batches = iterator(resumed)
    batches.load_state_dict(saved)
    train(resumed, batches.next_epoch_itr(), start=2, updates=1)
    same_state(resumed, whole)
    write_checkpoint(tmp_path, batches, 3)
    assert sorted(os.listdir(tmp_path / "stream_states")) == ["update2.rank0.pt", "update3.rank0.pt"]


def test_state_files_go_with_their_checkpoints(tmp_path):
    models = [Reader(), Reader()]
    ranks = [iterator(model, rank, 2) for rank, model in enumerate(models)]
    running = [batches.next_epoch_itr() for batches in ranks]
    for update in (1, 2, 3):
        for model, batches in zip(models, running):
            train(model, batches, start=update - 1, updates=1)
        for batches in reversed(ranks):
            batches.before_save(str(tmp_path), update)
        state = {"extra_state": {"train_iterator": ranks[0].state_dict()}}
        torch.save(state, tmp_path / f"checkpoint_{update}.pt")
        if update == 3:
            (tmp_path / "checkpoint_1.pt").unlink()
        ranks[0].after_save(str(tmp_path))
    left = sorted(os.listdir(tmp_path / "stream_states"))
    assert left == [f"update{update}.rank{rank}.pt" for update in (2, 3) for rank in (0, 1)]


def test_a_state_file_holds_the_state_and_not_what_it_was_cut_from(tmp_path):
    model = Reader()
    batches = iterator(model)
    train(model, batches.next_epoch_itr(), updates=1)
    long = torch.zeros(100_000, ROWS, 1, dtype=torch.double)
    model.stream_states.keep(("train", 1, 1), [LayerState(None, long[-MEMORY:])])
    batches.before_save(str(tmp_path), 1)
    assert os.path.getsize(tmp_path / "stream_states" / "update1.rank0.pt") < 20_000


def test_a_model_without_stream_states_saves_and_resumes(tmp_path):
    batches = iterator(BagReader())
    running = batches.next_epoch_itr()
    expected = list(running)
    running = batches.next_epoch_itr()
    next(running), next(running)
    saved = write_checkpoint(tmp_path, batches, 9)
    assert not (tmp_path / "stream_states").exists()
    batches = iterator(BagReader())
    batches.load_state_dict(saved)
    for found, batch in zip(batches.next_epoch_itr(), expected[2:]):
        assert torch.equal(found["target"], batch["target"])
