"""Repairs of fairseq 0.12 on current torch, numpy and Python; a file a subject, with its reason and its end.

fairseq is repaired where it stands, in memory, when `--user-dir` imports the plugin: `models/__init__.py` and
`tasks/__init__.py` call `apply()`. Importing this package imports neither fairseq nor torch.
"""

from fairseq_srupp.compat import family

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

    from fairseq_srupp.compat import (
        adaptive_loss,
        archives,
        batching,
        checkpoint_options,
        command_line,
        devices,
        epoch_batches,
        evaluated_options,
        evaluation,
        fairseq_loads,
        host_copies,
        indexed_data,
        inputs,
        model_overrides,
        noise,
        numpy2,
        option_values,
        processes,
        resuming,
        saving,
        schedules,
        user_dir,
        weights_only,
    )

    for repair in (
        noise,
        numpy2,
        batching,
        adaptive_loss,
        checkpoint_options,
        weights_only,
        evaluated_options,
        option_values,
        model_overrides,
        command_line,
        devices,
        epoch_batches,
        evaluation,
        fairseq_loads,
        host_copies,
        indexed_data,
        inputs,
        processes,
        saving,
        schedules,
        resuming,
        archives,
        user_dir,
    ):
        repair.apply()
