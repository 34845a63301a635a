"""Times the recurrence against a copy of the same bytes, in one run on one machine. See the README.md here.

Checks the backend against the fp64 reference first; when that fails, prints no figures and exits with 1.
"""

from __future__ import annotations

import argparse
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
from machine import environment, forget_peak_memory, peak_memory, save, synchronize
from torch import Tensor

from fairseq_srupp.ops import backends, memory, sru_recurrence

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-3, "fp64": 1e-12}  # of the largest value of a tensor
SHAPES = {
    "cpu": [(256, 16, 1024), (256, 8, 3072), (2048, 1, 1024), (1, 64, 3072)],
    # long and wide; the paper's models, each with the rows of one GPU, last the one for translation; a step of decoding
    "cuda": [
        (1024, 16, 3072),
        (1024, 4, 3072),
        *((512, 24, d) for d in (1920, 1976, 2012, 2024, 2036)),
        *((1024, 4, d) for d in (3136, 3840, 4480, 5040)),
        *((1024, 8, d) for d in (4096, 5952, 6016)),
        (768, 8, 3072),
        (64, 128, 4096),
        (64, 192, 7616),
        (25, 128, 1024),
        (1, 64, 3072),
    ],
}
# tensors of (L, B, D) that a perfect kernel moves
FORWARD_READS, FORWARD_WRITES = 4, 2  # u (3), x; h, c, which is kept for the backward alone
BACKWARD_READS, BACKWARD_WRITES = 6, 4  # u (3), x, c, grad_h; grad_u (3), grad_x


