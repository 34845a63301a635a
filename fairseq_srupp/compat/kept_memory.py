"""A command that computes on the CPU keeps its memory (ops/memory.py), from before its model is built.

May go with ops/memory.py.
"""

import sys

import torch

from fairseq_srupp.compat.patch import wrap
from fairseq_srupp.ops import memory


def apply() -> None:
    from fairseq import models

    @wrap(models, "build_model")
    def build_model(original, *args, **kwargs):
        if "--cpu" in sys.argv or not torch.cuda.is_available():
            memory.keep()
        return original(*args, **kwargs)
