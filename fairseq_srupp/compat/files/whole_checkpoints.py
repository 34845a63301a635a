"""Which checkpoint a run goes on from: the last one, or the newest whole one where that is damaged or missing.

fairseq (0.12) stops with a traceback at a damaged `checkpoint_last.pt`, although whole checkpoints lie beside it, and
starts from scratch where the first save of a run was cut off before `checkpoint_last.pt` was written. May go when
fairseq looks for another one. A damaged file is told from a whole one by records.py.
"""

import logging
import os
import re
from typing import Any, List, Optional, Sequence, Tuple

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files import weights_only

logger = logging.getLogger(__name__)

LAST = "checkpoint_last.pt"
# What a save writes before it: of epochs, of updates, of the best losses.
_OTHERS = re.compile(r"checkpoint(\d+|_\d+_\d+|_best|\.best_.+)\.pt")


def updates_of(path: str) -> Optional[int]:
    """The number of updates of a whole checkpoint; None when the file is damaged. Reads all of it.

    Raises: weights_only.Refused when the file is whole and names something that is not data.
    """
    try:
        return _declared_updates(weights_only.load(path))
    except weights_only.Refused:
        raise
    except UserError:
        return None


def _declared_updates(state: Any) -> Optional[int]:
    try:
        return int((state.get("optimizer_history") or [{}])[-1].get("num_updates", 0)) if "model" in state else None
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):  # no checkpoint of fairseq
        return None


def _newness(path: str) -> Tuple[int, float, str]:
    """Greater for what is newer, by what the file says of itself. Reads no tensor: it may be damaged all the same."""
    try:
        updates = _declared_updates(weights_only.load_unchecked(path))
    except Exception:  # damaged bytes can make the unpickler fail in any way
        updates = None
    return -1 if updates is None else updates, os.path.getmtime(path), path


def _others(save_dir: str) -> List[str]:
    """The checkpoints, other than the last one, that training left in a folder."""
    names = os.listdir(save_dir) if os.path.isdir(save_dir) else []
    paths = [os.path.join(save_dir, name) for name in names if _OTHERS.fullmatch(name)]
    return [path for path in paths if os.path.isfile(path)]


def _newest_whole(paths: Sequence[str]) -> Optional[str]:
    """Reads no more of them than it has to."""
    return next((path for path in sorted(paths, key=_newness, reverse=True) if updates_of(path) is not None), None)


def restorable(save_dir: str, expect_last: bool = True, but: Optional[str] = None) -> Optional[str]:
    """What to go on from instead of `checkpoint_last.pt`: the newest whole checkpoint where that is damaged, or is
    missing because the first save of the run was cut off. None when it is whole, or there is nothing to go on from.

    Args:
        expect_last: whether the run writes a `checkpoint_last.pt`.
        but: a file that is none of this run.

    Raises: UserError when there are checkpoints and all are damaged; weights_only.Refused when the one to take holds
    something that is not data.
    """
    last = os.path.join(save_dir, LAST)
    if os.path.isdir(last):
        raise UserError(f"{last} is a folder; remove it to go on")
    there = os.path.exists(last)
    if there and updates_of(last) is not None:
        return None
    others = _others(save_dir) if there or expect_last else []
    others = [path for path in others if not (but and os.path.exists(but) and os.path.samefile(path, but))]
    if not there and not others:
        return None
    instead = _newest_whole(others)
    if instead is None:
        what = f"{last} is damaged, with" if there else f"{others[0]} is damaged, with no checkpoint_last.pt and"
        raise UserError(f"{what} no whole checkpoint beside it; remove it to start anew")
    reason = "damaged" if there else "missing: a save was cut off"
    logger.warning("%s is %s; going on from %s, the newest whole checkpoint", last, reason, instead)
    return instead
