"""A stream whose validation fails goes on from what was saved first, its state included."""

import pytest
import torch
from fairseq.trainer import Trainer
from streams import SRUPP, run_train


def test_training_goes_on_exactly(corpus, tmp_path, monkeypatch):
    options = [*SRUPP, "--tokens-per-sample", 32, "--batch-size", 4, "--save-interval-updates", 10, "--no-epoch-checkpoints"]
    options += ["--best-checkpoint-metric", "bpc", "--max-update", 30]
    run_train(corpus, tmp_path / "whole", *options)
    valid_step = Trainer.valid_step

    def fails(self, sample):
        if self.get_num_updates() == 20:
            raise RuntimeError("a fault")
        return valid_step(self, sample)

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="a fault"):
        patched.setattr(Trainer, "valid_step", fails)
        run_train(corpus, tmp_path / "failed", *options)
    run_train(corpus, tmp_path / "failed", *options)
    whole, failed = (torch.load(tmp_path / run / "checkpoint_last.pt", weights_only=True) for run in ("whole", "failed"))
    assert whole["optimizer_history"][-1]["num_updates"] == failed["optimizer_history"][-1]["num_updates"] == 30
    torch.testing.assert_close(failed["model"], whole["model"], rtol=0, atol=0)
