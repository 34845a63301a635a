"""Checkpoints are data: what they may hold, and what is said when they hold something else.

Since torch 2.6 `torch.load` refuses to build objects of classes it does not know, because unpickling them
can run any code. fairseq checkpoints hold a few: the configuration of models that are not configured by a
dataclass is an `argparse.Namespace`, older checkpoints and the state that rank 0 broadcasts on resume hold
omegaconf containers, and meters (of BLEU, for example) hold numpy numbers and arrays. Exactly these are
allowed; the protection stays on. May go when fairseq itself saves plain containers and registers these
classes.
"""

import argparse
import collections
import pickle
import re
import typing
import warnings
import zipfile
from typing import Any, Callable, List, Tuple, Union

import numpy
import torch

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.patch import wrap

Allowed = Union[Callable, Tuple[Callable, str]]

# How torch.load says that it met a class or function that it does not know, and where it tells other faults.
_REFUSED = re.compile(r"GLOBAL (?P<name>\S+)|Can only (?:create|build)|Trying to call reduce")
_DETAIL = re.compile(r"WeightsUnpickler error:\s*(.+)")


def harmless_classes() -> List[Allowed]:
    """The classes and functions, beyond torch's own list, that checkpoints of fairseq may name.

    None of them does more than build the value that it stands for.
    """
    import omegaconf
    from omegaconf import base, nodes

    reconstruct = numpy.zeros(()).__reduce__()[0]
    scalar = numpy.float64(0).__reduce__()[0]
    numbers = "?bBhHiIlLqQefd"
    allowed: List[Allowed] = [argparse.Namespace, collections.defaultdict]
    allowed += [omegaconf.DictConfig, omegaconf.ListConfig, base.ContainerMetadata, base.Metadata]
    allowed += [nodes.AnyNode, nodes.StringNode, nodes.IntegerNode, nodes.FloatNode, nodes.BooleanNode]
    allowed += [(typing.Any, "typing.Any"), (typing.List, "typing.List"), (typing.Dict, "typing.Dict")]
    allowed += [dict, list, tuple, str, int, float, bool]
    allowed += [numpy.ndarray, numpy.dtype] + sorted({type(numpy.dtype(c)) for c in numbers}, key=str)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before numpy 2, and since
        allowed += [(reconstruct, f"{module}._reconstruct"), (scalar, f"{module}.scalar")]
    return allowed


def load(path: str) -> Any:
    """The checkpoint `path`, with the protection on; tensors are read from the disk when they are used.

    Raises: UserError, naming the file, when it holds something that is not data (and is not loaded), is
    cut off, or is no checkpoint.
    """
    torch.serialization.add_safe_globals(harmless_classes())
    zipped = zipfile.is_zipfile(path)  # only those can be mapped into memory
    return explained(path, torch.load, path, map_location="cpu", weights_only=True, mmap=zipped)


def explained(path: str, loader: Callable, *args: Any, **kwargs: Any) -> Any:
    """`loader(*args, **kwargs)`, which loads `path`, with its failures as one-line UserErrors."""
    try:
        with warnings.catch_warnings():
            # The error that follows says it.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return loader(*args, **kwargs)
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except Exception as error:  # damaged bytes can make the unpickler fail in any way
        raise UserError(_complaint(path, error)) from error


def is_refused(error: BaseException) -> bool:
    """Whether torch.load stopped at something that is not data (and not at a damaged file)."""
    return isinstance(error, pickle.UnpicklingError) and bool(_REFUSED.search(str(error)))


def _complaint(path: str, error: Exception) -> str:
    text = str(error)
    if is_refused(error):
        name = _REFUSED.search(text).group("name")
        what = f"names {name.rstrip('.,')}" if name else "holds objects that are not data"
        return f"refused to load {path}: it {what}, which could run code; nothing of it was executed"
    detail = _DETAIL.search(text)
    reason = detail.group(1) if detail else f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
    return f"cannot read {path}: the file is damaged or is no checkpoint ({reason[:200].strip()})"


def apply() -> None:
    from fairseq import checkpoint_utils
    from fairseq.distributed import utils as distributed_utils

    torch.serialization.add_safe_globals(harmless_classes())
    torch.serialization.add_safe_globals([distributed_utils._TensorPlaceholder])  # of broadcast_object

    @wrap(checkpoint_utils, "load_checkpoint_to_cpu")
    def load_checkpoint_to_cpu(original, path, *args, **kwargs):
        return explained(path, original, path, *args, **kwargs)
