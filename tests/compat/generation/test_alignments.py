"""fairseq's criterion that compares attention with given alignments trains srupp_transformer."""

import os
import re

import pytest

from fairseq_srupp.compat.user_dir import PACKAGE_DIR

CASES = os.path.join(os.path.dirname(PACKAGE_DIR), os.pardir, "shared", "cases", "alignments")


@pytest.mark.skipif(not os.path.isdir(CASES), reason=f"{CASES} is not here")
def test_training_with_fairseqs_criterion(fairseq_cli, tmp_path, caplog):
    prefixes = " ".join(f"--{split}pref {CASES}/train" for split in ("train", "valid"))
    fairseq_cli("preprocess", "-s de -t en --align-suffix align --workers 1", prefixes, "--destdir", tmp_path)
    with caplog.at_level("INFO"):
        fairseq_cli(
            "train",
            tmp_path,
            f"--user-dir {PACKAGE_DIR} --cpu --arch srupp_transformer --hidden-size 12 --attention-dim 8 --embed-dim 6",
            "--encoder-layers 1 --decoder-layers 2 --optimizer adam --lr 0.03 --max-tokens 300 --num-workers 0",
            "--load-alignments --criterion label_smoothed_cross_entropy_with_alignment --alignment-lambda 1",
            "--max-update 40 --no-save --eval-bleu",
        )
    losses = [float(found) for found in re.findall(r"valid on.* alignment_loss ([\d.]+)", caplog.text)]
    assert losses[-1] < 0.7 * losses[0]
