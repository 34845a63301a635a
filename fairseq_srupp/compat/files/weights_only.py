"""Checkpoints are data: what they may hold, and what is said when they hold something else, or are damaged.

Since torch 2.6 `torch.load` refuses to build objects of classes it does not know, because unpickling them
can run any code. fairseq checkpoints hold a few: the configuration of models that are not configured by a
dataclass is an `argparse.Namespace`, older checkpoints and the state that rank 0 broadcasts on resume hold
omegaconf containers, and meters (of BLEU, for example) hold numpy numbers and arrays. Exactly these are
allowed, in the forms that fairseq saves (allowed_classes.py); the protection stays on. May go when fairseq
itself saves plain containers and registers these classes, and torch checks what it reads (records.py).
"""

import argparse
import os
import pickle
import re
import warnings
import zipfile
from typing import Any, Callable, Dict, Iterator, List, Optional

import torch

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files import records
from fairseq_srupp.compat.patch import wrap

# How torch.load says that it met a class or function that it does not know, and where it tells other faults.
_REFUSED = re.compile(r"GLOBAL (?P<name>\S+)|Can only (?:create|build)|Trying to call reduce")
_DETAIL = re.compile(r"WeightsUnpickler error:\s*(.+)")


class Refused(UserError):
    """A whole file that holds something that is not data. Nothing of it was executed."""


