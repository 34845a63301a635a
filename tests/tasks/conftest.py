"""Byte data, and a language model trained on it. Tests copy what they write into."""

import numpy as np
import pytest
from streams import SIZES, SRUPP, run_train

from fairseq_srupp.data.byte_corpus import ByteRange, dictionary_lines, write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder of byte data; the sizes of its splits are SIZES."""
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(3)
    words = [bytes(random.choice(list(b"etaoinshrdlu"), 1 + i % 5).tolist()) for i in range(40)]
    text = b" ".join(words[i] for i in random.zipf(1.3, 5000) % 40)
    counts, splits = np.bincount(list(text), minlength=256), {}
    for split, size in SIZES.items():
        (folder / split).write_bytes(text[:size])
        splits[split] = ByteRange(str(folder / split), 0, size)
    write_corpus(splits, dictionary_lines(counts), str(folder / "bin"), lambda *_: None)
    return str(folder / "bin")


@pytest.fixture(scope="session")
def trained(corpus, tmp_path_factory):
    """A folder with checkpoints of srupp_lm, the last in the middle of the second epoch."""
    save_dir = tmp_path_factory.mktemp("trained")
    options = ["--tokens-per-sample", 32, "--batch-size", 4, "--max-update", 30, "--save-interval-updates", 10]
    run_train(corpus, save_dir, *SRUPP, *options, "--keep-interval-updates", 1, "--lr", 0.05)
    return save_dir
