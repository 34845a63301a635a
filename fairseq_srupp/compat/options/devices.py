"""Options that need a device which is not there.

fairseq (0.12) answers `--fp16` on a CPU with an AssertionError of torch's CUDA initialisation, computes in
fp32 under `--amp` without a word, and waits for NCCL or finds no attribute of None. May go when fairseq
checks them itself.
"""

import torch

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.patch import wrap

_NEED_A_GPU = ("memory_efficient_fp16", "fp16", "amp")  # the first implies the second


def on_cpu(cfg) -> bool:
    """Whether the run that `cfg` (a FairseqConfig) describes computes on the CPU."""
    return not cfg.common.tpu and (cfg.common.cpu or not torch.cuda.is_available())


def check(cfg) -> None:
    """Raises: UserError when `cfg` (a FairseqConfig) asks for what this machine, or --cpu, does not allow."""
    from fairseq.distributed import utils as distributed_utils

    if cfg.common.tpu and distributed_utils.xm is None:
        raise UserError("--tpu needs the package torch_xla, which is not installed")
    if not on_cpu(cfg):
        return
    why = "--cpu was given" if cfg.common.cpu else f"torch {torch.__version__} sees none on this machine"
    for name in _NEED_A_GPU:
        if cfg.common.get(name, False):
            raise UserError(f"--{name.replace('_', '-')} needs a GPU, but {why}; leave it out, or use --bf16")
    training = cfg.distributed_training
    if training.distributed_world_size > 1 and training.distributed_backend == "nccl":
        raise UserError(f"--distributed-backend nccl needs GPUs, but {why}; use --distributed-backend gloo")


def apply() -> None:
    from fairseq.trainer import Trainer

    @wrap(Trainer, "__init__")
    def init(original, self, cfg, *args, **kwargs):  # fairseq-hydra-train comes past here only
        if hasattr(cfg, "common"):  # the deprecated flat Namespace is converted by the original
            check(cfg)
        original(self, cfg, *args, **kwargs)
