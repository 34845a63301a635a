"""--bf16 means bfloat16 on the device at hand, not a TPU; a forgotten --task is told."""

import argparse

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


def test_abbreviated_options(text, fairseq_cli):
    """argparse takes them where a parser allows them; fairseq's own do not."""
    from fairseq import options

    with pytest.raises(UserError, match="^fairseq_srupp: --pat: options are not abbreviated here, write --path$"):
        fairseq_cli("generate", text.data, "--cpu --pat model.pt")
    with pytest.raises(UserError, match="write --task$"):
        fairseq_cli("validate", text.data, "--cpu --path model.pt --tas=language_modeling")
    for words in (["--pat", "model.pt"], ["--pat=model.pt"]):
        mine = argparse.ArgumentParser(parents=[options.get_eval_lm_parser()], add_help=False)
        assert options.parse_args_and_arch(mine, ["data", *words]).path == "model.pt"


def test_arguments_that_are_not_text(fairseq_cli):
    """fairseq's own tests pass None for the data, which argparse takes as it is."""
    from fairseq import options

    parser = options.get_generation_parser()
    words = ["--path", "model.pt", "--task", "translation"]
    assert options.parse_args_and_arch(parser, [None, *words]).path == "model.pt"
    with pytest.raises(UserError, match="the option --path is missing"):
        options.parse_args_and_arch(options.get_generation_parser(), [None, "--task", "translation"])


def test_what_argparse_refuses_is_one_line(text, fairseq_cli, capsys):
    for words, line in (
        ("--lr 0.1.2", "fairseq-train: error: argument --lr: invalid"),
        ("--max-update x", "fairseq-train: error: argument --max-update: invalid int value: 'x'"),
        ("--no-such-option", "fairseq-train: error: unrecognized arguments: --no-such-option"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            fairseq_cli("train", text.train, words)
        printed = capsys.readouterr().err
        assert ended.value.code == 2 and printed.startswith(line) and printed.count("\n") == 1
