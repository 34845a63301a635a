"""A rectified step of FusedRAdam against torch.optim.RAdam's, its default and for-each, in turns in one process.

python examples/benchmarks/optimizer.py [--json FILE] [--tensors 20] [--size 1000000] [--threads 1] [--device cuda]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from machine import environment

from fairseq_srupp.optim import FusedRAdam

OPTIMIZERS = {
    "torch": lambda weights: torch.optim.RAdam(weights, weight_decay=0.1, decoupled_weight_decay=True),
    "torch, for-each": lambda weights: torch.optim.RAdam(weights, weight_decay=0.1, decoupled_weight_decay=True, foreach=True),
    "fused": lambda weights: FusedRAdam(weights, weight_decay=0.1),
}


def build(name: str, args: argparse.Namespace) -> torch.optim.Optimizer:
    """After the first steps, which are not rectified."""
    weights = [torch.nn.Parameter(torch.randn(args.size, device=args.device)) for _ in range(args.tensors)]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer = OPTIMIZERS[name](weights)
    for _ in range(6):
        optimizer.step()
    return optimizer


def seconds(optimizer: torch.optim.Optimizer, device: str) -> float:
    wait = (lambda: None) if device == "cpu" else torch.cuda.synchronize
    wait()
    start = time.perf_counter()
    optimizer.step()
    wait()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=20)
    parser.add_argument("--size", type=int, default=1_000_000, help="numbers in a tensor")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    optimizers = {name: build(name, args) for name in OPTIMIZERS}
    times = {name: [] for name in OPTIMIZERS}
    for _ in range(args.rounds):
        for name, optimizer in optimizers.items():
            times[name].append(seconds(optimizer, args.device))
    for name, all_times in times.items():
        print(f"{name:16} {statistics.median(all_times) * 1e3:8.2f} ms, shortest {min(all_times) * 1e3:8.2f} ms")
    if args.json:
        settings = {"tensors": args.tensors, "size": args.size}
        args.json.write_text(json.dumps({**environment(args.device), **settings, "seconds": times}, indent=1) + "\n")


if __name__ == "__main__":
    main()
