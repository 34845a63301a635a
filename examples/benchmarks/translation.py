"""Speed of srupp_transformer against fairseq's transformer_iwslt_de_en of as many parameters: training and beam search.

    python examples/benchmarks/translation.py [--json FILE] [--rounds 3] [--device cuda] [--options "--amp"]

Training: target tokens a second of fairseq-train, batches of 4,096 target tokens. Search: sentences a second of
fairseq-generate, beam 5, batches of 32 sentences, 500 lines; every translation has 25 tokens, as long as the average source,
so that both models make as many steps with their random weights. The models take turns.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from machine import environment

from fairseq_srupp.compat.user_dir import PACKAGE_DIR

WORDS, TOKENS = 10_000, 25
MODELS = {
    "transformer_iwslt_de_en": "--arch transformer_iwslt_de_en",
    "srupp_transformer": "--arch srupp_transformer_iwslt_de_en --hidden-size 1472 --attention-dim 368 --embed-dim 512",
    "srupp_transformer, k = 2": (
        "--arch srupp_transformer_iwslt_de_en --hidden-size 1520 --attention-dim 380 --embed-dim 512 "
        "--attention-every-n-layers 2"
    ),
}


def run(module: str, *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout + done.stderr


def prepare(folder: Path) -> str:
    """Random sentences: words as frequent as in text, 10 to 40 of them."""
    random = np.random.default_rng(0)
    weights = 1 / (np.arange(WORDS) + 2.7)
    for split, lines in (("train", 4000), ("valid", 10), ("test", 500)):
        for lang in ("de", "en"):
            words = (random.choice(WORDS, random.integers(10, 41), p=weights / weights.sum()) for _ in range(lines))
            text = "".join(" ".join(f"{lang}{word}" for word in line) + "\n" for line in words)
            if split == "train":  # every word is there
                text += "".join(f"{lang}{word}" + (" " if word % 25 < 24 else "\n") for word in range(WORDS))
            (folder / f"{split}.{lang}").write_text(text)
    prefixes = [word for split in ("train", "valid", "test") for word in (f"--{split}pref", str(folder / split))]
    run("fairseq_cli.preprocess", "--source-lang", "de", "--target-lang", "en", *prefixes, "--destdir", f"{folder}/data")
    return f"{folder}/data"


def train(data: str, save_dir: str, model: str, updates: int, options: "list[str]") -> "tuple[float, int]":
    """Target tokens a second after the first updates, and the number of parameters; leaves a checkpoint."""
    words = f"--share-decoder-input-output-embed --dropout 0.1 --max-tokens 4096 --optimizer adam --lr 1e-4 {model}"
    log = run(
        "fairseq_cli.train", data, "--user-dir", PACKAGE_DIR, *words.split(), "--save-dir", save_dir,
        "--max-update", str(updates), "--log-interval", "2", "--log-format", "simple", "--disable-validation",
        "--no-epoch-checkpoints", "--reset-optimizer", "--reset-dataloader", "--reset-meters", "--seed", "1", *options,
    )  # fmt: skip
    speeds = [float(wps) for wps in re.findall(r"train_inner.*wps=([\d.]+)", log)]
    parameters = int(re.search(r"shared model params: ([\d,]+)", log)[1].replace(",", ""))
    return statistics.median(speeds[1:]), parameters


def search(data: str, save_dir: str, options: "list[str]") -> float:
    """Sentences a second."""
    log = run(
        "fairseq_cli.generate", data, "--user-dir", PACKAGE_DIR, "--path", f"{save_dir}/checkpoint_last.pt",
        "--beam", "5", "--batch-size", "32", "--max-len-b", str(TOKENS), "--min-len", str(TOKENS), *options,
    )  # fmt: skip
    return float(re.search(r"([\d.]+) sentences/s", log)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=10, help="of each round")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--options", default="", help="of fairseq-train, such as --amp")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = ["--cpu"] if args.device == "cpu" else []
    training, searching, parameters = ({name: [] for name in MODELS} for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(Path(folder))
        for round_ in range(args.rounds):
            for number, (name, model) in enumerate(MODELS.items()):
                save_dir = f"{folder}/run{number}.{round_}"
                speed, count = train(data, save_dir, model, args.updates, device + args.options.split())
                training[name].append(speed)
                parameters[name] = count
                searching[name].append(search(data, save_dir, device))
    baseline = next(iter(MODELS))
    rows = {}
    for name in MODELS:
        tokens, sentences = (statistics.median(values[name]) for values in (training, searching))
        ratios = tokens / statistics.median(training[baseline]), sentences / statistics.median(searching[baseline])
        rows[name] = {"parameters": parameters[name], "training": training[name], "search": searching[name]}
        print(
            f"{name:26} {parameters[name]:>11,} parameters, training {tokens:8,.0f} tokens/s (x {ratios[0]:.2f}), "
            f"search {sentences:7.2f} sentences/s (x {ratios[1]:.2f})"
        )
    if args.json:
        args.json.write_text(json.dumps({**environment(args.device), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
