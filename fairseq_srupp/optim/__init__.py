"""Optimizers. `radam` registers --optimizer radam with fairseq; the rest needs torch only."""

from .fused_radam import FusedRAdam

__all__ = ["FusedRAdam"]
