"""Training throughput of srupp_lm against fairseq's transformer_lm: same parameters, context and batch, in one run.

    python examples/benchmarks/throughput.py [--json FILE] [--batch 8] [--length 256] [--rounds 5] [--device cuda --amp]
    python examples/benchmarks/throughput.py --paper [--arch srupp_lm_enwik8_base ...] [--models srupp_lm compiled]

Each model makes whole updates (forward, backward, clipping, optimizer: RAdam for srupp_lm, fused AdamW for the transformer)
on the same random tokens; the models take turns, so that all meet the same machine. srupp_lm with the previous segment as
memory, as in the paper; `no-memory` has the transformer's context; `compiled` is srupp_lm through torch.compile.

With --paper the models and batches are the paper's (rows of one GPU, dropout, bf16 autocast), and each also has the share of
the rate at which this device multiplies bf16 matrices of 8192 x 8192 that its updates reach: the operations that an update
needs are counted by language_models.update_operations, whatever the model really does. On a GPU nothing here waits for it
between the first and the last update of a round.
"""

import argparse
import gc
import statistics
import sys
import time
import traceback
from pathlib import Path

import torch
from language_models import (
    SMALL,
    SMALL_TRANSFORMER,
    batch_of,
    equal_transformer_lm,
    make_update,
    parameters_of,
    preset,
    srupp_lm,
    task_of,
    training,
    transformer_lm,
    update_operations,
    zipf,
)
from machine import environment, forget_peak_memory, peak_memory, save, slowest_kernels, synchronize
from recurrence import time_all, usable_device

from fairseq_srupp.optim.radam import FairseqRAdam, FairseqRAdamConfig

PAPER = ["srupp_lm_enwik8_base", "srupp_lm_enwik8_small", "srupp_lm_wiki103_base", "srupp_lm_lm1b_base"]
TINY = {"hidden_size": 32, "attention_dim": 8, "layers": 2}
TINY_WORDS = {"embed_dim": 32, "adaptive_softmax_cutoff": "60,120"}
MODELS = ["transformer_lm", "no-memory", "srupp_lm", "compiled"]


class Case:
    """One size of model and batch.

    arch: of the paper; None: 4.8M parameters, as small as a CPU wants them.
    """

    def __init__(self, arch, args):
        self.arch, self.options, rows, self.length, symbols = arch, SMALL, 8, 256, 209
        if arch is not None:
            self.options = preset(arch)
            rows, self.length, symbols = training(arch)
        if args.tiny:
            words = TINY_WORDS if self.options.get("adaptive_input") else {}
            self.options = {**self.options, **TINY, **words}
            rows, self.length, symbols = 2, 16, 209
        self.length, self.rows = args.length or self.length, args.batch or rows
        self.task = task_of(symbols)
        tokens = zipf(args.updates * self.rows * (self.length + 1), symbols)
        self.batches = [batch_of(some, args.device) for some in tokens.view(args.updates, self.rows, -1)]

    def build(self, name: str):
        """The model, and how much memory it has."""
        if name == "transformer_lm":
            if self.options is SMALL:
                return transformer_lm(self.task, self.length, **SMALL_TRANSFORMER), 0
            with torch.device("meta"):
                parameters = parameters_of(srupp_lm(self.task, **self.options, mem_len=self.length))
            return equal_transformer_lm(self.task, self.length, parameters, self.options), 0
        memory = 0 if name == "no-memory" else self.length
        compiled = {"compile": True} if name == "compiled" else {}
        return srupp_lm(self.task, **self.options, mem_len=memory, **compiled), memory


class Run:
    """One model in training."""

    def __init__(self, name: str, case: Case, args):
        self.args, self.case, self.updates, self.seconds = args, case, 0, []
        forget_peak_memory(args.device)
        before = peak_memory(args.device)
        with torch.device(args.device):  # where hundreds of millions of random numbers take no time
            model, self.memory = case.build(name)
        self.model = model.to(args.device).train()
        self.streaming, parameters = self.memory > 0, list(model.parameters())
        if name == "transformer_lm":
            self.optimizer = torch.optim.AdamW(parameters, lr=3e-4, weight_decay=0.1, fused=True)
        else:
            self.optimizer = FairseqRAdam(FairseqRAdamConfig(lr=[3e-4], weight_decay=0.1), parameters)
        begin = time.perf_counter()
        self.make(args.warmup)
        synchronize(args.device)
        self.row = {
            "arch": case.arch,
            "model": name,
            "parameters": parameters_of(model),
            "rows": case.rows,
            "length": case.length,
            "memory": self.memory,
            "warmup_seconds": time.perf_counter() - begin,
            "peak_mib": (peak_memory(args.device) - before) / 2**20,  # of building, of which little is left, and updates
            "operations": update_operations(model, case.batches[0], self.memory),
        }

    def make(self, updates: int) -> None:
        for i in range(updates):
            batch = self.case.batches[i % len(self.case.batches)]
            stream = ("train", 1, self.updates) if self.streaming else ()
            make_update(self.model, self.optimizer, batch, self.updates, amp=self.args.amp, stream=stream)
            self.updates += 1

    def timed(self) -> None:
        """One round: the seconds of an update."""
        synchronize(self.args.device)
        begin = time.perf_counter()
        self.make(self.args.updates)
        synchronize(self.args.device)
        self.seconds.append((time.perf_counter() - begin) / self.args.updates)

    def figures(self, rate: "float | None") -> dict:
        """rate: operations a second of the device's matrix product."""
        if not self.seconds:
            return self.row
        median, tokens = statistics.median(self.seconds), self.case.rows * self.case.length
        row = {**self.row, "ms": median * 1e3, "tokens_per_second": tokens / median}
        row["rounds"] = [tokens / seconds for seconds in self.seconds]
        if rate:
            row["share_of_matrix_rate"] = self.row["operations"] / median / rate
        return row


