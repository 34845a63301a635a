"""Average the parameters of several checkpoints of one model (or of one architecture) into a checkpoint for
evaluation and generation."""

import argparse
import os
import re
from typing import Any, Dict, List, Optional

import torch

from fairseq_srupp.compat import family
from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files import weights_only
from fairseq_srupp.compat.files.saving import save_whole

_COMMAND = "average-checkpoints"
_KINDS = {  # what fairseq-train names them; the number orders them
    "epochs": re.compile(r"checkpoint(\d+)\.pt"),
    "updates": re.compile(r"checkpoint_\d+_(\d+)\.pt"),
}
_KEPT = ("args", "cfg", "optimizer_history", "task_state")
_NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)
_NUMBERS += (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
_DROPPED_STATE = ("ema", "ema_fp32_params")  # of extra_state: parameters that are no longer this model's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--inputs", nargs="+", metavar="FILE", help="the checkpoints")
    source.add_argument("--dir", metavar="DIR", help="a --save-dir of fairseq-train, from which --last takes them")
    parser.add_argument("--last", type=int, metavar="N", help="with --dir: the newest N checkpoints")
    parser.add_argument(
        "--by",
        choices=sorted(_KINDS),
        help="with --dir: count those of whole epochs (checkpoint3.pt) or those of "
        "updates (checkpoint_3_5000.pt); needed where there are both",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="where the average goes")


def run(args: argparse.Namespace) -> int:
    family.require()  # its checkpoints hold what only its packages can read
    paths = args.inputs or _newest(args.dir, args.last, args.by)
    states = [_read(path) for path in paths]
    newest = max(states, key=_updates)
    averaged = {name: newest[name] for name in _KEPT if name in newest}
    averaged["model"] = average([state["model"] for state in states], paths)
    criteria = [state.get("criterion") for state in states]
    averaged["criterion"] = average(criteria, paths) if all(criteria) else None
    extra_state = newest.get("extra_state") or {}
    averaged["extra_state"] = {name: extra_state[name] for name in extra_state if name not in _DROPPED_STATE}
    save_whole(averaged, args.output)
    print(f"averaged {len(paths)} checkpoints into {args.output}:")
    for path, state in zip(paths, states):
        print(f"  {path} ({_updates(state)} updates)")
    return 0


def average(models: List[Dict[str, torch.Tensor]], paths: List[str]) -> Dict[str, torch.Tensor]:
    """The mean of state dicts, summed in fp64, in the dtypes of the first. What is tied there stays tied.

    `paths` says where they come from. Raises: UserError when names, shapes, kinds of numbers or integer tensors differ.
    """
    first = models[0]
    for model, path in zip(models, paths):
        _check_same(first, paths[0], model, path)
    mean: Dict[str, torch.Tensor] = {}
    tied: Dict[Any, torch.Tensor] = {}
    for name, tensor in first.items():
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        if place not in tied:
            tied[place] = _mean([model[name] for model in models])
        mean[name] = tied[place]
    return mean


def _mean(tensors: List[torch.Tensor]) -> torch.Tensor:
    first = tensors[0].detach()
    if _kind(first) == "whole":
        return first
    total = torch.zeros(first.shape, dtype=torch.complex128 if first.is_complex() else torch.float64)
    for tensor in tensors:
        total += tensor.detach()
    return (total / len(tensors)).to(first.dtype)


def _kind(tensor: torch.Tensor) -> str:
    return "complex" if tensor.is_complex() else "real" if tensor.is_floating_point() else "whole"


def _check_same(first: Dict[str, torch.Tensor], first_path: str, other: Dict[str, torch.Tensor], path: str) -> None:
    different = sorted(first.keys() ^ other.keys())
    if different:
        there, not_there = (first_path, path) if different[0] in first else (path, first_path)
        raise UserError(f"{different[0]} is in {there} but not in {not_there}: not the same model", _COMMAND)
    for name, tensor in first.items():
        if tensor.shape != other[name].shape:
            shapes = f"{tuple(tensor.shape)} in {first_path} and {tuple(other[name].shape)} in {path}"
            raise UserError(f"{name} is {shapes}: not the same model", _COMMAND)
        if _kind(tensor) != _kind(other[name]):
            kinds = f"{tensor.dtype} in {first_path} and {other[name].dtype} in {path}"
            raise UserError(f"{name} is {kinds}: not the same model", _COMMAND)
        if _kind(tensor) == "whole" and not torch.equal(tensor, other[name]):
            raise UserError(f"{name}, of whole numbers, differs between {first_path} and {path}", _COMMAND)


def _read(path: str) -> Dict[str, Any]:
    state = weights_only.load(path)
    fault = _fault(state)
    if fault:
        raise UserError(f"{path} is not a checkpoint of fairseq: {fault}", _COMMAND)
    return state


def _fault(state: Any) -> Optional[str]:
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict) or not state["model"]:
        return "it has no model"
    for part in ("model", "criterion"):
        parameters = {} if state.get(part) is None else state[part]
        if not isinstance(parameters, dict):
            return f"its {part} is {_type(parameters)}, expected tensors by name"
        for name, tensor in parameters.items():
            if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
                return f"{str(name)[:80]} of its {part} is {_type(tensor)}, expected a tensor with a name"
            if tensor.dtype not in _NUMBERS:
                return f"{name} of its {part} is of {tensor.dtype}, of which there is no mean"
    history, extra_state = state.get("optimizer_history"), state.get("extra_state")
    if history is not None and not (isinstance(history, list) and all(isinstance(part, dict) for part in history)):
        return "its optimizer_history is no list of dicts"
    if history and not isinstance(history[-1].get("num_updates", 0), int):
        return f"its number of updates is {_type(history[-1]['num_updates'])}"
    if extra_state is not None and not isinstance(extra_state, dict):
        return f"its extra_state is {_type(extra_state)}, expected values by name"
    return None


def _type(value: Any) -> str:
    return f"of type {type(value).__name__}"


def _updates(state: Dict[str, Any]) -> int:
    history = state.get("optimizer_history") or [{}]
    return history[-1].get("num_updates", 0)


def _newest(folder: str, number: int, kind: str) -> List[str]:
    if number is None or number < 1:
        raise UserError("--dir needs --last N with N of at least 1", _COMMAND)
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise UserError(f"cannot read --dir {folder}: {error.strerror}", _COMMAND) from error
    found = {}
    for name, pattern in _KINDS.items():
        numbered = [(int(match.group(1)), match.group(0)) for match in map(pattern.fullmatch, names) if match]
        if numbered and kind in (None, name):
            found[name] = [os.path.join(folder, file) for _, file in sorted(numbered)]
    if not found:
        raise UserError(f"{folder} holds no checkpoints of {kind or 'epochs or updates'}", _COMMAND)
    if len(found) > 1:
        raise UserError(f"{folder} holds both kinds; say --by epochs or --by updates", _COMMAND)
    ((name, paths),) = found.items()
    if len(paths) < number:
        raise UserError(f"{folder} holds {len(paths)} checkpoints of {name}, fewer than --last {number}", _COMMAND)
    return paths[-number:]
