"""Optimizers. `radam` registers --optimizer radam with fairseq, `cosine_annealing` the learning rate of that name; the rest
needs torch only."""

from .fused_radam import FusedRAdam

__all__ = ["FusedRAdam"]
