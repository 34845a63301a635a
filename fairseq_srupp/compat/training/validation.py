"""What goes wrong in validation costs no work.

fairseq (0.12) validates before it saves. A metric of `--best-checkpoint-metric` that is never logged is a KeyError after
a whole epoch, and whatever else fails there (`--eval-bleu-args`, a batch that does not fit the memory) takes the epoch
with it. Here the names of the metrics are known before training begins, and when validation fails, the checkpoint is
written before the program ends, under its usual names but `checkpoint_best`; training goes on from it as it would have.
May go when fairseq saves first.
"""

import collections
import logging
from typing import Any, Optional, Set

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.patch import wrap, wrap_command

logger = logging.getLogger(__name__)


class _AnyLog(collections.UserDict):
    """A logging output that has every key, so that what may be logged is logged."""

    def __missing__(self, key: str) -> int:
        return 1

    def __contains__(self, key: object) -> bool:
        return True

    def get(self, key: str, default: Any = None) -> int:
        return self[key]


def metrics_of(task: Any, criterion: Any) -> Optional[Set[str]]:
    """The names of all metrics that validation may log; None where that cannot be known before."""
    from fairseq.logging import metrics

    if hasattr(task, "post_validate"):  # may add some
        return None
    with metrics.aggregate(new_root=True) as logged:
        try:
            task.reduce_metrics([_AnyLog()], criterion)
        except Exception:  # expects more than numbers
            return None
    return {"loss", "num_updates", *(name for name in logged if not name.startswith("_"))}


def _check_metric(cfg: Any, task: Any, criterion: Any) -> None:
    metric = cfg.checkpoint.best_checkpoint_metric
    known = None if cfg.dataset.disable_validation else metrics_of(task, criterion)
    if known is not None and metric not in known:
        raise UserError(_no_such_metric(metric, known))


def _no_such_metric(metric: str, known: Set[str]) -> str:
    why = "; bleu needs --eval-bleu" if metric == "bleu" else ""
    why = "; bpc is of data of bytes, one token a byte" if metric == "bpc" else why
    return f"--best-checkpoint-metric {metric}: validation logs {', '.join(sorted(known))}{why}"


def _save_if_it_fails(original, cfg, trainer, task, epoch_itr, subsets):
    from fairseq import checkpoint_utils
    from fairseq.logging import metrics

    try:
        return original(cfg, trainer, task, epoch_itr, subsets)
    except (Exception, UserError) as error:
        if not cfg.checkpoint.no_save:
            reason = (str(error).splitlines() or [""])[0]
            logger.error(f"validation failed ({type(error).__name__}: {reason}); what was trained is saved first")
            checkpoint_utils.save_checkpoint(cfg.checkpoint, trainer, epoch_itr, None, wait=False)
        metric = cfg.checkpoint.best_checkpoint_metric
        if isinstance(error, KeyError) and error.args == (metric,):
            logged = metrics.get_meters("valid") or {}
            raise UserError(_no_such_metric(metric, {name for name in logged if not name.startswith("_")})) from error
        raise


def apply() -> None:
    from fairseq import checkpoint_utils

    wrap_command("train", "validate")(_save_if_it_fails)

    @wrap(checkpoint_utils, "load_checkpoint")
    def load_checkpoint(original, cfg, trainer, **passthrough_args):  # training begins with it
        _check_metric(trainer.cfg, trainer.task, trainer.get_criterion())
        return original(cfg, trainer, **passthrough_args)
