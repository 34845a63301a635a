"""Adaptive input and softmax against fairseq's, at WikiText-103's size: 267,735 words, cut-offs 19,997 / 39,997 / 199,997,
e = 1024, factor 4, all tied. Embeddings of a batch, its loss, and all gradients: time in turns, peak memory each by itself.

    python examples/benchmarks/adaptive.py [--json FILE] [--tokens 2048] [--hidden-size 3072] [--device cuda]
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from fairseq.modules import AdaptiveInput as FairseqInput
from fairseq.modules import AdaptiveSoftmax as FairseqSoftmax
from language_models import zipf
from machine import environment, forget_peak_memory, peak_memory, save
from torch import Tensor, nn

from fairseq_srupp.modules.adaptive import (
    AdaptiveInput,
    AdaptiveSoftmax,
    Bands,
    band_dims,
    band_embeddings,
    band_projections,
)

WORDS, CUTOFFS, DIM = 267_735, [19_997, 39_997, 199_997], 1024
NAMES = ("fairseq", "fairseq_srupp")


def build(name: str, hidden_size: int) -> nn.ModuleDict:
    if name == "fairseq":
        embed = FairseqInput(WORDS, 1, DIM, 4, hidden_size, list(CUTOFFS))
        softmax = FairseqSoftmax(WORDS, hidden_size, list(CUTOFFS), 0.0, adaptive_inputs=embed, tie_proj=True)
    else:
        bands = Bands(WORDS, CUTOFFS)
        dims = band_dims(bands, DIM, 4)
        embeddings = band_embeddings(bands, dims, hidden_size, clusters=True)
        projections = band_projections(dims, hidden_size)
        embed = AdaptiveInput(bands, embeddings, projections, padding_idx=1)
        softmax = AdaptiveSoftmax(bands, embeddings, projections)
    return nn.ModuleDict({"embed": embed, "softmax": softmax})


def step(modules: nn.ModuleDict, words: Tensor) -> Tensor:
    features = modules["embed"](words[:-1].unsqueeze(0))
    scores, targets = modules["softmax"](features, words[1:].unsqueeze(0))
    loss = sum(F.cross_entropy(s, t, reduction="sum") for s, t in zip(scores, targets) if t is not None)
    loss.backward()
    return loss.detach()


def peak(name: str, args: argparse.Namespace) -> float:
    """MiB that parameters, gradients and three steps need, in a process of their own."""
    command = [sys.executable, __file__, "--peak-of", name, "--tokens", str(args.tokens), "--device", args.device]
    command += ["--hidden-size", str(args.hidden_size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def show_peak(name: str, args: argparse.Namespace) -> None:
    modules, words = build(name, args.hidden_size).to(args.device), zipf(args.tokens + 1, WORDS).to(args.device)
    for parameter in modules.parameters():
        parameter.grad = torch.ones_like(parameter)
    forget_peak_memory(args.device)
    before = peak_memory(args.device)
    for _ in range(3):
        modules.zero_grad(set_to_none=False)
        step(modules, words)
    held = sum(2 * parameter.nbytes for parameter in modules.parameters())
    print((held + peak_memory(args.device) - before) / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden-size", type=int, default=3072)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", choices=NAMES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        return show_peak(args.peak_of, args)
    words = zipf(args.tokens + 1, WORDS).to(args.device)
    both = {name: build(name, args.hidden_size).to(args.device) for name in NAMES}
    seconds = {name: [] for name in NAMES}
    for _ in range(args.rounds + 1):
        for name, modules in both.items():
            start = time.perf_counter()
            modules.zero_grad()
            step(modules, words).item()
            seconds[name].append(time.perf_counter() - start)
    result = {
        **environment(args.device),
        "tokens": args.tokens,
        "hidden_size": args.hidden_size,
        "seconds": {name: statistics.median(times[1:]) for name, times in seconds.items()},
        "peak_mib": {name: peak(name, args) for name in NAMES},
        "parameters": {name: sum(p.numel() for p in modules.parameters()) for name, modules in both.items()},
    }
    for name in NAMES:
        print(
            f"{name:14} {result['parameters'][name]:>11,} parameters {result['seconds'][name] * 1e3:8.1f} ms "
            f"{result['peak_mib'][name]:8.0f} MiB"
        )
    save(args.json, result)


if __name__ == "__main__":
    main()
