"""The stream state of each rank on disk, beside the checkpoint that it belongs to.

`<save_dir>/stream_states/update<n>.rank<r>.pt` holds the state with which rank r goes on after update n. It is
written whole or not at all, before the checkpoint that names update n, and deleted when no checkpoint of the folder
names that update any more.
"""

import contextlib
import glob
import logging
import os
import re
from typing import Any, Dict, Optional, Set, Tuple

from ..compat.errors import UserError
from ..compat.files import weights_only
from ..compat.files.saving import save_whole

logger = logging.getLogger(__name__)

_NAME = re.compile(r"update(?P<update>\d+)\.rank(?P<rank>\d+)\.pt(?P<unfinished>(\.[0-9a-f]{16})?\.tmp)?")


class UnusableState(Exception):
    """The state file is missing, unreadable, or not of this checkpoint."""


def state_path(save_dir: str, update: int, rank: int) -> str:
    """Where rank `rank` keeps its state after update `update`."""
    return os.path.join(save_dir, "stream_states", f"update{update}.rank{rank}.pt")


def write_state(save_dir: str, update: int, rank: int, content: Dict[str, Any]) -> None:
    """Write a state file: when this returns it is on disk, and until then there is none of its name.

    Raises:
        UserError: it cannot be written.
    """
    path = state_path(save_dir, update, rank)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the stream state {path}: {error.strerror or error}") from error
    save_whole(content, path)


def read_state(save_dir: str, update: int, rank: int, expected: Dict[str, Any]) -> Dict[str, Any]:
    """The content of a state file, on the CPU.

    Args:
        expected: entries that it must have.

    Raises:
        UnusableState: saying why.
    """
    path = state_path(save_dir, update, rank)
    if not os.path.lexists(path):
        raise UnusableState(f"{path} is missing")
    try:
        content = weights_only.load(path)
    except UserError as error:
        raise UnusableState(str(error).removeprefix("fairseq_srupp: ")) from error
    if not isinstance(content, dict) or not all(_same(content.get(name), value) for name, value in expected.items()):
        raise UnusableState(f"{path} is of another run")
    return content


def _same(found: Any, expected: Any) -> bool:
    """Whether a value from a file, of any type, is the plain value that is expected."""
    if type(found) is not type(expected):
        return False
    if isinstance(found, tuple):
        return len(found) == len(expected) and all(map(_same, found, expected))
    return found == expected


class StateFileKeeper:
    """Deletes the state files of a folder that no checkpoint needs any more."""

    def __init__(self) -> None:
        self._named: Dict[Tuple[str, int, int], Optional[int]] = {}

    def clean(self, save_dir: str, current: Optional[int], rank: Optional[int] = None) -> None:
        """Delete the state files whose update is neither `current` nor named by a checkpoint*.pt of the folder.

        Nothing is deleted if a checkpoint cannot be read.

        Args:
            rank: delete only the files of this rank, unfinished ones too.
        """
        folder = os.path.join(save_dir, "stream_states")
        matches = [_NAME.fullmatch(name) for name in os.listdir(folder)] if os.path.isdir(folder) else []
        ours = [m for m in matches if m and rank in (None, int(m["rank"]))]
        finished = [m for m in ours if not m["unfinished"] and int(m["update"]) != current]
        named = self._named_updates(save_dir) if finished else set()
        unneeded = [m for m in finished if named is not None and int(m["update"]) not in named]
        unneeded += [m for m in ours if m["unfinished"] and rank is not None]
        for match in unneeded:
            # Another rank was faster, or it is not a file that we made.
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                os.remove(os.path.join(folder, match[0]))

    def _named_updates(self, save_dir: str) -> Optional[Set[int]]:
        """The updates that checkpoints name; None if one cannot be read."""
        known = {}
        for path in glob.glob(os.path.join(glob.escape(save_dir), "checkpoint*.pt")):
            try:
                status = os.stat(path)
                key = (path, status.st_mtime_ns, status.st_size)
                known[key] = self._named[key] if key in self._named else _named_update(path)
            except Exception as error:  # a damaged or foreign file
                logger.warning(f"{path} cannot be read ({type(error).__name__}): no stream state is deleted")
                return None
        self._named = known
        return {update for update in known.values() if update is not None}


def _named_update(path: str) -> Optional[int]:
    # Tensors are not looked at: this is done at every save.
    checkpoint = weights_only.load_unchecked(path)
    update = checkpoint.get("extra_state", {}).get("train_iterator", {}).get("stream", {}).get("update")
    return update if isinstance(update, int) else None
