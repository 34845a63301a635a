"""Every way of attention at the sizes of the paper's models: time, rate, memory, after a check of the results.

    python examples/benchmarks/attention.py [--device cuda] [--rounds 10] [--json FILE] [--case B,L,D --dtype bf16]

Queries are the L positions of a segment, keys these and as many before them (the memory), causal, with the dropout of the
model, one head. A rate counts the products that such attention needs: 4 d' operations forward and 8 backward for each
pair of a query and a key that it sees. Outputs and gradients of two rows are compared with fp64 first; a way that is wrong
has no figures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from language_models import ARCHITECTURES, preset, training
from machine import environment, forget_peak_memory, peak_memory, save
from recurrence import DTYPES, shape_of, time_all, usable_device
from torch import Tensor

from fairseq_srupp.modules import attention
from fairseq_srupp.modules.masks import AttentionMask, causal_mask

TOLERANCE = {"fp32": 2e-5, "bf16": 3e-2, "fp16": 4e-3}  # of the largest value of a tensor


class Case(NamedTuple):
    """rows B, length L (as many keys before), size d'; names: of the models of this size."""

    rows: int
    length: int
    size: int
    dropout: float
    dtype: str
    names: str

    @property
    def operations(self) -> int:
        """Of the forward pass."""
        return 4 * self.size * self.rows * (self.length * self.length + self.length * (self.length + 1) // 2)


def cases(tiny: bool) -> list[Case]:
    if tiny:
        return [Case(2, 24, 20, 0.1, "bf16", "tiny"), Case(1, 16, 32, 0.0, "fp32", "tiny")]
    named: dict[tuple, list[str]] = {}
    for arch in ARCHITECTURES:
        options, how = preset(arch), training(arch)
        if not options.get("no_attention"):
            dropout = options.get("attention_dropout", options["dropout"])
            key = (how.rows, how.segment, options["attention_dim"], dropout)
            named.setdefault(key, []).append(arch.removeprefix("srupp_lm_"))
    named[160, 25, 256, 0.0] = ["iwslt14_de_en"]
    found = [Case(*key, "bf16", ", ".join(names)) for key, names in named.items()]
    others = [case for case in found if case.names.startswith(("enwik8_small", "enwik8_base,")) and case.size in (480, 768)]
    found += [case._replace(dtype=dtype) for dtype in ("fp16", "fp32") for case in others]
    first = ("enwik8_base,", "enwik8_small", "wiki103_base", "lm1b_base")
    return sorted(found, key=lambda case: not f"{case.names},".startswith(first))


def ways(tiny: bool) -> dict[str, Callable[..., Tensor]]:
    """The ways of the module; `products` also with other numbers of queries in a slice. All with the module's own call."""

    def by(way: str, most: int | None = None) -> Callable[..., Tensor]:
        def call(queries: Tensor, keys: Tensor, values: Tensor, mask: AttentionMask, dropout: float) -> Tensor:
            choose, usual = attention.choose, dict(attention.SLICE)
            attention.choose = lambda *_: way
            if most is not None:
                attention.SLICE[queries.device.type] = most
            try:
                return attention.attend(queries, keys, values, mask, dropout)
            finally:
                attention.choose = choose
                attention.SLICE.clear()
                attention.SLICE.update(usual)

        return call

    found = {"chosen": attention.attend, **{name: by(name) for name in attention.WAYS}}
    return found | {f"products, {most} queries": by("products", most) for most in ((8,) if tiny else (128, 256, 512))}


def inputs(case: Case, device: str) -> tuple[list[Tensor], AttentionMask]:
    """Queries (B, 1, L, d'), keys and values (B, 1, 2 L, d') as a layer has them: transposed from (L, B, d')."""
    generator, made = torch.Generator(device).manual_seed(0), []
    for length in (case.length, 2 * case.length, 2 * case.length):
        values = torch.randn(length, case.rows, 1, case.size, generator=generator, device=device).to(DTYPES[case.dtype])
        made.append(values.permute(1, 2, 0, 3).requires_grad_())
    return made, causal_mask(case.length, case.length, device=torch.device(device))


def errors(way: Callable, case: Case, device: str) -> dict[str, float]:
    """Largest difference of outputs and gradients from fp64, of the largest value of each, on two rows."""
    tensors, mask = inputs(case._replace(rows=min(2, case.rows)), device)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    query, key, value = exact
    scores = query @ key.transpose(-1, -2) / case.size**0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=device).triu(1 + scores.size(-1) - scores.size(-2))
    expected = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value
    got = way(*tensors, mask, 0.0)
    given = torch.randn_like(expected)
    pairs = [(got, expected)]
    pairs += zip(torch.autograd.grad(got, tensors, given.to(got.dtype)), torch.autograd.grad(expected, exact, given))
    found = {}
    for name, (mine, other) in zip(("output", "grad_queries", "grad_keys", "grad_values"), pairs):
        difference = (mine.double() - other).abs().max() / other.abs().max().clamp(min=1e-9)
        found[name] = difference.nan_to_num(nan=torch.inf).item()
    return found


