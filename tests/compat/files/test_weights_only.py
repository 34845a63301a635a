"""Checkpoints load with torch's protection on; one that tries to run code is refused and its code does not
run."""

import argparse
import collections
import copy
import os
import subprocess
import sys

import load_all
import malicious
import numpy
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig, OmegaConf

import fairseq_srupp
from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files import weights_only

ROOT = os.path.dirname(fairseq_srupp.__path__[0])


@pytest.fixture(autouse=True)
def repaired(fairseq_cli):
    pass


def what_fairseq_saves():
    """The kinds of values, other than tensors, that fairseq-train writes: see weights_only.py."""
    return {
        "namespace": argparse.Namespace(arch="transformer", lr=[0.1], other=None),
        "config": OmegaConf.create({"a": 1, "b": [1.5, "x", None, True], "c": {"d": "${a}"}}, flags={"struct": True}),
        "objects": OmegaConf.create({"model": argparse.Namespace(x=1)}, flags={"allow_objects": True}),
        "numbers": [numpy.float64(0.5), numpy.float32(0.25), numpy.int64(3), numpy.bool_(True)],
        "counts": numpy.array([3, 2, 1]),
        "totals": numpy.array([0.5]),
        "table": numpy.arange(6, dtype="f4").reshape(2, 3).T,
        "nothing": numpy.zeros((0, 3)),
        "factory": collections.defaultdict(dict),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_fairseq_saves_is_loaded(tmp_path, zipped):
    saved = what_fairseq_saves()
    torch.save(saved, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert loaded.pop("factory") == saved.pop("factory") == {}
    assert str(loaded) == str(saved)
    assert type(loaded["namespace"]) is argparse.Namespace
    assert type(loaded["objects"]) is DictConfig and type(loaded["objects"].model) is argparse.Namespace
    assert loaded["config"] == saved["config"] and OmegaConf.is_struct(loaded["config"])
    assert loaded["config"].c.d == 1 and loaded["config"].c._get_root() is loaded["config"]
    assert loaded["numbers"][0].dtype == numpy.float64
    assert loaded["table"].dtype == numpy.float32 and numpy.array_equal(loaded["table"], saved["table"])


def test_what_was_loaded_is_saved_as_what_it_was(tmp_path):
    """By pickle's own names: other programs read it, and so does a run that goes on a second time."""
    torch.save(what_fairseq_saves(), tmp_path / "x.pt")
    loaded = weights_only.load(tmp_path / "x.pt")
    for again in (loaded, copy.deepcopy(loaded), {"sum": loaded["counts"] + 1, "view": loaded["table"][1:]}):
        torch.save(again, tmp_path / "again.pt")
        theirs = torch.load(tmp_path / "again.pt", weights_only=False)
        assert str(theirs) == str(weights_only.load(tmp_path / "again.pt")) == str(again)
    assert type(theirs["sum"]) is type(theirs["view"]) is numpy.ndarray


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
        fairseq_cli("generate", text.data, "--task language_modeling --cpu --gen-subset valid --path", evil.path)
    assert not evil.harm.exists()


def outcomes(paths):
    """What loading each of the files says, in a process that may crash."""
    command = [sys.executable, load_all.__file__, *map(str, paths)]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ROOT})
    lines = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (0, ""), f"at {paths[len(lines)]}: {ended.stderr[-500:]}"
    return lines


def test_no_state_and_no_argument_of_a_pickle_does_harm(tmp_path):
    programs = {**dict(malicious.crafted()), **{f"seed {seed}": malicious.mutated(seed) for seed in range(300)}}
    paths = [tmp_path / f"{i}.pt" for i in range(len(programs))]
    for path, program in zip(paths, programs.values()):
        malicious.write(path, program)
    said = dict(zip(programs, outcomes(paths)))
    assert said.keys() == programs.keys()
    assert all(line == "loaded" or line.startswith("fairseq_srupp: ") for line in said.values())
    # What these give is a config of its own, or an empty dict.
    harmless = {"method of a DictConfig", "factory of a defaultdict"}
    assert {name for name, line in said.items() if line == "loaded" and not name.startswith("seed")} == harmless
    assert {line == "loaded" for name, line in said.items() if name.startswith("seed")} == {True, False}


def test_a_config_takes_no_method_from_a_file(tmp_path):
    malicious.write(tmp_path / "x.pt", dict(malicious.crafted())["method of a DictConfig"])
    config = weights_only.load(tmp_path / "x.pt")["model"]
    assert type(config) is DictConfig and vars(config).keys() == vars(OmegaConf.create({})).keys()
    assert config == {}


def test_a_part_of_a_config_keeps_what_it_refers_to(tmp_path):
    """pickle comes to what holds it in the middle of it."""
    whole = OmegaConf.create({"part": {"list": [{"x": "${seed}"}]}, "seed": 5})
    torch.save({"model": {}, "part": whole.part, "deeper": whole.part.list[0]}, tmp_path / "x.pt")
    loaded = weights_only.load(tmp_path / "x.pt")
    assert loaded["part"].list[0].x == loaded["deeper"].x == 5
    assert loaded["part"].list[0]._get_full_key("x") == "part.list[0].x"
    assert loaded["part"].list[0] is loaded["deeper"]


