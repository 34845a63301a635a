"""Several processes on the CPU: how they start, how they talk, and that they compute what one computes."""

import os
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.user_dir import PACKAGE_DIR


@pytest.fixture
def distributed(fairseq_cli, monkeypatch):
    """fairseq.distributed.utils, not under a launcher."""
    from fairseq.distributed import utils

    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return utils


def config(**changes):
    training = {
        "distributed_world_size": 1,
        "distributed_rank": 0,
        "distributed_backend": "gloo",
        "distributed_init_method": None,
        "distributed_port": -1,
        "device_id": 0,
        "distributed_no_spawn": False,
        "pipeline_model_parallel": False,
        "tpu": False,
        "nprocs_per_node": 1,
    }
    return OmegaConf.create(
        {
            "common": {"cpu": True, "tpu": False, "model_parallel_size": 1},
            "distributed_training": {**training, **changes},
        }
    )


def test_one_process_is_this_one(distributed):
    seen = []
    distributed.call_main(config(), seen.append)
    assert len(seen) == 1 and seen[0].distributed_training.distributed_init_method is None


def test_a_launcher_is_noticed(distributed, monkeypatch):
    """At the default world size of 1 too, and without a GPU to divide by."""
    launched = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": "4", "RANK": "3"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    seen = []
    monkeypatch.setattr(distributed, "distributed_main", lambda index, main, cfg, kwargs: seen.append((index, cfg)))
    distributed.call_main(config(), print)
    ((index, cfg),) = seen
    training = cfg.distributed_training
    assert (index, training.distributed_rank, training.distributed_world_size) == (0, 3, 4)
    assert training.distributed_init_method == "env://"


def test_processes_are_spawned_without_a_gpu(distributed, monkeypatch):
    seen = {}
    monkeypatch.setattr(torch.multiprocessing, "spawn", lambda **arguments: seen.update(arguments))
    distributed.call_main(config(distributed_world_size=3), print)
    assert seen["nprocs"] == 3
    assert seen["args"][1].distributed_training.distributed_init_method.startswith("tcp://localhost:")


def test_a_mistake_is_told_once(distributed, tmp_path, monkeypatch, capfd):
    (tmp_path / "mistaken.py").write_text(
        "from fairseq_srupp.compat.errors import UserError\ndef main(cfg):\n    raise UserError('rows do not divide')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import mistaken

    with pytest.raises(UserError, match="^fairseq_srupp: rows do not divide$"):
        distributed.call_main(config(distributed_world_size=2), mistaken.main)
    assert "rows do not divide" not in capfd.readouterr().err  # the parent's exception is what is printed


def test_other_errors_of_a_process_keep_their_traceback(distributed, monkeypatch):
    def spawn(**arguments):
        raise torch.multiprocessing.ProcessRaisedException("-- Process 0 ...\nZeroDivisionError: a fault", 0, 1)

    monkeypatch.setattr(torch.multiprocessing, "spawn", spawn)
    with pytest.raises(torch.multiprocessing.ProcessRaisedException):
        distributed.call_main(config(distributed_world_size=2), print)


@pytest.fixture
def alone(distributed, tmp_path):
    """A gloo group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield distributed
    torch.distributed.destroy_process_group()
    vars(distributed.get_global_group).pop("_global_group", None)


def test_objects_are_gathered_without_cuda(alone):
    big = {"text": "x" * 100_000, "tensor": torch.ones(2)}  # fairseq's limit is 16 KiB; gloo needs none
    (gathered,) = alone.all_gather_list(big)
    assert gathered["text"] == big["text"] and torch.equal(gathered["tensor"], torch.ones(2))


def test_data_parallel_models_on_the_cpu(alone):
    from fairseq.dataclass.configs import DistributedTrainingConfig
    from fairseq.models import DistributedFairseqModel

    options = OmegaConf.create({**vars(DistributedTrainingConfig()), "tpu": False})
    assert options.ddp_backend == "pytorch_ddp"
    model = DistributedFairseqModel(options, torch.nn.Linear(2, 2), alone.get_global_group(), torch.device("cpu"))
    model(torch.ones(1, 2)).sum().backward()


def run(*words, **environment):
    words = " ".join(map(str, words)).split()
    done = subprocess.run(
        [sys.executable, *words],
        text=True,
        capture_output=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.path.dirname(PACKAGE_DIR), **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def assert_same_model(folder, other):
    model, same = (torch.load(path / "checkpoint_last.pt", weights_only=True)["model"] for path in (folder, other))
    assert model.keys() == same.keys()
    for name, tensor in model.items():
        torch.testing.assert_close(tensor, same[name], rtol=1e-4, atol=1e-5, msg=name)


def test_two_processes_compute_what_one_computes(distributed, text, tmp_path, fairseq_cli):
    """First under torchrun, then spawned, going on from a checkpoint that rank 0 broadcasts."""
    one, two = tmp_path / "one", tmp_path / "two"
    # Not Adam, which makes whole steps of what rounding leaves where a gradient is 0.
    train = f"{text.train} --optimizer sgd --lr 0.5"
    both = f"{train} --user-dir {PACKAGE_DIR} --distributed-backend gloo --save-dir {two}"
    fairseq_cli("train", train, "--update-freq 2 --max-update 2 --save-dir", one)
    run(
        "-m torch.distributed.run --nproc-per-node 2 --standalone -m fairseq_cli.train",
        both,
        "--ddp-backend legacy_ddp --max-update 2",
    )
    assert_same_model(one, two)
    before = torch.load(two / "checkpoint_last.pt", weights_only=True)["model"]
    fairseq_cli("train", train, "--update-freq 2 --max-update 4 --save-dir", one)
    run("-m fairseq_cli.train", both, "--distributed-world-size 2 --max-update 4")
    assert_same_model(one, two)
    after = torch.load(two / "checkpoint_last.pt", weights_only=True)["model"]
    assert any(not torch.equal(before[name], after[name]) for name in before)
