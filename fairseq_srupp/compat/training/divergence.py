"""Training that diverges ends in one line: what became NaN or infinite, in which update, and what helps.

fairseq (0.12) runs such an update again with hooks on every module, to log where it began. torch's hooks of that kind
fail, with a StopIteration, in all modules that return a dictionary without a tensor as a value, as the encoders of all
translation models do; where they work, all gradients are printed. What was to be found out is found out here. May go
when fairseq's NanDetector can watch its own encoders.
"""

import contextlib
import logging
from typing import Any, Iterator, List, Optional

import torch
from torch import Tensor

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.patch import wrap

logger = logging.getLogger(__name__)


def _not_finite(value: Any) -> Optional[str]:
    """What a floating-point tensor somewhere in `value` is, "NaN" or "infinite"; None where all are finite."""
    if isinstance(value, Tensor):
        if not value.is_floating_point() or value.isfinite().all():
            return None
        return "NaN" if value.isnan().any() else "infinite"
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return None
    return next(filter(None, map(_not_finite, value)), None)


def _listed(names: List[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} others"


@contextlib.contextmanager
def _watched(model: torch.nn.Module) -> Iterator[List[str]]:
    """Within the block, the list gets the first module whose output is not finite."""
    found: List[str] = []

    def watch(name: str):
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            kind = None if found else _not_finite(output)
            if kind:
                found.append(f"the output of {name} became {kind}")

        return hook

    hooks = [module.register_forward_hook(watch(name or "the model")) for name, module in model.named_modules()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _cause(trainer: Any, samples: List[Any]) -> Optional[str]:
    """What is not finite in an update, which is run once more with the same random numbers; None if all is."""
    model = trainer.get_model()
    weights = [(name, _not_finite(weight.data)) for name, weight in model.named_parameters()]
    weights = [(name, kind) for name, kind in weights if kind]
    if weights:
        return f"the update before left weights {weights[0][1]}, {_listed([name for name, _ in weights])}"
    trainer._set_seed()
    trainer.zero_grad()
    with _watched(model) as found:
        for sample in samples:
            sample, _ = trainer._prepare_sample(sample)
            updates = trainer.get_num_updates()
            trainer.task.train_step(sample, trainer.model, trainer.criterion, trainer.optimizer, updates)
    if found:
        return found[0]
    kinds = {name: _not_finite(weight.grad) for name, weight in model.named_parameters()}
    names = [name for name, kind in kinds.items() if kind]
    return f"the gradient of {_listed(names)} became {kinds[names[0]]}" if names else None


def _told(trainer: Any, samples: List[Any], error: FloatingPointError) -> str:
    try:
        cause = _cause(trainer, samples)
    except Exception as other:  # fails for a reason of its own
        logger.warning(f"what diverged could not be found out: {type(other).__name__}: {other}")
        cause = None
    common, text = trainer.cfg.common, str(error).splitlines()[0]
    if "Minimum loss scale" in text:
        text = f"the loss scale reached its minimum, --min-loss-scale {common.min_loss_scale:g}"
        cause = f"{text}, as {cause}" if cause else text
    helps = f"a smaller --lr (now {trainer.get_lr():g}), more --warmup-updates"
    clip = trainer.cfg.optimization.clip_norm
    helps += f" or a smaller --clip-norm (now {clip:g})" if clip else " or --clip-norm"
    if common.fp16 or common.amp:
        helps += ", or --bf16 or full precision in place of " + ("--fp16" if common.fp16 else "--amp")
    elif common.bf16:
        helps += ", or full precision in place of --bf16"
    return f"training diverged in update {trainer.get_num_updates() + 1}: {cause or text}; what helps: {helps}"


def apply() -> None:
    from fairseq import trainer
    from fairseq.trainer import Trainer

    @wrap(trainer, "NanDetector")
    def nan_detector(original, model):
        return contextlib.nullcontext()

    @wrap(Trainer, "train_step")
    def train_step(original, self, samples, *args, **kwargs):
        try:
            return original(self, samples, *args, **kwargs)
        except FloatingPointError as error:
            raise UserError(_told(self, samples, error)) from error
