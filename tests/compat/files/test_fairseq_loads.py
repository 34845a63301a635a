"""Trees of fairseq that ask for `weights_only=False` do not get it."""

import io
import pickle

import pytest
import torch

from fairseq_srupp import compat


def loader(module):
    """A function of a module of this name, which loads as those trees do."""
    names = {"__name__": module, "torch": torch}
    exec("def load(file): return torch.load(file, map_location='cpu', weights_only=False)", names)
    return names["load"]


@pytest.mark.parametrize("module", ["fairseq.checkpoint_utils", "fairseq.distributed.utils", "fairseq_cli.train"])
def test_nothing_is_executed(module, evil):
    compat.apply()
    for file in (evil.path, io.BytesIO(evil.path.read_bytes())):
        with pytest.raises(pickle.UnpicklingError):
            loader(module)(file)
    assert not evil.harm.exists()


def test_checkpoints_are_loaded(trained):
    state = loader("fairseq.checkpoint_utils")(trained / "checkpoint_last.pt")
    assert state["optimizer_history"][-1]["num_updates"] == 4


def test_programs_of_others_load_as_they_ask(evil):
    """The protection is that of fairseq's files; who loads a file of his own decides for himself."""
    compat.apply()
    loader("fairseqlike")(evil.path)
    assert evil.harm.exists()