def make_inputs(length: int, batch: int, channels: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """u, x, weight_c, bias, c0, as a model at its start has them, with gradients."""
    made = {"generator": torch.Generator(device).manual_seed(0), "device": device}
    u = torch.randn(length, batch, 3, channels, **made)
    x = torch.randn(length, batch, channels, **made)
    weight_c = torch.rand(2, channels, **made) * 2 - 1
    bias = torch.tensor([[0.0], [-2.0]]).expand(2, channels).clone()
    c0 = torch.randn(batch, channels, **made)
    state = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = [tensor.to(device, kind) for tensor, kind in zip((u, x, weight_c, bias, c0), [dtype] * 2 + [state] * 3)]
    return [tensor.requires_grad_() for tensor in tensors]


def wrong_results(backend: str | None, dtype: str, device: str) -> list[str]:
    """The outputs and gradients that are off the fp64 reference, over a few shapes and all options."""
    wrong = []
    for length, batch, channels in ((1, 1, 2), (17, 3, 130), (200, 2, 1090), (200, 2, 1088)):
        for bidirectional in (False, True):
            inputs = make_inputs(length, batch, channels, DTYPES[dtype], device)
            exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
            padding = torch.zeros(length, batch, dtype=torch.bool, device=device)
            padding[length // 2 + 1 :, 0] = True
            mask = torch.full((batch, channels), 1.25, device=device)
            mask[:, ::5] = 0
            options = {"dropout_mask": mask, "padding_mask": padding, "bidirectional": bidirectional}
            got = outputs_and_gradients(inputs, backend, **options)
            expected = outputs_and_gradients(exact, "reference", **options)
            for name, value in got.items():
                error = (value.double() - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1e-9)
                if not error <= TOLERANCE[dtype]:
                    wrong.append(f"{name} at {(length, batch, channels)}, bidirectional={bidirectional}: {error:.1e}")
    return wrong


def outputs_and_gradients(inputs: list[Tensor], backend: str | None, **options) -> dict[str, Tensor]:
    h, c_last = sru_recurrence(*inputs, backend=backend, **options)
    loss = (h.double() * torch.arange(1, h.shape[-1] + 1, device=h.device).sin()).sum() + c_last.double().sum()
    gradients = torch.autograd.grad(loss, inputs)
    names = ("h", "c_last", "grad_u", "grad_x", "grad_weight_c", "grad_bias", "grad_c0")
    return dict(zip(names, (h.detach(), c_last.detach(), *gradients)))


def time_all(functions: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[tuple]]:
    """Seconds and page faults of each function in each round.

    In a round each runs once, one after the other, so that all see the same machine. What they allocate is
    allocated inside the measured time and given back outside of it.
    """
    measured: dict[str, list[tuple]] = {name: [] for name in functions}
    for number in range(rounds + 3):
        for name, function in functions.items():
            faults, clock = page_faults(), Clock(device)
            result = function()
            seconds = clock.stop()
            if number >= 3:
                measured[name].append((seconds, page_faults() - faults))
            del result
    return measured


class Clock:
    """Seconds from its making to `stop`: of the processor, or of the GPU between two events of its stream."""

    def __init__(self, device: str):
        self.events = None
        synchronize(device)
        if device != "cpu":
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            torch.cuda._sleep(2_000_000)  # the GPU is busy until all is queued, or it would wait for Python
            self.events[0].record()
        self.start = time.perf_counter()

    def stop(self) -> float:
        if self.events is None:
            return time.perf_counter() - self.start
        self.events[1].record()
        self.events[1].synchronize()
        return self.events[0].elapsed_time(self.events[1]) / 1e3


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def measure(shape: tuple[int, int, int], dtype: str, backend: str | None, rounds: int, device: str) -> dict:
    """Times of forward, backward and both, as in training, of the forward as in decoding, and of copies and clones."""
    inputs = make_inputs(*shape, DTYPES[dtype], device)
    grad_h = torch.randn(shape, device=device).to(DTYPES[dtype])
    h, _ = sru_recurrence(*inputs, backend=backend)

    def forward() -> object:
        return sru_recurrence(*inputs, backend=backend)

    @torch.no_grad()
    def inference() -> object:
        return sru_recurrence(*inputs, backend=backend)

    def backward() -> object:
        return torch.autograd.grad(h, inputs, grad_h, retain_graph=True)

    def both() -> object:
        return torch.autograd.grad(sru_recurrence(*inputs, backend=backend)[0], inputs, grad_h)

    half = (FORWARD_READS + FORWARD_WRITES) // 2, (BACKWARD_READS + BACKWARD_WRITES) // 2
    pairs = [[torch.ones(n, *shape, dtype=DTYPES[dtype], device=device) for _ in range(2)] for n in half]
    functions = {
        "copy of the forward's bytes": lambda: pairs[0][0].copy_(pairs[0][1]),
        "clone of the forward's bytes": lambda: pairs[0][1].clone(),
        "forward": forward,
        "forward without gradients": inference,
        "copy of the backward's bytes": lambda: pairs[1][0].copy_(pairs[1][1]),
        "clone of the backward's bytes": lambda: pairs[1][1].clone(),
        "backward": backward,
        "forward + backward": both,
    }
    measured = time_all(functions, rounds, device)
    forget_peak_memory(device)
    before = peak_memory(device)
    both()
    peak = peak_memory(device) - before
    rows = table(measured, shape[0] * shape[1] * shape[2] * DTYPES[dtype].itemsize)
    return {"shape": shape, "dtype": dtype, "peak_bytes": peak, "rows": rows}


def table(measured: dict[str, list[tuple]], unit: int) -> list[dict]:
    """A row for each function: milliseconds, bandwidth, page faults, ratio to the copy it is measured by.

    unit: the bytes of one tensor (L, B, D).
    """
    forward, backward = FORWARD_READS + FORWARD_WRITES, BACKWARD_READS + BACKWARD_WRITES
    described = {
        "copy of the forward's bytes": (forward, None),
        "clone of the forward's bytes": (forward, "copy of the forward's bytes"),
        "forward": (forward, "copy of the forward's bytes"),
        "forward without gradients": (forward - 1, "copy of the forward's bytes"),
        "copy of the backward's bytes": (backward, None),
        "clone of the backward's bytes": (backward, "copy of the backward's bytes"),
        "backward": (backward, "copy of the backward's bytes"),
        "forward + backward": (forward + backward, "copy of the forward's bytes"),
    }
    rows: dict[str, dict] = {}
    for name, (tensors, yardstick) in described.items():
        seconds, faults = zip(*measured[name])
        median = statistics.median(seconds)
        row = {"name": name, "median_ms": median * 1e3, "min_ms": min(seconds) * 1e3}
        row |= {"gb_per_s": tensors * unit / median / 1e9, "page_faults": statistics.median(faults)}
        if yardstick:
            row["ratio"] = row["median_ms"] / rows[yardstick]["median_ms"]
            row["ratio_of_min"] = row["min_ms"] / rows[yardstick]["min_ms"]
            row["yardstick"] = yardstick
        rows[name] = row
    return list(rows.values())


def show(result: dict) -> None:
    peak = f"{result['peak_bytes'] / 2**20:.0f} MiB"
    print(f"\n(L, B, D) = {result['shape']}, {result['dtype']}; forward + backward allocates {peak}")
    print(f"  {'':30}{'median ms':>10}{'min ms':>9}{'GB/s':>7}{'faults':>8}{'ratio':>7}{'of min':>8}")
    for row in result["rows"]:
        times = f"{row['median_ms']:10.2f}{row['min_ms']:9.2f}{row['gb_per_s']:7.1f}{row['page_faults']:8.0f}"
        ratios = f"{row['ratio']:7.2f}{row['ratio_of_min']:8.2f}" if "ratio" in row else ""
        print(f"  {row['name']:30}{times}{ratios}{'  x ' + row['yardstick'] if ratios else ''}")


def summary(results: list[dict]) -> dict[str, str]:
    """For each shape and direction its share of a copy's bandwidth."""
    lines = {}
    for result in results:
        for row in result["rows"]:
            if row["name"] in ("forward", "forward without gradients", "backward"):
                share = f"{1 / row['ratio']:.2f} of the copy's speed, {row['median_ms']:.3f} ms"
                lines[f"{tuple(result['shape'])} {result['dtype']} {row['name']}"] = share
    return lines


def shape_of(text: str) -> tuple[int, int, int]:
    numbers = tuple(int(number) for number in text.split(",") if number.isdigit())
    if len(numbers) != 3 or 0 in numbers:
        raise argparse.ArgumentTypeError(f"{text}: expected three numbers L,B,D")
    return numbers


def usable_device(text: str) -> str:
    device = torch.device(text)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise argparse.ArgumentTypeError("this torch finds no GPU")
        torch.cuda.set_device(device.index or 0)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=shape_of, action="append", metavar="L,B,D", help="may be given several times")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--backend", choices=list(backends()), help="default: the fastest for the device")
    parser.add_argument("--device", type=usable_device, default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own choice")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--keep-memory", action="store_true", help="let the C library keep freed memory (glibc)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write environment and results there")
    args = parser.parse_args()
    if args.keep_memory and not memory.keep():
        parser.error("--keep-memory: another C library than glibc, or the environment says otherwise (MALLOC_*)")
    if args.threads:
        torch.set_num_threads(args.threads)

    wrong = [f"{dtype}: {line}" for dtype in args.dtype for line in wrong_results(args.backend, dtype, args.device)]
    if wrong:
        print("wrong results, so no figures:", *wrong, sep="\n  ", file=sys.stderr)
        return 1
    about = environment(args.device) | {"keep_memory": args.keep_memory}
    print(*(f"{name}: {value}" for name, value in about.items()), sep="\n")
    results = []
    for shape in args.shape or SHAPES["cpu" if args.device == "cpu" else "cuda"]:
        for dtype in args.dtype:
            results.append(measure(shape, dtype, args.backend, args.rounds, args.device))
            show(results[-1])
            save(args.json, {"environment": about, "results": results, "summary": summary(results)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
