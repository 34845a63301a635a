"""Which states are kept, and for how long."""

import pytest
import torch

from fairseq_srupp.models.stream_states import StreamStates
from fairseq_srupp.modules import LayerState


def state(value):
    return [LayerState(torch.full((2, 3), float(value)), torch.full((4, 2, 3), float(value)))]


def run(states, split, epoch, segment, training=True):
    """What a forward pass of the model does."""
    entry = states.entry((split, epoch, segment), training=training)
    states.keep((split, epoch, segment + 1), state(100 * epoch + segment + 1))
    return None if entry is None else entry[0].c[0, 0].item()


def test_segment_0_starts_from_zero_and_any_other_missing_state_is_an_error():
    states = StreamStates()
    assert run(states, "train", 1, 0) is None
    assert run(states, "train", 1, 1) == 101
    for missing in (("train", 1, 5), ("train", 2, 1), ("valid", 1, 1)):
        with pytest.raises(KeyError, match="segment"):
            states.entry(missing, training=True)


def test_entry_states_of_an_update_stay_until_it_is_over():
    states = StreamStates()
    states.set_num_updates(0)
    assert [run(states, "train", 1, s) for s in (0, 1, 2)] == [None, 101, 102]
    states.set_num_updates(0)
    assert [run(states, "train", 1, s) for s in (0, 1, 2)] == [None, 101, 102], "a retry replays the whole update"
    states.set_num_updates(1)
    states.set_num_updates(1)
    assert run(states, "train", 1, 3) == 103
    states.set_num_updates(1)
    assert run(states, "train", 1, 4) == 104
    assert [run(states, "train", 1, s) for s in (3, 4)] == [103, 104]
    with pytest.raises(KeyError):
        states.entry(("train", 1, 2), training=True)
    assert len(states._states["train"]) == 3


def test_validation_leaves_training_alone_and_keeps_one_segment():
    states = StreamStates()
    run(states, "train", 1, 0), run(states, "train", 1, 1)
    for _ in range(2):
        for segment in range(20):
            assert run(states, "valid", 1, segment, training=False) == (100 + segment if segment else None)
            assert run(states, "valid", 1, segment, training=False) == (100 + segment if segment else None)
            assert len(states._states["valid"]) <= 2
    assert run(states, "train", 1, 2) == 102


def test_a_new_epoch_starts_from_zero_and_drops_the_old_one():
    states = StreamStates()
    for update, (epoch, segment) in enumerate([(1, 0), (1, 1), (2, 0), (2, 1)]):
        states.set_num_updates(update)
        assert run(states, "train", epoch, segment) == (None if segment == 0 else 100 * epoch + segment)
    assert all(epoch == 2 for epoch, _ in states._states["train"])


def test_export_and_restore():
    states, other = StreamStates(), StreamStates()
    assert states.export("train") is None
    run(states, "train", 3, 0), run(states, "train", 3, 1)
    exported = states.export("train")
    assert exported["key"] == ("train", 3, 2)
    other.restore(exported)
    assert run(other, "train", 3, 2) == 302
