"""The SRU++ recurrence as a PyTorch operator. Needs torch only."""

import fairseq_srupp.ops.forking  # noqa: F401  (what it registers)
from fairseq_srupp.ops.backends import backends
from fairseq_srupp.ops.recurrence import sru_recurrence

__all__ = ["backends", "sru_recurrence"]
