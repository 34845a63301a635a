"""Repairs of fairseq 0.12 on current torch, numpy and Python; a file a subject, with its reason and its end.

fairseq is repaired where it stands, in memory, when `--user-dir` imports the plugin: `models/__init__.py` and
`tasks/__init__.py` call `apply()`. Importing this package imports neither fairseq nor torch.
"""

_applied = False


def apply() -> None:
    """Repairs fairseq in this process. Later calls change nothing."""
    global _applied
    if _applied:
        return
    _applied = True  # before the work: a repair may import what calls this again

    from fairseq_srupp.compat import (
        adaptive_loss,
        batching,
        beam_groups,
        command_line,
        devices,
        divergence,
        evaluation,
        host_copies,
        ignored_options,
        inputs,
        noise,
        numpy2,
        output_dictionary,
        processes,
        resuming,
        saving,
        unknown_words,
        user_dir,
        validation,
        weights_only,
    )

    for repair in (
        noise,
        numpy2,
        batching,
        beam_groups,
        adaptive_loss,
        weights_only,
        command_line,
        devices,
        divergence,
        evaluation,
        host_copies,
        ignored_options,
        inputs,
        output_dictionary,
        processes,
        saving,
        resuming,
        unknown_words,
        user_dir,
        validation,
    ):
        repair.apply()
