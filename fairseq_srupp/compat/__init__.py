"""Repairs of fairseq 0.12 on current torch, numpy and Python; a file a subject, with its reason and its end.

fairseq is repaired where it stands, in memory, when `--user-dir` imports the plugin: `models/__init__.py` and
`tasks/__init__.py` call `apply()`. Importing this package imports neither fairseq nor torch.
"""

import importlib

from fairseq_srupp.compat import family

_REPAIRS = (  # in the order in which they are applied
    "noise",
    "numpy2",
    "training.batching",
    "generation.beam_groups",
    "training.adaptive_loss",
    "files.checkpoint_options",
    "files.weights_only",
    "options.evaluated_options",
    "options.option_values",
    "options.model_overrides",
    "options.command_line",
    "options.devices",
    "training.divergence",
    "training.epoch_batches",
    "files.fairseq_loads",
    "training.host_copies",
    "options.ignored_options",
    "files.indexed_data",
    "inputs",
    "training.kept_memory",
    "options.model_and_task",
    "generation.output_dictionary",
    "training.processes",
    "files.saving",
    "training.schedules",
    "files.resuming",
    "files.archives",
    "generation.unknown_words",
    "user_dir",
    "training.validation",
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
