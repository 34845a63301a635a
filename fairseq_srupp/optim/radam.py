"""`--optimizer radam`: rectified Adam (Liu et al., 2020) with decoupled weight decay (Loshchilov & Hutter, 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import OPTIMIZER_REGISTRY, FairseqOptimizer, register_optimizer
from omegaconf import II

from ..compat.errors import user_errors
from ..compat.options.option_values import betas
from .fused_radam import FusedRAdam


@dataclass
class FairseqRAdamConfig(FairseqDataclass):
    """Options of --optimizer radam, named as those of --optimizer adam."""

    adam_betas: Any = field(default="(0.9, 0.999)", metadata={"help": "decay of the averages of gradient and square"})
    adam_eps: float = field(default=1e-8, metadata={"help": "added to the denominator"})
    weight_decay: float = field(default=0.0, metadata={"help": "decoupled: a step takes this times lr off the weight"})
    lr: List[float] = II("optimization.lr")


class FairseqRAdam(FairseqOptimizer):
    """FusedRAdam, equal to torch's RAdam, for fairseq.

    Steps are rectified from the sixth on at the default betas (rho_t > 5, as in the authors' code; the paper's
    algorithm 2 has rho_t > 4); the ones before are plain momentum steps.

    Raises:
        UserError: betas that are not two numbers in [0, 1), or another option out of range.
    """

    def __init__(self, cfg: FairseqRAdamConfig, params: Iterable[torch.nn.Parameter]):
        super().__init__(cfg)
        with user_errors(ValueError):  # options out of range
            self._optimizer = FusedRAdam(params, **self.optimizer_config)

    @property
    def optimizer_config(self) -> Dict[str, Any]:
        """Arguments of the optimizer that the command line sets, for checkpoints made with others."""
        lr = self.cfg.lr
        return {
            "lr": lr[0] if isinstance(lr, Sequence) else lr,
            "betas": betas(self.cfg.adam_betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }

    @property
    def supports_flat_params(self) -> bool:
        """Every weight is updated by itself, so --fp16 may lay all of them end to end."""
        return True

    @property
    def supports_memory_efficient_fp16(self) -> bool:
        """No: averages are kept in the type of the weights, and squares do not fit in half precision."""
        return False


# fairseq raises if a name is registered twice, as when this file is imported under a second module name.
if "radam" not in OPTIMIZER_REGISTRY:
    register_optimizer("radam", dataclass=FairseqRAdamConfig)(FairseqRAdam)
