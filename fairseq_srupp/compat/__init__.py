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
        batching,
        command_line,
        devices,
        evaluation,
        fairseq_loads,
        host_copies,
        inputs,
        noise,
        numpy2,
        processes,
        resuming,
        saving,
        user_dir,
        weights_only,
    )

    for repair in (
        noise,
        numpy2,
        batching,
        adaptive_loss,
        weights_only,
        command_line,
        devices,
        evaluation,
        fairseq_loads,
        host_copies,
        inputs,
        processes,
        saving,
        resuming,
        user_dir,
    ):
        repair.apply()
