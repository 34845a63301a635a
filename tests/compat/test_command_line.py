"""--bf16 means bfloat16 on the device at hand, not a TPU; a forgotten --task is told."""

import pytest
import torch

from fairseq_srupp.compat.errors import UserError


@pytest.fixture
def parsed(monkeypatch, fairseq_cli):
    from fairseq import options

    def parse(*words):
        line = ["data", "--task", "language_modeling", "--arch", "transformer_lm", *words]
        monkeypatch.setattr("sys.argv", ["fairseq-train", *line])
        return options.parse_args_and_arch(options.get_training_parser())

    return parse


def test_bf16_does_not_ask_for_a_tpu(parsed):
    args = parsed("--bf16")
    assert args.bf16 and not args.tpu
    args = parsed("--memory-efficient-bf16")
    assert args.bf16 and not args.tpu


def test_a_tpu_can_still_be_asked_for(parsed):
    assert parsed("--bf16", "--tpu").tpu


@pytest.mark.parametrize("option", ["--bf16", "--memory-efficient-bf16"])
def test_training_in_bf16_on_the_cpu(option, text, tmp_path, fairseq_cli, monkeypatch):
    from fairseq.trainer import Trainer

    seen = []
    train_step = Trainer.train_step

    def spy(self, samples, *args):
        logs = train_step(self, samples, *args)
        seen.append(({parameter.dtype for parameter in self.model.parameters()}, float(logs["loss"])))
        return logs

    monkeypatch.setattr(Trainer, "train_step", spy)
    fairseq_cli("train", text.train, option, "--max-update 3 --save-dir", tmp_path)
    assert [dtypes for dtypes, _ in seen] == [{torch.bfloat16}] * 3
    assert all(loss == loss for _, loss in seen)
    fairseq_cli("train", text.train, option, "--max-update 4 --save-dir", tmp_path)  # from its own checkpoint
    assert len(seen) == 4


def test_validation_without_a_task(text, trained, fairseq_cli):
    with pytest.raises(UserError, match="--task"):
        fairseq_cli("validate", text.data, "--cpu --batch-size 8 --path", trained / "checkpoint_last.pt")


@pytest.mark.parametrize("command", ["eval-lm", "validate --task language_modeling", "generate", "interactive"])
def test_a_model_is_needed(command, text, fairseq_cli):
    with pytest.raises(UserError, match="the option --path is missing"):
        fairseq_cli(*command.split(" ", 1)[:1], text.data, "--cpu", *command.split(" ")[1:])


def test_training_without_an_optimizer_or_with_the_wrong_task(text, fairseq_cli):
    import fairseq_srupp.models.srupp_lm  # noqa: F401

    words = text.train.replace("--optimizer adam", "")
    assert words != text.train
    with pytest.raises(UserError, match="optimizer is required"):
        fairseq_cli("train", words, "--no-save --max-update 1")
    with pytest.raises(UserError, match="srupp_lm needs --task streaming_language_modeling, not translation"):
        fairseq_cli("train", text.data, "--arch srupp_lm --optimizer radam --cpu --no-save")
