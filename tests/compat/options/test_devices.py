"""What needs a device that is not there is refused in one line, before anything is trained."""

import pytest
import torch
from omegaconf import OmegaConf

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.options import devices


def config(**changes):
    common = {
        "cpu": True,
        "tpu": False,
        "fp16": False,
        "memory_efficient_fp16": False,
        "amp": False,
        "bf16": False,
    }
    training = {"distributed_world_size": 1, "distributed_backend": "nccl"}
    for name, value in changes.items():
        (common if name in common else training)[name] = value
    return OmegaConf.create({"common": common, "distributed_training": training})


@pytest.mark.parametrize("option", ["fp16", "memory_efficient_fp16", "amp"])
def test_options_for_gpus(option):
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} needs a GPU, but --cpu was given"):
        devices.check(config(**{option: True}))


def test_a_machine_without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="sees none on this machine"):
        devices.check(config(cpu=False, amp=True))


def test_a_machine_with_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    devices.check(config(cpu=False, fp16=True, distributed_world_size=8))


def test_nccl_without_gpus():
    devices.check(config())
    devices.check(config(distributed_world_size=2, distributed_backend="gloo"))
    with pytest.raises(UserError, match="--distributed-backend gloo"):
        devices.check(config(distributed_world_size=2))


def test_tpu_without_torch_xla():
    with pytest.raises(UserError, match="torch_xla"):
        devices.check(config(tpu=True))


def test_bf16_is_for_every_device():
    devices.check(config(bf16=True))


def test_the_trainer_checks_too(text, tmp_path, fairseq_cli, monkeypatch):
    """fairseq-hydra-train meets the plugin only after the processes are started, past call_main."""
    from fairseq.distributed import utils as distributed_utils

    monkeypatch.setattr(distributed_utils, "call_main", lambda cfg, main, **kwargs: main(cfg, **kwargs))
    with pytest.raises(UserError, match="--fp16 needs a GPU"):
        fairseq_cli("train", text.train, "--fp16 --save-dir", tmp_path)
