"""fairseq takes what `python -m fairseq_srupp average-checkpoints` writes."""

import re

from fairseq_srupp import cli


def test_evaluation_and_fine_tuning(text, trained, tmp_path, fairseq_cli, caplog):
    caplog.set_level("INFO")
    mean = tmp_path / "mean.pt"
    assert cli.main(["average-checkpoints", "--dir", str(trained), "--last", "2", "--output", str(mean)]) == 0
    fairseq_cli("eval-lm", text.data, "--cpu --gen-subset valid --tokens-per-sample 16 --batch-size 8 --path", mean)
    assert float(re.search(r"Loss \(base 2\): ([\d.]+)", caplog.text).group(1)) > 1
    fairseq_cli("train", text.train, "--max-update 1 --finetune-from-model", mean, "--save-dir", tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint_last.pt").exists()