def test_fairseqs_own_loader_refuses_crafted_state(tmp_path):
    malicious.write(tmp_path / "x.pt", dict(malicious.crafted())["array of objects"])
    with pytest.raises(UserError, match="x.pt.*not of plain numbers"):
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "x.pt"))


@pytest.mark.parametrize(
    "tensor, message",
    [
        (torch.zeros(1).expand(10**12), "tensors of 4,000,000,00.,... bytes"),
        (torch.zeros(3).to_sparse(), "without plain data .*sparse"),
        (torch.zeros(3, device="meta"), "without plain data .*meta"),
    ],
    ids=["expanded", "sparse", "meta"],
)
def test_tensors_without_data_are_told_in_one_line(tensor, message, trained, tmp_path):
    state = torch.load(trained / "checkpoint_last.pt", weights_only=True)
    state["last_optimizer_state"] = {"deep": [argparse.Namespace(x=(tensor,))]}
    torch.save(state, tmp_path / "x.pt")
    for loader in (checkpoint_utils.load_checkpoint_to_cpu, weights_only.load):
        with pytest.raises(UserError, match=f"x.pt is no checkpoint: .*{message}"):
            loader(str(tmp_path / "x.pt"))


@pytest.mark.parametrize("container", [lambda x: [x, x], lambda x: {"a": x, "b": x}, lambda x: argparse.Namespace(a=x, b=x)])
def test_few_bytes_that_stand_for_many_values_are_refused(container, trained, tmp_path):
    """Options are copied value by value: it would take all time and memory."""
    state, bomb = torch.load(trained / "checkpoint_last.pt", weights_only=True), 0
    for _ in range(40):
        bomb = container(bomb)
    state["cfg"]["common"]["seed"] = bomb
    torch.save(state, tmp_path / "x.pt")
    for loader in (checkpoint_utils.load_checkpoint_to_cpu, weights_only.load):
        with pytest.raises(UserError, match="x.pt is no checkpoint: it stands for more values"):
            loader(str(tmp_path / "x.pt"))


def test_values_are_counted_where_they_stand():
    shared = [1, 2]
    within = [3]
    within.append(within)
    config = OmegaConf.create({"a": [1, 2]})
    assert weights_only._values([shared, {"x": shared}], 100) == 1 + 3 + (1 + 1 + 3)
    assert weights_only._values(within, 100) == 3
    assert weights_only._values(list(range(1000)), 10) == 11
    assert 3 < weights_only._values(config, 100) < 100


@pytest.mark.parametrize(
    "part, value",
    [
        ("args", "text"),
        ("args", {"data": "."}),
        ("cfg", 7),
        ("cfg", ["common.seed=1"]),
        ("cfg", argparse.Namespace(model=None)),
        ("model", 7),
        ("model", {7: torch.zeros(1)}),
        ("optimizer_history", torch.zeros(1)),
        ("extra_state", "text"),
        ("task_state", [7]),
    ],
)
def test_parts_of_another_kind_are_told_in_one_line(part, value, trained, text, tmp_path):
    state = torch.load(trained / "checkpoint_last.pt", weights_only=True)
    state[part] = value
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(UserError, match=f"x.pt is not a checkpoint of fairseq: its {part}"):
        checkpoint_utils.load_model_ensemble([str(tmp_path / "x.pt")], {"data": str(text.data)})


def test_tied_and_overlapping_tensors_are_plain(tmp_path):
    weight = torch.randn(100, 100)
    saved = {"model": {"a": weight, "b": weight, "rows": weight[10:]}}
    torch.save(saved, tmp_path / "x.pt")
    assert torch.equal(weights_only.load(tmp_path / "x.pt")["model"]["rows"], weight[10:])


@pytest.mark.parametrize("name", ["cut", "empty", "text", "other"])
def test_what_is_no_checkpoint_is_told_in_one_line(name, trained, tmp_path):
    whole = (trained / "checkpoint_last.pt").read_bytes()
    path = tmp_path / f"{name}.pt"
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"plain text\n" * 9, "other": whole}[name])
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
    with torch.serialization.safe_globals([distributed_utils._TensorPlaceholder]):
        received = distributed_utils._put_tensors_in_obj(torch.load(buffer, map_location="cpu"), tensors)
    assert received["cfg"] == state["cfg"]
    assert received["model"].keys() == state["model"].keys()


@pytest.mark.parametrize("name", ["DictConfig that is its own parent", "DictConfig within its own part"])
def test_options_that_hold_themselves_end(name, tmp_path):
    """In a process, which would go round for ever."""
    malicious.write(tmp_path / "x.pt", dict(malicious.crafted())[name], key="cfg")
    code = "import sys\nfrom fairseq_srupp import compat\ncompat.apply()\nfrom fairseq import checkpoint_utils as c\n"
    command = [sys.executable, "-c", code + "c.load_checkpoint_to_cpu(sys.argv[1])", str(tmp_path / "x.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env={**os.environ, "PYTHONPATH": ROOT})
    assert done.returncode == 1 and "x.pt is no checkpoint: it holds an omegaconf container" in done.stderr
