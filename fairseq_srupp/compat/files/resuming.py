"""Going on from a checkpoint: from a whole one, by name, and with a clear word when it does not fit.

fairseq (0.12) does not look for another checkpoint where the last one is damaged (whole_checkpoints.py); it
trains from scratch when the file of `--restore-file` does not exist; it answers parameters of another shape
with "Cannot load model parameters"; a run that had made its last update makes one more when it is started again.
And the iterator whose state is restored is not told from which file. May go, part by part, as fairseq learns these.

`epoch_itr.load_state_dict(state)` finds the path of the checkpoint that was loaded in
`state["checkpoint_path"]`.
"""

import logging
import os
import re
from typing import Optional

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files import atomic
from fairseq_srupp.compat.files.whole_checkpoints import LAST, restorable
from fairseq_srupp.compat.patch import wrap, wrap_command

logger = logging.getLogger(__name__)

_SHAPES = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch.Size\(\[(.*?)\]\) from checkpoint, "
    r"the shape in current model is torch.Size\(\[(.*?)\]\)"
)
_KEYS = re.compile(r"(Missing|Unexpected) key\(s\) in state_dict: \"([^\"]+)\"")


def misfit(error: Optional[BaseException]) -> Optional[str]:
    """What does not fit, for an error of `Module.load_state_dict`; None for any other error."""
    text = str(error)
    if not isinstance(error, RuntimeError) or "Error(s) in loading state_dict" not in text:
        return None
    shapes, keys = _SHAPES.findall(text), _KEYS.findall(text)
    if shapes:
        name, theirs, ours = shapes[0]
        reason = f"{name} is ({theirs}) there and ({ours}) here"
    elif keys:
        reason = f"it has {'no' if keys[0][0] == 'Missing' else 'an unknown'} parameter {keys[0][1]}"
    else:
        reason = " ".join(text.split())
    return f"{reason}; it was made with another dictionary, other model options or another architecture"


def _agreed_restore_file(cfg, trainer) -> Optional[str]:
    """`restorable` as rank 0 sees the folder, for every rank; a UserError of rank 0 is raised by all."""
    from fairseq.distributed import utils as distributed_utils

    outcome = (None, None)
    if trainer.is_data_parallel_master:
        try:
            outcome = (restorable(cfg.save_dir, not cfg.no_last_checkpoints, cfg.finetune_from_model), None)
        except UserError as error:
            outcome = (None, str(error))
    if trainer.data_parallel_world_size > 1:
        outcome = distributed_utils.broadcast_object(
            outcome, src_rank=0, group=trainer.data_parallel_process_group, dist_device=trainer.device
        )
    path, complaint = outcome
    if complaint:
        raise UserError(complaint)
    return path


def _remove_left_overs(save_dir: str) -> None:
    """Temporary files of saves that a kill interrupted."""
    for path in atomic.remove_leftovers(save_dir, "checkpoint*.pt"):
        logger.info("removed %s, left by an interrupted save", path)


def _train_unless_done(original, cfg, trainer, *args, **kwargs):
    done, limit = trainer.get_num_updates(), cfg.optimization.max_update
    if limit and done >= limit:
        logger.info(f"nothing to do: the run has made {done} updates, --max-update is {limit}")
        return [None], True
    return original(cfg, trainer, *args, **kwargs)


def apply() -> None:
    wrap_command("train", "train")(_train_unless_done)

    from fairseq import checkpoint_utils
    from fairseq.file_io import PathManager
    from fairseq.trainer import Trainer
    from omegaconf import OmegaConf

    @wrap(checkpoint_utils, "load_checkpoint")
    def load_checkpoint(original, cfg, trainer, **passthrough_args):
        if trainer.checkpoint_suffix:  # sharded: each rank has files of its own
            return original(cfg, trainer, **passthrough_args)
        if cfg.restore_file != LAST and not os.path.isfile(cfg.restore_file):
            raise UserError(f"no such file: --restore-file {cfg.restore_file}")
        if cfg.restore_file == LAST:
            instead = _agreed_restore_file(cfg, trainer)
            if instead is not None:
                cfg = OmegaConf.merge(cfg, {"restore_file": instead, "finetune_from_model": None})
            elif not PathManager.exists(os.path.join(cfg.save_dir, LAST)):  # the first start of the run
                for option in ("continue_once", "finetune_from_model"):
                    pretrained = getattr(cfg, option, None)
                    if pretrained and not PathManager.isfile(pretrained):
                        raise UserError(f"no such file: --{option.replace('_', '-')} {pretrained}")
            if trainer.is_data_parallel_master and not cfg.no_save:
                _remove_left_overs(cfg.save_dir)
        return original(cfg, trainer, **passthrough_args)

    @wrap(Trainer, "load_checkpoint")
    def trainer_load_checkpoint(original, self, filename, *args, **kwargs):
        try:
            extra_state = original(self, filename, *args, **kwargs)
        except Exception as error:
            reason = misfit(error.__context__) if "Cannot load model parameters" in str(error) else None
            if reason:
                raise UserError(f"{filename} does not fit the model: {reason}") from error
            if isinstance(error, AssertionError) and "please reset the optimizer" in str(error):
                raise UserError(f"{filename}: {error}") from error
            raise
        if extra_state is not None and extra_state.get("train_iterator") is not None:
            extra_state["train_iterator"]["checkpoint_path"] = filename
        return extra_state

    @wrap(checkpoint_utils, "load_model_ensemble_and_task")
    def load_model_ensemble_and_task(original, filenames, *args, **kwargs):
        try:
            return original(filenames, *args, **kwargs)
        except RuntimeError as error:
            reason = misfit(error)
            if reason is None:
                raise
            raise UserError(f"{':'.join(filenames)} does not fit the model: {reason}") from error
        except OSError as error:
            if "Model file not found" not in str(error):
                raise
            raise UserError(f"no such file: {str(error).split(': ', 1)[-1]}") from error
