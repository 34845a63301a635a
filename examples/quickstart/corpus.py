"""Writes a German-English corpus from a small grammar: distinct sentences, no test sentence in training.

    python corpus.py --output DIR [--train 7000] [--valid 400] [--test 600] [--seed 1]

DIR gets train, valid and test, each as .de and .en with one sentence a line. Equal seeds give equal files.
"""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path

from grammar.sentences import Pair, Sentences

SPLITS = ("train", "valid", "test")


def distinct_pairs(count: int, seed: int) -> list[Pair]:
    """`count` pairs of which no two share a German or an English sentence, capitals and punctuation aside."""
    sentences, pairs, seen = Sentences(random.Random(seed)), [], (set(), set())
    while len(pairs) < count:
        pair = sentences.pair()
        keys = pair and [_key(text) for text in pair]
        if keys and keys[0] not in seen[0] and keys[1] not in seen[1]:
            pairs.append(pair)
            seen[0].add(keys[0])
            seen[1].add(keys[1])
    return pairs


def write_corpus(
    output: Path, train: int = 7000, valid: int = 400, test: int = 600, seed: int = 1
) -> dict[str, int]:
    """Writes `output`/{train,valid,test}.{de,en} and returns the number of lines in each split.

    The pairs share no sentence on either side, so neither do the splits.
    """
    output.mkdir(parents=True, exist_ok=True)
    sizes = dict(zip(SPLITS, (train, valid, test)))
    pairs = distinct_pairs(sum(sizes.values()), seed)
    start = 0
    for split, size in sizes.items():
        for side, language in enumerate(("de", "en")):
            lines = [pair[side] + "\n" for pair in pairs[start : start + size]]
            (output / f"{split}.{language}").write_text("".join(lines), encoding="utf-8")
        start += size
    return sizes


def _key(sentence: str) -> str:
    return " ".join(re.findall(r"\w+", sentence.lower()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    for split, size in zip(SPLITS, (7000, 400, 600)):
        parser.add_argument(f"--{split}", type=int, default=size)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    sizes = write_corpus(**vars(args))
    print(", ".join(f"{split}: {size} pairs" for split, size in sizes.items()))


if __name__ == "__main__":
    main()
