"""Times the recurrence against that of the original SRU, in one run on one machine. See the README.md here.

Checks first that outputs and gradients of the two agree; when they do not, prints no figures and exits with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import pathlib
import re
import shutil
import statistics
import sys
import warnings
from collections.abc import Callable

import torch
from machine import ROOT, environment, save
from recurrence import DTYPES, SHAPES, make_inputs, shape_of, time_all, usable_device
from torch import Tensor

from fairseq_srupp.ops import backends, sru_recurrence

COPY = ROOT / "build" / "original"
KERNELS = "sru/csrc/sru_cuda_kernel.cu"
# Of the largest value of a tensor. In fp16 the original rounds every operation, and sums over time in fp16.
TOLERANCE = {"fp32": 2e-5, "fp16": 2e-2}


def load_original(folder: pathlib.Path, device: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """The original's op, from a copy of its package, which compiles its kernels when it is imported.

    Raises:
        ValueError: folder is no checkout of the original.
        RuntimeError: the kernels do not compile, or the package cannot be imported.
    """
    if not (folder / KERNELS).is_file() or "forward_simple" not in (folder / KERNELS).read_text():
        raise ValueError(f"{folder} is no checkout of asappresearch/sru, branch 3.0.0-dev: no fp16 kernels in {KERNELS}")
    shutil.rmtree(COPY, ignore_errors=True)
    shutil.copytree(folder / "sru", COPY / "sru", ignore=shutil.ignore_patterns("__pycache__"))
    # torch's dispatch macros no longer take what Tensor::type() returns.
    kernels = (folder / KERNELS).read_text().replace("U.type()", "U.scalar_type()")
    (COPY / KERNELS).write_text(kernels)
    shutil.copystat(folder / KERNELS, COPY / KERNELS)  # or ninja would compile it again in each run
    sys.path.insert(0, str(COPY))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            ops = importlib.import_module("sru.ops")
            cuda = importlib.import_module("sru.cuda_functional")
        except Exception as error:
            raise RuntimeError(f"the original's package cannot be imported: {reason(str(error))}") from error
    # Where its CUDA kernels do not compile, it warns and goes on with functions that only throw.
    failed = [str(warning.message) for warning in caught if "unsuccessful" in str(warning.message)]
    if device == "cpu":
        return ops.elementwise_recurrence_naive
    if failed:
        raise RuntimeError(f"the original's CUDA kernels do not compile: {reason(failed[0])}")
    return cuda.ElementwiseRecurrence.apply


def reason(log: str) -> str:
    """The line of a compiler's log that tells most: the last error, or else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["no reason given"]
    return ([line for line in lines if re.search(r"\berror: ", line)] or lines)[-1]


def original_recurrence(op: Callable, *inputs: Tensor, **options) -> tuple[Tensor, Tensor]:
    """sru_recurrence by the original's op, its fast kernels: no activation, highway connection with x unscaled.

    inputs: as of `original_layout`. options: dropout_mask, padding_mask and bidirectional of sru_recurrence.
    """
    bidirectional = options.get("bidirectional", False)
    channels = inputs[1].shape[-1] // (2 if bidirectional else 1)
    masks = options.get("dropout_mask"), options.get("padding_mask")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the CPU, of gradients by a loop in Python
        return op(*inputs, 0, channels, bidirectional, True, None, *masks)


