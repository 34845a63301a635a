"""Checkpoints load with torch's protection on; one that tries to run code is refused and its code does not
run."""

import argparse
import copy

import numpy
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from omegaconf import OmegaConf

from fairseq_srupp.compat import weights_only
from fairseq_srupp.compat.errors import UserError


@pytest.fixture(autouse=True)
def repaired(fairseq_cli):
    pass


def what_fairseq_saves():
    """The kinds of values, other than tensors, that fairseq-train writes: see weights_only.py."""
    return {
        "namespace": argparse.Namespace(arch="transformer", lr=[0.1], other=None),
        "config": OmegaConf.create({"a": 1, "b": [1.5, "x", None, True], "c": {"d": "${a}"}}),
        "objects": OmegaConf.create({"model": argparse.Namespace(x=1)}, flags={"allow_objects": True}),
        "numbers": [numpy.float64(0.5), numpy.float32(0.25), numpy.int64(3), numpy.bool_(True)],
        "counts": numpy.array([3, 2, 1]),
        "totals": numpy.array([0.5]),
        "placeholder": distributed_utils._TensorPlaceholder(index=2),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_fairseq_saves_is_loaded(tmp_path, zipped):
    saved = what_fairseq_saves()
    torch.save(saved, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert str(loaded) == str(saved)
    assert loaded["config"].c.d == 1
    assert loaded["numbers"][0].dtype == numpy.float64


def test_numpy_1_names_are_understood(tmp_path):
    torch.save([numpy.float64(0.5)], tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    old = (tmp_path / "x.pt").read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "old.pt").write_bytes(old)
    assert torch.load(tmp_path / "old.pt", weights_only=True) == [0.5]


def test_code_is_refused_by_name_and_not_run(evil):
    for loader in (checkpoint_utils.load_checkpoint_to_cpu, weights_only.load):
        with pytest.raises(UserError, match=rf"{evil.path}.*\bexec\b.*nothing of it was executed"):
            loader(str(evil.path))
    assert not evil.harm.exists()


def test_training_and_evaluation_refuse_code(evil, text, tmp_path, fairseq_cli):
    with pytest.raises(UserError, match="exec"):
        fairseq_cli("train", text.train, "--save-dir", tmp_path / "run", "--restore-file", evil.path)
    with pytest.raises(UserError, match="exec"):
        fairseq_cli("eval-lm", text.data, "--cpu --gen-subset valid --path", evil.path)
    with pytest.raises(UserError, match="exec"):
        fairseq_cli(
            "generate", text.data, "--task language_modeling --cpu --gen-subset valid --path", evil.path
        )
    assert not evil.harm.exists()


@pytest.mark.parametrize("name", ["cut", "empty", "text", "other"])
def test_what_is_no_checkpoint_is_told_in_one_line(name, trained, tmp_path):
    whole = (trained / "checkpoint_last.pt").read_bytes()
    path = tmp_path / f"{name}.pt"
    path.write_bytes(
        {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"plain text\n" * 9, "other": whole}[name]
    )
    if name == "other":
        torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(UserError) as error:
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_state_survives_the_broadcast_to_other_ranks(trained):
    """What fairseq's broadcast_object does on resume, without the network."""
    import io

    state = checkpoint_utils.load_checkpoint_to_cpu(str(trained / "checkpoint_last.pt"))
    tensors = []
    without = distributed_utils._split_tensors_from_obj(copy.deepcopy(state), tensors)
    buffer = io.BytesIO()
    torch.save(without, buffer)
    buffer.seek(0)
    received = distributed_utils._put_tensors_in_obj(torch.load(buffer, map_location="cpu"), tensors)
    assert received["cfg"] == state["cfg"]
    assert received["model"].keys() == state["model"].keys()
