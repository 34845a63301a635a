"""Optimizers."""

from .radam import FairseqRAdam

__all__ = ["FairseqRAdam"]
