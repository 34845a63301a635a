"""Repairs of fairseq 0.12 on current torch, numpy and Python; a file a subject, with its reason and its end.

fairseq is repaired where it stands, in memory, when `--user-dir` imports the plugin: `models/__init__.py` and
`tasks/__init__.py` call `apply()`. Importing this package imports neither fairseq nor torch.
"""

import importlib

from fairseq_srupp.compat import family

_REPAIRS = (  # in the order in which they are applied
    "noise",
    "numpy2",
    "batching",
    "beam_groups",
    "adaptive_loss",
    "checkpoint_options",
    "weights_only",
    "evaluated_options",
    "option_values",
    "model_overrides",
    "command_line",
    "devices",
    "divergence",
    "epoch_batches",
    "evaluation",
    "fairseq_loads",
    "host_copies",
    "ignored_options",
    "indexed_data",
    "inputs",
    "kept_memory",
    "model_and_task",
    "output_dictionary",
    "processes",
    "saving",
    "schedules",
    "resuming",
    "archives",
    "unknown_words",
    "user_dir",
    "validation",
)
_applied = False


def apply() -> None:
    """Repairs fairseq in this process. Later calls change nothing.

    Raises: UserError where there is no fairseq, or none that the repairs fit (family.py); nothing is touched then.
    """
    global _applied
    if _applied:
        return
    family.require()
    _applied = True  # before the work: a repair may import what calls this again

    repairs = [importlib.import_module(f"{__name__}.{name}") for name in _REPAIRS]
    for repair in repairs:
        repair.apply()
