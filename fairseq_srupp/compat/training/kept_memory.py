"""Training on the CPU keeps its memory (ops/memory.py). May go with that."""

from fairseq_srupp.compat.options.devices import on_cpu
from fairseq_srupp.compat.patch import wrap
from fairseq_srupp.ops import memory


def apply() -> None:
    from fairseq.trainer import Trainer

    @wrap(Trainer, "__init__")
    def init(original, self, cfg, *args, **kwargs):
        if hasattr(cfg, "common") and on_cpu(cfg):
            memory.keep()
        original(self, cfg, *args, **kwargs)
