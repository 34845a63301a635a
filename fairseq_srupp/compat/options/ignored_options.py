"""Options that a command of fairseq accepts are followed, or refused.

fairseq's commands (0.12) share one list of options and say nothing of those that they do not read. `--num-shards` and
`--shard-id` are read by fairseq-eval-lm alone: each shard of fairseq-generate translates everything. It follows them
here; the other options that would change a result, or write a file, end in one line where they are not followed. So do those
of `--eval-bleu-args`. May go when each command takes its own options alone.
"""

import json
import logging
from typing import Any, Callable, Dict, Tuple

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.patch import wrap, wrap_command

logger = logging.getLogger(__name__)

_NOT_IN_VALIDATION = {"constraints", "lm_path", "lm_weight", "nbest", "prefix_size", "replace_unk", "score_reference"}

_timers = []  # that of fairseq-generate, which starts with the first batch

# Group and name in the configuration: its value if it was not given, and what it is for.
_SHARDS = {("dataset", "num_shards"): (1, "is for fairseq-generate and fairseq-eval-lm")}
_RESULTS = {("common_eval", "results_path"): (None, "is for fairseq-generate; redirect the output to a file")}
_VALID = {("dataset", "valid_subset"): ("valid", "is for fairseq-validate; give --gen-subset")}
_NOT_FOLLOWED: Dict[str, Dict[Tuple[str, str], Tuple[Any, str]]] = {
    "train": _SHARDS,
    "validate": {
        **_SHARDS,
        **_RESULTS,
        ("dataset", "gen_subset"): ("test", "is for fairseq-generate and fairseq-eval-lm; give --valid-subset"),
        ("dataset", "max_valid_steps"): (None, "is for fairseq-train"),
        ("common", "bf16"): (False, "is for fairseq-train, -generate, -interactive and -eval-lm"),
    },
    "eval_lm": {**_RESULTS, **_VALID},
    "generate": _VALID,
    "interactive": {
        **_SHARDS,
        **_RESULTS,
        ("generation", "lm_path"): (None, "is for fairseq-generate"),
        ("generation", "prefix_size"): (0, "is for fairseq-generate, whose data have targets"),
        ("generation", "score_reference"): (False, "is for fairseq-generate, whose data have targets"),
    },
}


def _value(cfg: Any, group: str, name: str, default: Any) -> Any:
    return getattr(getattr(cfg, group, cfg), name, default)  # a flat Namespace has no groups


def check(command: str, cfg: Any) -> None:
    """Raises: UserError for an option that fairseq-`command` accepts and does not follow, or impossible shards."""
    for (group, name), (default, purpose) in _NOT_FOLLOWED[command].items():
        value = _value(cfg, group, name, default)
        if value != default:
            option = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            raise UserError(f"fairseq-{command.replace('_', '-')} does not follow {option}, which {purpose}")
    shards, shard = (_value(cfg, "dataset", *option) for option in (("num_shards", 1), ("shard_id", 0)))
    if not 0 <= shard < shards:
        raise UserError(f"--shard-id {shard}: expected a number from 0 to below --num-shards, {shards}")


def _checked(command: str) -> Callable:
    def main(original, cfg, *args, **kwargs):
        check(command, cfg)
        return original(cfg, *args, **kwargs)

    return main


def check_bleu_options(cfg: Any) -> None:
    """Raises: UserError for options in --eval-bleu-args, JSON already, that nothing follows there."""
    unfollowed = sorted(_NOT_IN_VALIDATION.intersection(json.loads(cfg.eval_bleu_args or "{}")))
    if unfollowed:
        raise UserError(f"--eval-bleu-args {cfg.eval_bleu_args}: validation does not follow {', '.join(unfollowed)}")


def _sharded(original, cfg, output_file):
    """fairseq-generate takes the numbers of processes for those of shards; it starts none."""
    training = cfg.distributed_training
    training.distributed_world_size = max(cfg.dataset.num_shards, training.distributed_world_size)
    training.distributed_rank = max(cfg.dataset.shard_id, training.distributed_rank)
    if training.distributed_world_size > 1:
        logger.info(f"shard {training.distributed_rank} of {training.distributed_world_size}, counted from 0")
    try:
        return original(cfg, output_file)
    except ZeroDivisionError as error:
        if _timers[-1].start_time is not None:
            raise
        raise UserError(
            f"nothing to translate: shard {training.distributed_rank} of {training.distributed_world_size} of "
            f"--gen-subset {cfg.dataset.gen_subset} has no batch; smaller ones make more (--batch-size, --max-tokens)"
        ) from error


def _timer(original):
    _timers[:] = [original()]
    return _timers[0]


def apply() -> None:
    from fairseq.tasks.translation import TranslationTask

    @wrap(TranslationTask, "build_model")
    def build_model(original, self, cfg, *args, **kwargs):
        if self.cfg.eval_bleu:
            check_bleu_options(self.cfg)
        return original(self, cfg, *args, **kwargs)

    for command in _NOT_FOLLOWED:
        wrap_command(command, "main")(_checked(command))
    wrap_command("generate", "_main")(_sharded)
    wrap_command("generate", "StopwatchMeter")(_timer)
