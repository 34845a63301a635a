"""Speed of fairseq-eval-lm at batch size 1 and a window of 2560, as in the paper's table 7: srupp_lm, with attention in
every layer and in every 5th, against fairseq's transformer_lm of as many parameters.

    python examples/benchmarks/evaluation.py [--json FILE] [--window 2560] [--tokens 20481] [--rounds 3] [--device cuda]

A transformer sees the window only at the end of a block: with --context-window 2048 each block of 2560 scores its last 512
tokens, so that a token has at least 2048 before it; with 0 it scores all, the first of which see nothing. srupp_lm keeps the
keys and values of the window, and scores every token with all of it. Random bytes, random weights: the speed is the same.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from machine import environment, save

from fairseq_srupp.compat.user_dir import PACKAGE_DIR

SRUPP = "--arch srupp_lm --layers 10 --share-decoder-input-output-embed"
TRANSFORMER = (
    "--arch transformer_lm --decoder-layers 6 --decoder-embed-dim 256 --decoder-input-dim 256 --decoder-output-dim 256 "
    "--decoder-ffn-embed-dim 1024 --decoder-attention-heads 4 --share-decoder-input-output-embed"
)


def run(module: str, *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout + done.stderr


def prepare(folder: Path, tokens: int) -> str:
    text = np.random.default_rng(0).integers(0, 205, tokens, dtype=np.uint8)
    text.tofile(folder / "text")
    splits = [word for split in ("train", "valid", "test") for word in (f"--{split}", str(folder / "text"))]
    run("fairseq_srupp", "prepare-bytes", *splits, "--destdir", str(folder / "data"))
    return str(folder / "data")


def train(data: str, name: str, model: str, task: str, window: int, device: "list[str]") -> "tuple[str, int]":
    """A checkpoint after one update, and its number of parameters."""
    save_dir = f"{data}/{name}"
    words = f"--task {task} --tokens-per-sample {window} --batch-size 1 --optimizer adam --max-update 1 {model}"
    log = run(
        "fairseq_cli.train", data, "--user-dir", PACKAGE_DIR, *words.split(), "--save-dir", save_dir,
        "--disable-validation", *device,
    )  # fmt: skip
    return f"{save_dir}/checkpoint_last.pt", int(re.search(r"shared model params: ([\d,]+)", log)[1].replace(",", ""))


def evaluate(data: str, checkpoint: str, task: str, window: int, more: "list[str]") -> float:
    """Tokens a second."""
    log = run(
        "fairseq_cli.eval_lm", data, "--user-dir", PACKAGE_DIR, "--task", task, "--path", checkpoint,
        "--tokens-per-sample", str(window), "--gen-subset", "test", "--batch-size", "1", *more,
    )  # fmt: skip
    return float(re.search(r"\(([\d.]+) tokens/s\)", log)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=int, default=2560)
    parser.add_argument("--tokens", type=int, default=20481)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = ["--cpu"] if args.device == "cpu" else []
    streaming, plain = "streaming_language_modeling", "language_modeling"
    context = args.window * 4 // 5
    models = {  # name: task, model, options of evaluation
        "srupp_lm": (streaming, f"{SRUPP} --hidden-size 640 --attention-dim 160", []),
        "srupp_lm, k = 5": (
            streaming, f"{SRUPP} --hidden-size 672 --attention-dim 168 --attention-every-n-layers 5", []
        ),
        f"transformer_lm, context window {context}": (plain, TRANSFORMER, ["--context-window", str(context)]),
        "transformer_lm, context window 0": (plain, TRANSFORMER, ["--context-window", "0"]),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(Path(folder), args.tokens)
        trained = {
            name: train(data, f"run{i}", model, task, args.window, device)
            for i, (name, (task, model, _)) in enumerate(models.items())
        }
        speeds = {name: [] for name in models}
        for _ in range(args.rounds):
            for name, (task, _, more) in models.items():
                speeds[name].append(evaluate(data, trained[name][0], task, args.window, more + device))
    result = {
        **environment(args.device),
        "window": args.window,
        "tokens": args.tokens - 1,
        "tokens_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "rounds": speeds,
        "parameters": {name: parameters for name, (_, parameters) in trained.items()},
    }
    for name, speed in result["tokens_per_second"].items():
        print(f"{name:40} {result['parameters'][name]:>11,} parameters {speed:10,.0f} tokens/s")
    save(args.json, result)


if __name__ == "__main__":
    main()
