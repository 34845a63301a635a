"""A stack that is small enough to be compared position by position, and inputs of it, in double precision."""

import torch

from fairseq_srupp.modules import SRUppStack

D, DA = 12, 8
"""Sizes d and d'."""


def stack_of(awake, layers=3, **options):
    torch.manual_seed(1)
    return awake(SRUppStack(D, DA, layers, **options).double()).eval()


def inputs(length, batch=2, size=D, seed=2):
    return torch.randn(length, batch, size, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