def load(path: str) -> Any:
    """The checkpoint `path`, with the protection on; tensors are read from the disk when they are used.

    Raises: UserError, naming the file, when it cannot be read, is damaged, or is no checkpoint; Refused when it holds
    something that is not data.
    """
    try:
        damage = records.damage(path)
        size = os.path.getsize(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if damage:
        raise UserError(f"{path} is damaged: {damage}")
    loaded = _explained(path, load_unchecked, path)
    fault = _explained(path, _fault, loaded, size)
    if fault:
        raise UserError(f"{path} is no checkpoint: {fault}")
    return loaded


def load_unchecked(path: str) -> Any:
    """The same without a look at tensors, which may be damaged. Raises: whatever torch.load does."""
    allow()
    # only zip archives can be mapped into memory
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def allow() -> None:
    """Makes torch.load understand the names in checkpoints of fairseq."""
    from fairseq_srupp.compat.files import allowed_classes

    torch.serialization.add_safe_globals(allowed_classes.named())


def _explained(path: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
    """`function(*args, **kwargs)`, which loads the file `path`, with its failures as one-line UserErrors."""
    try:
        with warnings.catch_warnings():
            # The error that follows says it.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return function(*args, **kwargs)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # damaged bytes can make the unpickler fail in any way
        raise _complaint(path, error) from error


def _complaint(path: str, error: Exception) -> UserError:
    text = str(error)
    refused = _REFUSED.search(text) if isinstance(error, pickle.UnpicklingError) else None
    if refused:
        name = refused.group("name")
        what = f"names {name.rstrip('.,')}" if name else "holds objects that are not data"
        return Refused(f"refused to load {path}: it {what}, which could run code; nothing of it was executed")
    detail = _DETAIL.search(text)
    reason = detail.group(1) if detail else f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
    return UserError(f"cannot read {path}: the file is damaged or is no checkpoint ({reason[:200].strip()})")


def _fault(loaded: Any, file_size: int) -> Optional[str]:
    """Why something that torch.load made of a file of `file_size` bytes is nothing to work with, or None."""
    import omegaconf

    from fairseq_srupp.compat.files import allowed_classes

    unfinished = {kind for kind, _ in allowed_classes.named() if isinstance(kind, type)} - {allowed_classes.Array}
    declared, places = 0, set()
    for part in _parts(loaded):
        if type(part) in unfinished:
            return f"it holds an unfinished {type(part).__name__}"
        if isinstance(part, (omegaconf.DictConfig, omegaconf.ListConfig)) and allowed_classes.misplaced(part):
            return "it holds an omegaconf container in an impossible place"
        if not isinstance(part, torch.Tensor):
            continue
        if part.layout != torch.strided or part.is_nested or part.is_quantized or part.device.type != "cpu":
            return f"it holds a tensor without plain data ({part.layout}, {part.dtype}, {part.device})"
        # Tensors that stand for the same bytes count once.
        place = (part.untyped_storage().data_ptr(), part.storage_offset(), part.shape, part.stride())
        if place not in places:
            places.add(place)
            declared += part.numel() * part.element_size()
    if declared > 2 * file_size:  # views of one another may overlap, but not by orders of magnitude
        return f"it declares tensors of {declared:,} bytes in a file of {file_size:,}"
    if _values(loaded, file_size) > file_size:
        return f"it stands for more values than the {file_size:,} bytes that it has"
    return None


def _inner(part: Any) -> List[Any]:
    """What an object holds, in itself."""
    import omegaconf

    if isinstance(part, dict):
        return [*part.keys(), *part.values()]
    if isinstance(part, (list, tuple, set)):
        return list(part)
    if isinstance(part, (argparse.Namespace, omegaconf.base.Node)):
        return [value for name, value in vars(part).items() if name != "_parent"]
    return []


def _values(nested: Any, limit: int) -> int:
    """How many values an object holds, one that stands in several places counted in each, as whoever copies the object
    without regard to that makes them: twenty lists, each of which holds the next one twice, are a million. No more than
    `limit` + 1 are counted."""
    counts: Dict[int, int] = {}
    waiting = [(nested, False)]
    while waiting:
        part, inner_counted = waiting.pop()
        if inner_counted:
            counts[id(part)] = min(1 + sum(counts[id(inner)] for inner in _inner(part)), limit + 1)
        elif id(part) not in counts:
            counts[id(part)] = 1  # within itself
            waiting.append((part, True))
            waiting += [(inner, False) for inner in _inner(part)]
    return counts[id(nested)]


def _parts(nested: Any) -> Iterator[Any]:
    """An object and everything that it holds, each once, in no particular order."""
    import omegaconf

    waiting, seen = [nested], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        waiting += _inner(part)
        if isinstance(part, omegaconf.base.Node):
            waiting.append(vars(part).get("_parent"))


def misformed(state: Any) -> Optional[str]:
    """Why fairseq cannot work on what is in a checkpoint, or None."""
    import omegaconf

    options = (omegaconf.DictConfig, type(None))
    kinds = {
        "args": (argparse.Namespace, *options),
        "cfg": (dict, *options),  # text would be read as YAML
        "model": dict,
        "optimizer_history": list,
        "extra_state": dict,
        "task_state": dict,
    }
    if not isinstance(state, dict):
        return f"it is of type {type(state).__name__}"
    for part, kind in kinds.items():
        if part in state and not isinstance(state[part], kind):
            return f"its {part} is of type {type(state[part]).__name__}"
    if not all(isinstance(name, str) for name in state.get("model", ())):
        return "its model has parameters without a name"
    return None


def apply() -> None:
    from fairseq import checkpoint_utils
    from fairseq.distributed import utils as distributed_utils

    allow()

    def load_checked(original, path, *args, **kwargs):
        if os.path.lexists(path):  # or it is elsewhere, or the original says that there is none
            fault = misformed(load(path))
            if fault:
                raise UserError(f"{path} is not a checkpoint of fairseq: {fault}")
        return _explained(path, original, path, *args, **kwargs)

    wrap(checkpoint_utils, "load_checkpoint_to_cpu")(load_checked)
    wrap(checkpoint_utils, "load_ema_from_checkpoint")(load_checked)

    @wrap(distributed_utils, "broadcast_object")
    def broadcast_object(original, *args, **kwargs):
        # What stands for a tensor in a message between processes has no place in a file.
        with torch.serialization.safe_globals([distributed_utils._TensorPlaceholder]):
            return original(*args, **kwargs)
