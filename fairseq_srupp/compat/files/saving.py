"""Saving checkpoints: whole files only, and a chance for the data iterator to save its own state beside them.

fairseq (0.12) writes the first file of a save under a temporary name, but makes `checkpoint_last` and `_best`
by plain copies: a process killed meanwhile leaves a truncated file that stops the restart. A write that
failed half-way is retried in the middle of the same file. Ranks above 0 return from `save_checkpoint` before
anything of theirs can be saved. A save folder that cannot be written to ends in a traceback. May go when
fairseq renames its copies and offers a hook for state that every rank owns.

An epoch iterator may have two methods, and they are called around every save:
- `before_save(save_dir: str, num_updates: int)`, on every rank, before rank 0 writes the checkpoint;
- `after_save(save_dir: str)`, on rank 0, when the checkpoint is written and old ones are removed.
"""

import errno
import os
import time
from typing import Any

import torch

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files.atomic import atomic_copy, atomic_write
from fairseq_srupp.compat.patch import wrap

_ATTEMPTS = 3
_SECONDS_BETWEEN = 2.5
_MAY_PASS = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN}  # of a network file system


def save_whole(state: Any, path: str) -> None:
    """`torch.save` to `path`, which holds its old content or all of the new one at any time.

    Raises: UserError with the reason when it cannot be written (no space, no permission).
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with atomic_write(path) as file:
                torch.save(state, file)
            return
        except (OSError, RuntimeError) as error:
            # torch's zip writer makes a RuntimeError of an OSError of the file.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            if attempt == _ATTEMPTS or cause.errno not in _MAY_PASS:
                raise UserError(f"cannot write the checkpoint {path}: {cause.strerror or cause}") from error
            time.sleep(_SECONDS_BETWEEN)


def apply() -> None:
    from fairseq import checkpoint_utils
    from fairseq.file_io import PathManager

    @wrap(checkpoint_utils, "torch_persistent_save")
    def torch_persistent_save(original, obj, filename, async_write=False):
        if async_write or not PathManager.supports_rename(filename):
            return original(obj, filename, async_write=async_write)
        save_whole(obj, filename)

    @wrap(PathManager, "copy")
    def copy(original, src_path, dst_path, overwrite=False):
        if PathManager.path_requires_pathmanager(src_path) or PathManager.path_requires_pathmanager(dst_path):
            return original(src_path, dst_path, overwrite=overwrite)
        try:
            atomic_copy(src_path, dst_path)
        except OSError as error:
            raise UserError(f"cannot write {dst_path}: {error.strerror or error}") from error
        return dst_path

    @wrap(checkpoint_utils, "verify_checkpoint_directory")
    def verify_checkpoint_directory(original, save_dir):
        try:
            original(save_dir)
        except OSError as error:
            raise UserError(f"cannot write to --save-dir {save_dir}: {error.strerror or error}") from error

    @wrap(checkpoint_utils, "save_checkpoint")
    def save_checkpoint(original, cfg, trainer, epoch_itr, val_loss, wait=True):
        if not cfg.no_save and hasattr(epoch_itr, "before_save"):
            os.makedirs(cfg.save_dir, exist_ok=True)
            epoch_itr.before_save(cfg.save_dir, trainer.get_num_updates())
            if trainer.data_parallel_world_size > 1 and wait:  # not where other ranks may never come
                torch.distributed.barrier(trainer.data_parallel_process_group)
        saved = original(cfg, trainer, epoch_itr, val_loss)
        if not cfg.no_save and trainer.is_data_parallel_master and hasattr(epoch_itr, "after_save"):
            epoch_itr.after_save(cfg.save_dir)
        return saved