def measure(way: Callable, case: Case, rounds: int, device: str) -> dict:
    tensors, mask = inputs(case, device)
    given = torch.randn_like(tensors[0])

    @torch.no_grad()
    def forward() -> object:
        return way(*tensors, mask, case.dropout)

    def both() -> object:
        return torch.autograd.grad(way(*tensors, mask, case.dropout), tensors, given)

    both()
    forget_peak_memory(device)
    before = peak_memory(device)
    both()
    peak = peak_memory(device) - before
    measured = time_all({"forward": forward, "both": both}, rounds, device)
    row = {"peak_mib": peak / 2**20}
    for name, factor in (("forward", 1), ("both", 3)):
        seconds = statistics.median(second for second, _ in measured[name])
        row |= {f"{name}_ms": seconds * 1e3, f"{name}_tflops": factor * case.operations / seconds / 1e12}
    return row


def row_of(name: str, way: Callable, case: Case, rounds: int, device: str) -> dict:
    """Figures of one way, or why there are none."""
    row = {**case._asdict(), "way": name}
    try:
        row["errors"] = errors(way, case, device)
        if max(row["errors"].values()) > TOLERANCE[case.dtype]:
            return {**row, "failed": "wrong results: " + ", ".join(f"{k} {v:.1e}" for k, v in row["errors"].items())}
        return row | measure(way, case, rounds, device)
    except Exception as error:
        return {**row, "failed": f"{type(error).__name__}: {error}"[:300]}


def describe(row: dict) -> str:
    if "failed" in row:
        return row["failed"].splitlines()[0][:110]
    return (
        f"forward {row['forward_ms']:.3f} ms, {row['forward_tflops']:.0f} TFLOP/s; both {row['both_ms']:.3f} ms, "
        f"{row['both_tflops']:.0f} TFLOP/s; {row['peak_mib']:.0f} MiB"
    )


def summary(rows: list[dict]) -> dict[str, str]:
    """For each case what is chosen, and the way that is fastest, forward and backward together."""
    lines = {}
    for chosen in (row for row in rows if row["way"] == "chosen"):
        same = [row for row in rows if "failed" not in row and row["names"] == chosen["names"]]
        same = [row for row in same if row["dtype"] == chosen["dtype"]]
        fastest = min(same, key=lambda row: row["both_ms"], default=chosen)
        case = f"({chosen['rows']}, {chosen['length']}, {chosen['size']}) {chosen['dtype']}"
        lines[case] = describe(chosen)
        if fastest is not chosen:
            lines[f"{case}, fastest: {fastest['way']}"] = describe(fastest)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", type=usable_device, default="cuda")
    parser.add_argument("--tiny", action="store_true", help="two small cases")
    parser.add_argument("--case", type=shape_of, action="append", metavar="B,L,D", help="instead of all models' sizes")
    parser.add_argument("--dtype", choices=TOLERANCE, default="bf16", help="of --case")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows: list[dict] = []
    about = environment(args.device)
    given = [Case(*case, 0.1, args.dtype, "given") for case in args.case or ()]
    for case in given or cases(args.tiny):
        print(f"\n(B, L, d') = ({case.rows}, {case.length}, {case.size}), {case.dtype}, dropout {case.dropout}: {case.names}")
        for name, way in ways(args.tiny).items():
            rows.append(row_of(name, way, case, 2 if args.tiny else args.rounds, args.device))
            print(f"  {name:24}{describe(rows[-1])}", flush=True)
            save(args.json, {**about, "rows": rows, "summary": summary(rows)})
    wrong = [row for row in rows if row["way"] == "chosen" and "failed" in row]
    print(*(f"{row['names']}, {row['dtype']}: {row['failed']}" for row in wrong), sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
