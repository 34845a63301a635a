"""Training that diverges says in one line what became NaN, when, and what helps."""

import random
from types import SimpleNamespace

import pytest
import torch

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.user_dir import PACKAGE_DIR

SRUPP = "--arch srupp_transformer --hidden-size 12 --attention-dim 8 --embed-dim 6 --encoder-layers 1 --decoder-layers 1"
TRANSFORMER = "--arch transformer --encoder-layers 1 --decoder-layers 1 " + " ".join(
    f"--{side}-{size}" for side in ("encoder", "decoder") for size in ("embed-dim 8", "ffn-embed-dim 8", "attention-heads 2")
)
RUN = "--cpu --optimizer adam --max-tokens 200 --num-workers 0 --no-progress-bar --dropout 0.1 --disable-validation"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, fairseq_cli):
    folder, words = tmp_path_factory.mktemp("pairs"), random.Random(0)
    for language in ("de", "en"):
        lines = (" ".join(words.choices("abcdefgh", k=words.randint(2, 7))) for _ in range(80))
        (folder / f"train.{language}").write_text("".join(f"{line}\n" for line in lines))
    fairseq_cli("preprocess", f"-s de -t en --workers 1 --trainpref {folder}/train --destdir {folder}")
    return folder


@pytest.fixture
def diverging(fairseq_cli, tmp_path):
    """A function that trains and gives the line in which it ends."""

    def run(*words):
        with pytest.raises(UserError) as raised:
            fairseq_cli("train", *words, "--user-dir", PACKAGE_DIR, "--max-update 20 --save-dir", tmp_path)
        return str(raised.value)

    return run


@pytest.mark.parametrize("model", [SRUPP, TRANSFORMER])
def test_weights_that_explode_in_translation(model, pairs, diverging):
    line = diverging(pairs, RUN, model, "--lr 1e30 --clip-norm 0.5")
    assert line.startswith("fairseq_srupp: training diverged in update 2: the output of ")
    assert " became " in line and "a smaller --lr (now 1e+30)" in line and "--clip-norm (now 0.5)" in line


def test_in_a_language_model(text, diverging):
    line = diverging(text.train, "--lr 1e30")
    assert "training diverged in update 2: the output of decoder." in line and "or --clip-norm" in line


@pytest.mark.parametrize("model, where", [(SRUPP, "encoder.stack.layers.0"), (TRANSFORMER, "encoder.layers.0.fc1")])
def test_the_first_module_is_named(model, where, pairs, diverging, monkeypatch):
    """In update 3 a NaN comes out of a linear layer within the first layer."""
    from fairseq.tasks.translation import TranslationTask

    train_step = TranslationTask.train_step

    def spoiled(self, sample, model, criterion, optimizer, update_num, **kwargs):
        linear = next(m for name, m in model.named_modules() if name.startswith(where) and hasattr(m, "weight"))
        spoil = torch.nan if update_num == 2 else 1
        hook = linear.register_forward_hook(lambda module, inputs, output: output * spoil, prepend=True)
        try:
            return train_step(self, sample, model, criterion, optimizer, update_num, **kwargs)
        finally:
            hook.remove()

    monkeypatch.setattr(TranslationTask, "train_step", spoiled)
    line = diverging(pairs, RUN, model, "--lr 0.001")
    assert f"training diverged in update 3: the output of {where}" in line and "became NaN" in line


def test_gradients_alone(pairs, diverging, monkeypatch):
    """The forward pass is finite: the parameter is named."""
    from fairseq_srupp.models.srupp_transformer import SRUppTransformer

    build_model = SRUppTransformer.build_model.__func__

    def build(cls, cfg, task):
        model = build_model(cls, cfg, task)
        model.decoder.output.linear.bias.register_hook(lambda gradient: gradient / 0)
        return model

    monkeypatch.setattr(SRUppTransformer, "build_model", classmethod(build))
    line = diverging(pairs, RUN, SRUPP, "--lr 0.001")
    assert "update 1: the gradient of decoder.output.linear.bias became" in line


def test_weights_that_were_not_finite(pairs, fairseq_cli, diverging, tmp_path):
    fairseq_cli("train", pairs, RUN, SRUPP, "--lr 0.001 --user-dir", PACKAGE_DIR, "--max-update 1 --save-dir", tmp_path)
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    state["model"]["decoder.embed_tokens.weight"][5] = torch.inf
    torch.save(state, tmp_path / "checkpoint_last.pt")
    line = diverging(pairs, RUN, SRUPP, "--lr 0.001")
    assert "update 2: the update before left weights infinite, decoder.embed_tokens.weight" in line


@pytest.mark.parametrize("flag", ["fp16", "amp", "bf16"])
def test_the_advice_fits_the_precision(flag):
    from fairseq_srupp.compat.training import divergence

    common = SimpleNamespace(**{"fp16": False, "amp": False, "bf16": False, "min_loss_scale": 1e-4, flag: True})
    cfg = SimpleNamespace(common=common, optimization=SimpleNamespace(clip_norm=0.0))
    trainer = SimpleNamespace(
        cfg=cfg,
        get_num_updates=lambda: 6,
        get_lr=lambda: 0.001,
        get_model=lambda: torch.nn.Linear(2, 2),
        _set_seed=lambda: None,
        zero_grad=lambda: None,
    )
    message = "gradients are Nan/Inf" if flag == "bf16" else "Minimum loss scale reached (0.0001). Your loss is exploding."
    line = divergence._told(trainer, [], FloatingPointError(message))
    assert line.startswith("training diverged in update 7: ") and line.endswith(f"in place of --{flag}")
    assert ("the loss scale reached its minimum, --min-loss-scale 0.0001" in line) == (flag != "bf16")
