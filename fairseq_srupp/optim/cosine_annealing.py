"""`--lr-scheduler cosine_annealing`: the learning rate of the author's code, a cosine that runs beside the warm-up."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import List

from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer
from fairseq.optim.lr_scheduler import LR_SCHEDULER_REGISTRY, FairseqLRScheduler, register_lr_scheduler
from omegaconf import II

from ..compat.errors import UserError


@dataclass
class CosineAnnealingConfig(FairseqDataclass):
    """Options of --lr-scheduler cosine_annealing."""

    warmup_updates: int = field(default=0, metadata={"help": "W: the rate grows linearly over the first W updates"})
    warmup_from_zero: bool = field(
        default=False,
        metadata={"help": "warm up from 0 to (W - 1) / W of the peak, not from 1 / W to all of it"},
    )
    max_update: int = II("optimization.max_update")
    lr: List[float] = II("optimization.lr")


class CosineAnnealing(FairseqLRScheduler):
    """The learning rate that the training scripts of asappresearch/sru (branch 3.0.0-dev) arrive at.

    They step torch's CosineAnnealingLR, whose period is all T updates (--max-update), from the first update on, and set
    the rate of warm-up updates over it. torch multiplies the rate that it finds by the ratio of two values of the
    cosine, so the curve goes on from where the warm-up ended. After t updates the rate is

        peak (t + 1) / W                                              t < W, the warm-up
        peak (1 + cos(pi t / T)) / (1 + cos(pi (W - 1) / T))          W <= t <= T

    and without a warm-up peak (1 + cos(pi t / T)) / 2. It ends at 0. With --warmup-from-zero, as in the script for
    WikiText-103, the warm-up has t / W, and what follows is (W - 1) / W of the above.

    The rate is a function of the number of updates alone, so a run that is resumed has the same.

    Raises:
        UserError: no --max-update, several rates, or a warm-up that is negative or never leaves 0.
    """

    def __init__(self, cfg: CosineAnnealingConfig, optimizer: FairseqOptimizer):
        super().__init__(cfg, optimizer)
        rates = list(cfg.lr) if isinstance(cfg.lr, Sequence) else [cfg.lr]
        if len(rates) != 1:
            raise UserError(f"--lr-scheduler cosine_annealing needs one --lr, the peak, not {len(rates)}")
        if cfg.max_update < 1:
            raise UserError("--lr-scheduler cosine_annealing needs --max-update, the length of the cosine")
        if cfg.warmup_updates < 0:
            raise UserError(f"--warmup-updates must be at least 0, not {cfg.warmup_updates}")
        if cfg.warmup_from_zero and cfg.warmup_updates == 1:
            raise UserError("--warmup-from-zero needs --warmup-updates of at least 2, or the rate would stay at 0")
        self.peak = rates[0]
        self.step_update(0)

    def rate(self, updates: int) -> float:
        """The learning rate after so many updates."""
        warmup, length = self.cfg.warmup_updates, self.cfg.max_update
        first = 0 if self.cfg.warmup_from_zero else 1  # share of the first of W updates, in units of 1 / W
        if updates < warmup:
            return self.peak * (updates + first) / warmup
        if updates >= length:
            return 0.0
        end = self.peak * (warmup - 1 + first) / warmup if warmup else self.peak
        last = max(0, warmup - 1)  # the last update whose rate was set over the cosine's
        return end * (1 + math.cos(math.pi * updates / length)) / (1 + math.cos(math.pi * last / length))

    def step_update(self, num_updates: int) -> float:
        """Set the rate of the next update, and return it."""
        rate = self.rate(num_updates)
        self.optimizer.set_lr(rate)
        return rate


# fairseq raises if a name is registered twice, as when this file is imported under a second module name.
if "cosine_annealing" not in LR_SCHEDULER_REGISTRY:
    register_lr_scheduler("cosine_annealing", dataclass=CosineAnnealingConfig)(CosineAnnealing)
