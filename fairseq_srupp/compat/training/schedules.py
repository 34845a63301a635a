"""What goes by epochs, updates and validation goes on as it was: learning rate, early stopping, loss scale.

When fairseq (0.12) resumes a run,
- a scheduler gets the state of another one, if `--lr-scheduler` was changed: KeyError 'best'. The state is left out
  with a warning, as under `--reset-lr-scheduler`;
- one that follows validation (reduce_lr_on_plateau) has not seen the loss of the epoch at whose end the checkpoint was
  saved, and has forgotten how many epochs brought nothing (`--lr-patience`); polynomial_decay with `--force-anneal`
  takes the rate of the moment for that of the epoch's beginning;
- `--patience` counts from 0;
- `--fp16` and `--amp` start with their first loss scale, or with a new count of updates until it grows; and the
  optimizer under them gets the state of another one, if `--optimizer` was changed (without them fairseq refuses).
May go, part by part, as fairseq learns these.
"""

import inspect
import logging

import torch

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.patch import wrap, wrap_command

logger = logging.getLogger(__name__)

_SCALER = ("_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")


def _of_this_kind(scheduler, name: str) -> None:
    """Has `scheduler` name its kind in its state, and take the state of its own kind only."""
    state_dict, load_state_dict = scheduler.state_dict, scheduler.load_state_dict

    def load(state):
        state = dict(state)
        saved = state.pop("scheduler", None)
        try:
            if saved in (None, name):  # None: fairseq's own checkpoints do not tell
                return load_state_dict(state)
        except (AttributeError, KeyError, TypeError):
            pass
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            logger.warning(
                f"the checkpoint is of a run with --lr-scheduler {saved or 'of another kind'}: {name} goes on at its "
                "update, without its state, as with --reset-lr-scheduler"
            )

    scheduler.state_dict, scheduler.load_state_dict = lambda: {**state_dict(), "scheduler": name}, load


def _learning_rates() -> None:
    from fairseq.optim import lr_scheduler
    from fairseq.optim.lr_scheduler.polynomial_decay_schedule import PolynomialDecayLRSchedule
    from fairseq.optim.lr_scheduler.reduce_lr_on_plateau import ReduceLROnPlateauLRSchedule
    from fairseq.trainer import Trainer

    @wrap(lr_scheduler, "build_lr_scheduler")
    def build_lr_scheduler(original, cfg, optimizer):
        scheduler = original(cfg, optimizer)
        names = {kind: name for name, kind in lr_scheduler.LR_SCHEDULER_REGISTRY.items()}
        _of_this_kind(scheduler, names.get(type(scheduler), type(scheduler).__name__))
        return scheduler

    @wrap(ReduceLROnPlateauLRSchedule, "state_dict")
    def plateau_state(original, self):
        return {**original(self), "num_bad_epochs": self.lr_scheduler.num_bad_epochs}

    @wrap(ReduceLROnPlateauLRSchedule, "load_state_dict")
    def load_plateau_state(original, self, state_dict):
        original(self, state_dict)
        self.lr_scheduler.num_bad_epochs = state_dict.get("num_bad_epochs", 0)

    @wrap(PolynomialDecayLRSchedule, "state_dict")
    def polynomial_state(original, self):
        return {**original(self), "annealed": getattr(self, "annealed", None)}

    @wrap(PolynomialDecayLRSchedule, "load_state_dict")
    def load_polynomial_state(original, self, state_dict):
        original(self, state_dict)
        self.annealed = state_dict.get("annealed")

    @wrap(PolynomialDecayLRSchedule, "get_next_lr")
    def polynomial_next(original, self, epoch):
        if getattr(self, "annealed", None) is None or self.annealed[0] != epoch:
            self.annealed = (epoch, original(self, epoch))
        return self.annealed[1]

    @wrap(Trainer, "load_checkpoint")
    def load_checkpoint(original, self, filename, reset_optimizer=False, reset_lr_scheduler=False, *args, **kwargs):
        extra_state = original(self, filename, reset_optimizer, reset_lr_scheduler, *args, **kwargs)
        if extra_state is not None and not reset_optimizer and not reset_lr_scheduler:
            position, loss = extra_state.get("train_iterator") or {}, extra_state.get("val_loss")
            if position.get("iterations_in_epoch") == 0 and loss is not None:
                self.lr_step(position["epoch"] - 1, loss)  # an epoch's checkpoint is saved before this
        return extra_state


def _early_stopping() -> None:
    from fairseq.trainer import Trainer

    counted, restored = [], {}

    @wrap_command("train", "should_stop_early")
    def should_stop_early(original, *args):
        # the function keeps its count in attributes of what stands under its name
        counter = inspect.unwrap(original).__globals__["should_stop_early"]
        counted[:] = [counter]
        vars(counter).update(restored)
        restored.clear()
        return original(*args)

    @wrap(Trainer, "save_checkpoint")
    def save_checkpoint(original, self, filename, extra_state):
        attributes = vars(counted[0]) if counted else {}
        count = {name: attributes[name] for name in ("best", "num_runs") if name in attributes}
        return original(self, filename, {**extra_state, "early_stopping": count})

    @wrap(Trainer, "load_checkpoint")
    def load_checkpoint(original, self, filename, *args, **kwargs):
        extra_state = original(self, filename, *args, **kwargs)
        if self.cfg.checkpoint.get("patience", -1) > 0 and extra_state is not None:
            restored.update(extra_state.get("early_stopping", {}))
        return extra_state


def _half_precision() -> None:
    from fairseq.optim import amp_optimizer, fp16_optimizer

    def inner(optimizer):
        name = "wrapped_optimizer" if hasattr(optimizer, "wrapped_optimizer") else "fp32_optimizer"
        return type(getattr(optimizer, name)).__name__

    def scaler_state(scaler):
        if isinstance(scaler, torch.amp.GradScaler):
            return scaler.state_dict()
        return {name: getattr(scaler, name) for name in _SCALER if hasattr(scaler, name)}

    def restore_scaler(scaler, state):
        if isinstance(scaler, torch.amp.GradScaler):
            if state and scaler.is_enabled():
                scaler.load_state_dict(state)
        elif scaler is not None:
            vars(scaler).update({name: state[name] for name in _SCALER if name in state})

    def state_dict(original, self):
        return {**original(self), "inner_optimizer": inner(self), "scaler": scaler_state(self.scaler)}

    def load_state_dict(original, self, state_dict, optimizer_overrides=None):
        state_dict = dict(state_dict)
        saved, scaler = state_dict.pop("inner_optimizer", None), state_dict.pop("scaler", {})
        if saved not in (None, inner(self)):
            raise UserError(f"the checkpoint's optimizer is {saved}, this run's {inner(self)}: give --reset-optimizer")
        restore_scaler(self.scaler, scaler)
        original(self, state_dict, optimizer_overrides)

    for owner in (
        fp16_optimizer._FP16OptimizerMixin,
        fp16_optimizer._MemoryEfficientFP16OptimizerMixin,
        amp_optimizer.AMPOptimizer,
    ):
        wrap(owner, "state_dict")(state_dict)
        wrap(owner, "load_state_dict")(load_state_dict)


def apply() -> None:
    _learning_rates()
    _early_stopping()
    _half_precision()