def original_layout(
    u: Tensor, x: Tensor, weight_c: Tensor, bias: Tensor, c0: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """u (L, B, 3, D) with the gates fastest: (L, B, 3D); weight_c and bias (2, D) as (2D,); x and c0 as they are."""
    return u.transpose(2, 3).flatten(2), x, weight_c.flatten(), bias.flatten(), c0


def make_both(shape: tuple[int, int, int], dtype: str, device: str) -> tuple[list[Tensor], list[Tensor]]:
    """The same values for ours (weight_c, bias and c0 in fp32) and for the original (all in one dtype)."""
    kind = DTYPES[dtype]
    ours = [tensor.detach().to(kind).to(tensor.dtype) for tensor in make_inputs(*shape, kind, device)]
    theirs = [tensor.to(kind).clone().requires_grad_() for tensor in original_layout(*ours)]
    return [tensor.requires_grad_() for tensor in ours], theirs


def differences(op: Callable, dtype: str, backend: str | None, device: str) -> dict[str, float]:
    """For each output and gradient the largest difference of the two, of its largest value, over a few shapes."""
    largest: dict[str, float] = {}

    def compare(names: tuple[str, ...], ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
        for name, mine, other in zip(names, ours, theirs, strict=True):
            scale = mine.double().abs().max().clamp(min=1e-9)
            difference = ((mine.double() - other.double()).abs().max() / scale).nan_to_num(nan=torch.inf)
            largest[name] = max(largest.get(name, 0.0), difference.item())

    for length, batch, channels in ((1, 1, 2), (17, 3, 130), (200, 2, 1090), (200, 2, 1088)):
        for bidirectional in (False, True):
            ours, theirs = make_both((length, batch, channels), dtype, device)
            padding = torch.zeros(length, batch, dtype=torch.bool, device=device)
            padding[length // 2 + 1 :, 0] = True
            mask = torch.full((batch, channels), 1.25, dtype=DTYPES[dtype], device=device)
            mask[:, ::5] = 0
            options = {"padding_mask": padding, "bidirectional": bidirectional}
            with torch.no_grad():  # what is timed on the CPU has no dropout mask
                compare(
                    ("h without gradients", "c_last without gradients"),
                    sru_recurrence(*ours, backend=backend, **options),
                    original_recurrence(op, *theirs, **options),
                )
            options["dropout_mask"] = mask
            results = sru_recurrence(*ours, backend=backend, **options)
            others = original_recurrence(op, *theirs, **options)
            compare(("h", "c_last"), results, others)
            given = [torch.randn_like(other) for other in others]
            gradients = torch.autograd.grad(results, ours, [to.to(result.dtype) for to, result in zip(given, results)])
            names = ("grad_u", "grad_x", "grad_weight_c", "grad_bias", "grad_c0")
            compare(names, original_layout(*gradients), torch.autograd.grad(others, theirs, given))
    return largest


def measure(op: Callable, shape: tuple[int, int, int], dtype: str, backend: str | None, rounds: int, device: str) -> dict:
    """Times of both; on the CPU, where the original has no compiled backward, of the forward without gradients."""
    ours, theirs = make_both(shape, dtype, device)
    u, x, *_ = theirs
    parameters = [x.new_empty(2, *shape[1:])] * 2 + [x.new_empty(shape[1:])]
    grad_h = torch.randn_like(x)
    run_ours = functools.partial(sru_recurrence, *ours, backend=backend)
    run_theirs = functools.partial(original_recurrence, op, *theirs)
    # The original fills what it returns with zeros before its kernels run.
    functions = {
        "forward": run_ours,
        "original forward": run_theirs,
        "zeros forward": lambda: [torch.zeros_like(tensor) for tensor in (x, x)],
    }
    if device != "cpu":
        h, original_h = run_ours()[0], run_theirs()[0]
        functions |= {
            "backward": lambda: torch.autograd.grad(h, ours, grad_h, retain_graph=True),
            "original backward": lambda: torch.autograd.grad(original_h, theirs, grad_h, retain_graph=True),
            "zeros backward": lambda: [torch.zeros_like(tensor) for tensor in (u, x, *parameters)],
            "forward + backward": lambda: torch.autograd.grad(run_ours()[0], ours, grad_h),
            "original forward + backward": lambda: torch.autograd.grad(run_theirs()[0], theirs, grad_h),
            "zeros forward + backward": lambda: [torch.zeros_like(tensor) for tensor in (x, x, u, x, *parameters)],
        }
    with torch.no_grad() if device == "cpu" else contextlib.nullcontext():
        measured = time_all(functions, rounds, device)
    return {"shape": shape, "dtype": dtype, "rows": table(measured)}


def table(measured: dict[str, list[tuple]]) -> list[dict]:
    """A row for each direction: milliseconds of both, and how many times as long the original takes."""
    milliseconds = {name: [seconds * 1e3 for seconds, _ in values] for name, values in measured.items()}
    median = {name: statistics.median(values) for name, values in milliseconds.items()}
    rows = []
    for name in ("forward", "backward", "forward + backward"):
        if name not in measured:
            continue
        original, zeros = f"original {name}", f"zeros {name}"
        row = {"name": name, "original_ms": median[original], "zeros_ms": median[zeros], "ours_ms": median[name]}
        row["ratio"] = median[original] / median[name]
        row["ratio_of_min"] = min(milliseconds[original]) / min(milliseconds[name])
        row["ratio_without_zeros"] = (median[original] - median[zeros]) / median[name]
        rows.append(row)
    return rows


def show(result: dict) -> None:
    print(f"\n(L, B, D) = {result['shape']}, {result['dtype']}, milliseconds (median)")
    print(f"  {'':20}{'original':>10}{'its zeros':>11}{'ours':>9}{'ratio':>8}{'of min':>8}{'without zeros':>15}")
    for row in result["rows"]:
        times = f"{row['original_ms']:10.3f}{row['zeros_ms']:11.3f}{row['ours_ms']:9.3f}"
        ratios = f"{row['ratio']:8.2f}{row['ratio_of_min']:8.2f}{row['ratio_without_zeros']:15.2f}"
        print(f"  {row['name']:20}{times}{ratios}")


def summary(results: list[dict]) -> dict[str, str]:
    return {
        f"{tuple(result['shape'])} {result['dtype']} {row['name']}": (
            f"{row['ratio']:.2f} times the original's speed, {row['ratio_without_zeros']:.2f} without its zeros"
        )
        for result in results
        for row in result["rows"]
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("original", type=pathlib.Path, help="checkout of asappresearch/sru, branch 3.0.0-dev")
    parser.add_argument("--shape", type=shape_of, action="append", metavar="L,B,D", help="may be given several times")
    parser.add_argument("--dtype", nargs="+", choices=TOLERANCE, help="default: fp16, on the CPU fp32")
    parser.add_argument("--backend", choices=list(backends()), help="default: the fastest for the device")
    parser.add_argument("--device", type=usable_device, default="cuda")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write environment and results there")
    args = parser.parse_args()
    dtypes = args.dtype or (["fp32"] if args.device == "cpu" else ["fp16"])
    if args.device == "cpu" and "fp16" in dtypes:
        parser.error("the original has no fp16 on the CPU")
    try:
        op = load_original(args.original, args.device)
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1

    torch.manual_seed(0)
    about = environment(args.device)
    for dtype in dtypes:
        found = differences(op, dtype, args.backend, args.device)
        wrong = [f"{name}: {value:.1e}" for name, value in found.items() if value > TOLERANCE[dtype]]
        if wrong:
            print(f"ours and the original differ in {dtype}, so no figures:", *wrong, sep="\n  ", file=sys.stderr)
            return 1
        about[f"largest differences in {dtype}"] = {name: float(f"{value:.1e}") for name, value in found.items()}
    print(*(f"{name}: {value}" for name, value in about.items()), sep="\n")
    results = []
    for shape in args.shape or SHAPES["cpu" if args.device == "cpu" else "cuda"]:
        for dtype in dtypes:
            results.append(measure(op, shape, dtype, args.backend, args.rounds, args.device))
            show(results[-1])
            save(args.json, {"environment": about, "results": results, "summary": summary(results)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
