"""Writes a German-English corpus from a small grammar: distinct sentences, no test sentence in training.

    python corpus.py --output DIR [--train 7000] [--valid 400] [--test 600] [--seed 1]

DIR gets train, valid and test, each as .de and .en with one sentence a line. Equal seeds give equal files.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from grammar.sentences import Sentences

SIZES = {"train": 7000, "valid": 400, "test": 600}


def write_corpus(output: Path, seed: int = 1, **sizes: int) -> dict[str, int]:
    """Writes `output`/{train,valid,test}.{de,en} and returns the number of lines in each split.

    No two pairs share a sentence on either side, so neither do the splits.
    """
    sizes = {**SIZES, **sizes}
    sentences, pairs, seen = Sentences(random.Random(seed)), [], set()
    while len(pairs) < sum(sizes.values()):
        pair = sentences.pair()
        keys = {text.lower().rstrip(".?") for text in pair}
        if seen.isdisjoint(keys):
            pairs.append(pair)
            seen |= keys
    output.mkdir(parents=True, exist_ok=True)
    for split, size in sizes.items():
        part, pairs = pairs[:size], pairs[size:]
        for language, lines in zip(("de", "en"), zip(*part)):
            (output / f"{split}.{language}").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return sizes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    for split, size in SIZES.items():
        parser.add_argument(f"--{split}", type=int, default=size)
    parser.add_argument("--seed", type=int, default=1)
    sizes = write_corpus(**vars(parser.parse_args()))
    print(", ".join(f"{split}: {size} pairs" for split, size in sizes.items()))
