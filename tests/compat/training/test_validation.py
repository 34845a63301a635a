"""What goes wrong in validation is told before training, or costs no work."""

import pytest
import torch

from fairseq_srupp.compat.errors import UserError


def state(path):
    loaded = torch.load(path, weights_only=True)
    loaded["extra_state"].pop("previous_training_time", None)
    return loaded


@pytest.mark.parametrize(
    "options, line",
    [
        ("bleu", "--best-checkpoint-metric bleu: validation logs .*loss.*ppl.*; bleu needs --eval-bleu"),
        ("bpc", "--best-checkpoint-metric bpc: validation logs .*ppl.*; bpc is of data of bytes"),
        ("nll_los --criterion label_smoothed_cross_entropy", "nll_los: validation logs .*nll_loss"),
    ],
)
def test_a_metric_that_will_not_be_there_is_told_before_training(options, line, fairseq_cli, text, tmp_path, caplog):
    with caplog.at_level("INFO"), pytest.raises(UserError, match=line):
        fairseq_cli("train", text.train, "--max-update 4 --save-dir", tmp_path, "--best-checkpoint-metric", options)
    assert "begin training epoch" not in caplog.text


@pytest.mark.parametrize("options", ["loss", "ppl", "bsz", "bpc --disable-validation"])
def test_metrics_that_are_there(options, fairseq_cli, text, tmp_path):
    fairseq_cli("train", text.train, "--max-update 1 --save-dir", tmp_path, "--best-checkpoint-metric", options)
    assert (tmp_path / "checkpoint_last.pt").exists()


def test_a_metric_that_depends_on_what_a_criterion_is_told(fairseq_cli, text, tmp_path):
    """Accuracy may be logged, and is not without --report-accuracy: one line, after the epoch is saved."""
    words = f"{text.train} --criterion label_smoothed_cross_entropy --best-checkpoint-metric accuracy --max-epoch 1"
    words += f" --maximize-best-checkpoint-metric --save-dir {tmp_path}"
    with pytest.raises(UserError, match="--best-checkpoint-metric accuracy: validation logs .*nll_loss"):
        fairseq_cli("train", words)
    assert {path.name for path in tmp_path.glob("*.pt")} == {"checkpoint1.pt", "checkpoint_last.pt"}
    fairseq_cli("train", words, "--report-accuracy --max-epoch 2")
    assert (tmp_path / "checkpoint_best.pt").exists()


@pytest.mark.parametrize("failing", [KeyError("a key"), UserError("a mistake"), RuntimeError("a fault")])
def test_the_epoch_is_saved_before_the_error_is_told(failing, fairseq_cli, text, tmp_path, monkeypatch, caplog):
    from fairseq.trainer import Trainer

    train = f"{text.train} --save-interval-updates 3 --dropout 0.1 --max-update 9"
    fairseq_cli("train", train, "--save-dir", tmp_path / "whole")

    valid_step = Trainer.valid_step

    def fails(self, sample):
        if self.get_num_updates() == 6:
            raise failing
        return valid_step(self, sample)

    with monkeypatch.context() as patched, pytest.raises(type(failing)) as raised:
        patched.setattr(Trainer, "valid_step", fails)
        fairseq_cli("train", train, "--save-dir", tmp_path / "failed")
    assert raised.value is failing
    assert "validation failed" in caplog.text

    names = {path.name for path in (tmp_path / "failed").glob("*.pt")}
    assert names == {"checkpoint_1_3.pt", "checkpoint_1_6.pt", "checkpoint_best.pt", "checkpoint_last.pt"}
    saved, expected = (state(tmp_path / run / "checkpoint_1_6.pt") for run in ("failed", "whole"))
    assert saved["extra_state"]["train_iterator"] == expected["extra_state"]["train_iterator"]
    for part in ("model", "last_optimizer_state"):
        torch.testing.assert_close(saved[part], expected[part], rtol=0, atol=0)

    fairseq_cli("train", train, "--save-dir", tmp_path / "failed")
    saved, expected = (state(tmp_path / run / "checkpoint_last.pt") for run in ("failed", "whole"))
    for part in ("model", "last_optimizer_state"):
        torch.testing.assert_close(saved[part], expected[part], rtol=0, atol=0)


def test_nothing_is_saved_that_was_not_to_be(fairseq_cli, text, tmp_path, monkeypatch):
    from fairseq.trainer import Trainer

    def fails(self, sample):
        raise RuntimeError("a fault")

    monkeypatch.setattr(Trainer, "valid_step", fails)
    with pytest.raises(RuntimeError):
        fairseq_cli("train", text.train, "--max-update 2 --no-save --save-dir", tmp_path)
    assert not list(tmp_path.glob("*.pt"))