def matrix_rate(device: str, size: int) -> float:
    """Operations a second of a product of bf16 matrices of size x size, random values."""
    left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    measured = time_all({"product": lambda: left @ right}, 10, device)["product"]
    return 2 * size**3 / statistics.median(seconds for seconds, _ in measured)


def measure(case: Case, args, rate: "float | None", keep) -> "list[dict]":
    """The rows of all models of a case; keep(rows) is called whenever there is more to keep."""
    runs, rows = {}, {}

    def attempt(name: str, work) -> None:
        """One model's failure is not that of the others."""
        try:
            work()
            rows[name] = runs[name].figures(rate)
        except Exception as error:
            traceback.print_exc()
            rows[name] = {"arch": case.arch, "model": name, "failed": f"{type(error).__name__}: {error}"[:500]}
            runs.pop(name, None)
        keep(list(rows.values()))

    for name in args.models:
        attempt(name, lambda: runs.update({name: Run(name, case, args)}))
        gc.collect()  # what a failed one has left
    for _ in range(args.rounds):
        for name in list(runs):
            attempt(name, runs[name].timed)
    for name, run in runs.items() if args.profile else ():
        try:
            rows[name]["kernels"] = slowest_kernels(lambda: run.make(2), args.device)
        except Exception as error:  # a profiler that is not allowed to see the device
            rows[name]["kernels"] = f"{type(error).__name__}: {error}"[:300]
        keep(list(rows.values()))
    return list(rows.values())


def summary(rows: "list[dict]", rate: "float | None") -> "dict[str, str]":
    lines = {"matrix product": f"{rate / 1e12:.0f} TFLOP/s"} if rate else {}
    for row in rows:
        reference = next((r for r in rows if r["arch"] == row["arch"] and r["model"] == "transformer_lm"), {})
        text = row.get("failed", "no round finished")
        if "ms" in row:
            text = f"{row['parameters']:>11,} parameters {row['tokens_per_second']:>9,.0f} tokens/s"
            text += f"  x {row['tokens_per_second'] / reference['tokens_per_second']:.2f}" if "ms" in reference else ""
            if rate:
                text += f", {row['share_of_matrix_rate']:.1%} of the matrix rate, {row['peak_mib'] / 1024:.1f} GiB"
        lines[" ".join(filter(None, (row["arch"], row["model"])))] = text.splitlines()[0]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", help="architectures of the paper")
    parser.add_argument("--paper", action="store_true", help=f"as the paper trains; by default {' '.join(PAPER)}")
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--batch", type=int, help="rows")
    parser.add_argument("--length", type=int, help="tokens per sample")
    parser.add_argument("--updates", type=int, default=4, help="updates in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=4, help="updates before the first round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", type=usable_device, default="cpu")
    parser.add_argument("--amp", action="store_true", help="bf16 autocast")
    parser.add_argument("--profile", action="store_true", help="keep the 12 kernels that take most time in the JSON")
    parser.add_argument("--tiny", action="store_true", help="sizes that tell nothing")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.paper, args.amp = args.paper or bool(args.arch), args.amp or args.paper or bool(args.arch)
    args.models = args.models or (["srupp_lm", "transformer_lm"] if args.paper else MODELS[:3])
    if args.tiny:
        args.updates, args.rounds, args.warmup = 2, 1, 2
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rate = matrix_rate(args.device, 256 if args.tiny else 8192) if args.paper else None
    settings = {name: value for name, value in vars(args).items() if name != "json"}
    result = {**environment(args.device), "settings": settings, "matrix_rate": rate}
    rows: "list[dict]" = []

    def keep(more: "list[dict]") -> None:
        everything = rows + more
        save(args.json, {**result, "rows": everything, "summary": summary(everything, rate)})

    for arch in (args.arch or PAPER) if args.paper else [None]:
        rows += measure(Case(arch, args), args, rate, keep)
        gc.collect()
        torch.compiler.reset()  # or the next case would be compiled for the sizes of both
        if args.device != "cpu":
            torch.cuda.empty_cache()
        shown = {k: v for k, v in summary(rows, rate).items() if arch is None or k.startswith(arch)}
        print(*(f"{name:40} {text}" for name, text in shown.items()), sep="\n", flush=True)
    return 1 if any("failed" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
