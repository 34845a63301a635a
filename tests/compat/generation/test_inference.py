"""Generation and evaluation in int8 and bf16, through fairseq's commands."""

import re

import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.user_dir import PACKAGE_DIR
from fairseq_srupp.modules import int8
from fairseq_srupp.ops import memory

USER_DIR = f"--user-dir {PACKAGE_DIR} --cpu"
TRANSLATION = (
    f"{USER_DIR} --arch srupp_transformer --hidden-size 16 --attention-dim 8 --embed-dim 8 --encoder-layers 1 --decoder-layers 2 "
    "--alpha-init 1 --optimizer adam --lr 0.01 --max-tokens 100 --max-update 40 --no-epoch-checkpoints --seed 1"
)
LANGUAGE_MODEL = (
    f"{USER_DIR} --task language_modeling --arch srupp_lm --hidden-size 16 --attention-dim 8 --layers 2 --alpha-init 1 --tokens-per-sample 16 "
    "--optimizer adam --lr 0.01 --batch-size 8 --max-update 20 --no-epoch-checkpoints --seed 1"
)
INT8 = "--model-overrides {'int8':True}"


@pytest.fixture
def products(monkeypatch):
    """The dtypes in which linear layers have been asked."""
    asked, plain, whole = set(), torch.nn.Linear.forward, int8.Int8Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: asked.add(x.dtype) or plain(self, x))
    monkeypatch.setattr(int8.Int8Linear, "forward", lambda self, x: asked.add("int8") or whole(self, x))
    return asked


@pytest.fixture(scope="module")
def translator(tmp_path_factory, pairs, fairseq_cli):
    folder = tmp_path_factory.mktemp("translator")
    fairseq_cli("train", pairs, TRANSLATION, "--save-dir", folder)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def language_model(tmp_path_factory, text, fairseq_cli):
    folder = tmp_path_factory.mktemp("language_model")
    fairseq_cli("train", text.data, LANGUAGE_MODEL, "--save-dir", folder)
    return folder / "checkpoint_last.pt"


def test_language_model(text, language_model, fairseq_cli, products, caplog):
    def loss(*options):
        products.clear()
        caplog.clear()
        evaluate = USER_DIR, "--task language_modeling --gen-subset valid --batch-size 4 --path", language_model
        with caplog.at_level("INFO"):
            fairseq_cli("eval-lm", text.data, *evaluate, *options)
        return float(re.search(r"Loss \(base 2\): ([\d.]+)", caplog.text)[1])

    exact = loss()
    assert products == {torch.float32}
    for options, dtype in ((INT8, "int8"), ("--bf16", torch.bfloat16)):
        assert abs(loss(options) - exact) < 0.02
        assert products == {dtype}


@pytest.mark.parametrize("options, dtype", [(INT8, "int8"), ("--bf16", torch.bfloat16)])
def test_translation(pairs, translator, fairseq_cli, products, capsys, options, dtype):
    def scores(*options):
        products.clear()
        fairseq_cli("generate", pairs, USER_DIR, "--gen-subset valid --beam 2 --path", translator, *options)
        return [float(score) for score in re.findall(r"^H-\d+\t(-[\d.]+)\t", capsys.readouterr().out, re.M)]

    exact, found = scores(), scores(options)
    assert products == {dtype} and len(found) == 5
    assert all(abs(a - b) < 0.1 for a, b in zip(exact, found))


def test_options_that_a_checkpoint_is_too_old_to_have(pairs, translator, tmp_path, fairseq_cli, products, capsys):
    state = torch.load(translator, weights_only=False)
    del state["cfg"]["model"]["int8"]
    torch.save(state, tmp_path / "old.pt")
    for path in (tmp_path / "old.pt", f"{tmp_path}/old.pt:{translator}"):
        products.clear()
        fairseq_cli("generate", pairs, USER_DIR, "--gen-subset valid --beam 2 --print-alignment --path", path, INT8)
        assert products == {"int8"} and capsys.readouterr().out.count("H-") == 5
    with pytest.raises(UserError, match="has no option int9"):
        fairseq_cli("generate", pairs, USER_DIR, "--gen-subset valid --model-overrides {'int9':True} --path", tmp_path / "old.pt")


def test_validation(text, language_model, fairseq_cli, products):
    validate = text.data, USER_DIR, "--task language_modeling --valid-subset valid --batch-size 4 --path", language_model
    fairseq_cli("validate", *validate, INT8)
    assert products == {"int8"}
    with pytest.raises(UserError, match="fairseq-validate does not follow --bf16"):
        fairseq_cli("validate", *validate, "--bf16")


def test_halves_in_int8(translator):
    model = checkpoint_utils.load_model_ensemble([str(translator)], {"int8": True})[0][0].half()
    assert {parameter.dtype for parameter in model.eval().parameters()} == {torch.float32}


def test_training_keeps_its_memory(text, tmp_path, fairseq_cli, monkeypatch):
    calls = []
    monkeypatch.setattr(memory, "keep", lambda: calls.append(1))
    fairseq_cli("train", text.data, LANGUAGE_MODEL, "--no-save --disable-validation --max-update 1 --save-dir", tmp_path)
    assert calls


def test_from_pretrained(pairs, translator, products):
    from fairseq_srupp.models.srupp_transformer import SRUppTransformer

    hub = SRUppTransformer.from_pretrained(str(translator.parent), translator.name, str(pairs), int8=True)
    assert isinstance(hub.translate("a b c"), str) and products == {"int8"}


def test_never_in_training(pairs, tmp_path, fairseq_cli):
    with pytest.raises(UserError, match="int8 is for generation and evaluation"):
        fairseq_cli("train", pairs, TRANSLATION, "--int8 --save-dir", tmp_path)
    assert not list(tmp_path.glob("*.pt"))


def test_models_of_the_other_kind(text, pairs, language_model, translator, fairseq_cli):
    with pytest.raises(UserError, match="srupp_transformer translates: it needs --task translation"):
        fairseq_cli("eval-lm", text.data, USER_DIR, "--gen-subset valid --path", translator)
    with pytest.raises(UserError, match="srupp_lm is a language model: it needs --task language_modeling"):
        fairseq_cli("generate", pairs, USER_DIR, "--gen-subset valid --path", language_model)
