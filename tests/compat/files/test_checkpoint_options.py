"""Options of checkpoints are text: nothing of the environment or of this machine's files gets into them."""

import argparse
import json
import os
import re

import pytest
import torch
from fairseq import checkpoint_utils
from omegaconf import OmegaConf

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files.checkpoint_options import texts

SECRET = "open sesame"


@pytest.fixture(autouse=True)
def secret(fairseq_cli, monkeypatch):
    monkeypatch.setenv("SECRET", SECRET)


@pytest.fixture
def state(trained):
    return torch.load(trained / "checkpoint_last.pt", weights_only=True)


def saved(state, folder):
    torch.save(state, folder / "x.pt")
    return str(folder / "x.pt")


RESOLVERS = [
    "${oc.env:SECRET}",
    "${oc.env:SECRET,other}",
    "a ${oc.env:SECRET} b",
    "${common.${oc.env:SECRET}}",
    "${oc.decode:${oc.env:SECRET}}",
    "${oc.select:common.seed}",
    "${ oc.env:SECRET}",
    "${now:%Y}",
    "${hydra:runtime.cwd}",
    "${python_version:}",
    "\\${oc.env:SECRET}",
    "${common.seed}${common.seed}",
    "${",
]


def in_a_dictionary(state, value):
    state["cfg"]["task"]["data"] = value


def in_a_namespace(state, value):
    state["cfg"]["model"] = argparse.Namespace(**state["cfg"]["model"], arch="transformer_lm", w2v_path=value)


def in_a_list(state, value):
    state["cfg"]["optimization"]["lr"] = [[value]]


def in_an_omegaconf_container(state, value):
    state["cfg"] = OmegaConf.create(state["cfg"])
    state["cfg"].task._get_node("data")._val = value


def in_what_holds_an_omegaconf_container(state, value):
    holder = OmegaConf.create({"inner": {"data": "${evil}"}, "evil": "."})
    holder._get_node("evil")._val = value
    state["cfg"]["model"] = argparse.Namespace(**state["cfg"]["model"], w2v_args=holder.inner)


def for_a_whole_group(state, value):
    state["cfg"]["task"] = value


def in_older_options(state, value):
    state["args"], state["cfg"] = argparse.Namespace(arch="transformer_lm", task="language_modeling", data=value), None


PLACES = [in_a_dictionary, in_a_namespace, in_a_list, in_an_omegaconf_container, in_what_holds_an_omegaconf_container]
PLACES += [for_a_whole_group, in_older_options]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", RESOLVERS)
def test_what_would_be_resolved_is_refused(place, value, state, tmp_path):
    place(state, value)
    path = saved(state, tmp_path)
    # containers of omegaconf are looked at while they are unpickled already
    line = path if "container" in place.__name__ else f"refused to load {path}: the option .* asks for more"
    with pytest.raises(UserError, match=line) as refused:
        checkpoint_utils.load_model_ensemble([path])
    assert SECRET not in str(refused.value)


def test_options_are_no_yaml(state, tmp_path):
    """omegaconf reads text as YAML, whose escapes hide what would be resolved."""
    state["cfg"]["common"]["tensorboard_logdir"] = "$SECRET"
    state["cfg"] = json.dumps(state["cfg"]).replace("$SECRET", "\\u0024{oc.env:SECRET}")
    path = saved(state, tmp_path)
    with pytest.raises(UserError, match="x.pt is not a checkpoint of fairseq: its cfg is of type str"):
        checkpoint_utils.load_model_ensemble([path])


@pytest.mark.parametrize("name", [str, os.fsencode], ids=["text", "bytes"])
def test_nothing_is_written_where_a_checkpoint_says(name, state, text, tmp_path, fairseq_cli):
    (tmp_path / "mine").write_text("mine")
    options = {"_name": "sentence_ranking", "ranking_head_name": "x", "num_classes": 2}
    state["cfg"]["criterion"] = {**options, "save_predictions": name(str(tmp_path / "mine"))}
    path = saved(state, tmp_path)
    with pytest.raises(UserError, match="must provide sentence ranking head"):
        fairseq_cli("validate", text.data, "--task language_modeling --cpu --batch-size 4 --path", path)
    assert (tmp_path / "mine").read_text() == "mine"


def test_predictions_are_written_where_the_user_says(tmp_path):
    from fairseq.criterions.sentence_ranking import SentenceRankingCriterion

    SentenceRankingCriterion(None, "x", str(tmp_path / "predictions"), 2)
    assert (tmp_path / "predictions").exists()


@pytest.mark.parametrize("command", ["eval-lm", "validate", "train"])
def test_commands_do_not_print_it(command, state, text, tmp_path, fairseq_cli, capfd, caplog):
    state["cfg"]["model"]["decoder_embed_path"] = "${oc.env:SECRET}"
    path = saved(state, tmp_path)
    words = {"eval-lm": f"--gen-subset valid --path {path}", "validate": f"--task language_modeling --batch-size 4 --path {path}"}
    words["train"] = f"{text.train} --max-update 5 --no-save --save-dir {tmp_path} --restore-file {path}".split(" ", 1)[1]
    with pytest.raises(UserError, match=r"x.pt: the option model.decoder_embed_path is '\${oc.env:SECRET}'"):
        fairseq_cli(command, text.data, "--cpu", words[command])
    output = capfd.readouterr()
    assert SECRET not in output.out + output.err + caplog.text


def test_references_to_other_options_work(state, text, tmp_path, fairseq_cli):
    state["cfg"]["task"]["seed"] = "${common.seed}"
    state["cfg"]["common"]["seed"] = 5
    state["cfg"]["model"]["dropout"] = "${.attention_dropout}"
    state["cfg"]["model"]["attention_dropout"] = 0.25
    for container in (lambda cfg: cfg, OmegaConf.create):
        path = saved({**state, "cfg": container(state["cfg"])}, tmp_path)
        (model,), cfg = checkpoint_utils.load_model_ensemble([path], {"data": str(text.data)})
        assert cfg.task.seed == 5 and model.decoder.dropout_module.p == 0.25


def test_options_that_do_not_fit_are_one_line(state, text, tmp_path):
    for value in ("${common.nothing}", "several", "${model}"):
        state["cfg"]["model"]["decoder_layers"] = value
        path = saved(state, tmp_path)
        with pytest.raises(UserError, match=re.escape(path)):
            checkpoint_utils.load_model_ensemble([path], {"data": str(text.data)})


def test_a_component_that_is_a_path_of_a_configuration(tmp_path, state, text):
    """hydra reads the file `bpe`.yaml, of which all is resolved."""
    (tmp_path / "evil.yaml").write_text("# @package _group_\n_name: gpt2\ngpt2_encoder_json: ${oc.env:SECRET}\n")
    options = {"arch": "transformer_lm", "task": "language_modeling", "data": str(text.data), "decoder_layers": 1}
    for bpe in (f"../../../../../../../../../..{tmp_path}/evil", str(tmp_path / "evil"), "gpt2@model"):
        state["args"], state["cfg"] = argparse.Namespace(**options, bpe=bpe), None
        path = saved(state, tmp_path)
        with pytest.raises(UserError, match=f"refused to load {path}: the option bpe is .*, which is no name"):
            checkpoint_utils.load_model_ensemble([path])


def test_older_options_load(state, text, tmp_path):
    model = state["cfg"]["model"]
    options = {name: model[name] for name in model if name.startswith("decoder_") or name == "tokens_per_sample"}
    state["args"] = argparse.Namespace(
        **options, arch="transformer_lm", task="language_modeling", data=str(text.data), bpe="gpt2"
    )
    state["cfg"] = None
    (loaded,), cfg = checkpoint_utils.load_model_ensemble([saved(state, tmp_path)])
    assert cfg.bpe._name == "gpt2" and loaded.decoder.layers[0].embed_dim == 8


def test_texts_are_found_wherever_they_are():
    inner = argparse.Namespace(b=["x", {"c": ("y",)}], n=3)
    options = {"a": inner, "d": OmegaConf.create({"e": "${oc.env:SECRET}", "f": ["z", None]}), "same": inner}
    inner.itself = inner
    found = sorted((name, value) for name, value in texts(options) if name != value.rpartition(".")[2])
    values = {value for _, value in found}
    assert {"x", "y", "z", "${oc.env:SECRET}"} <= values
    assert ("d.e", "${oc.env:SECRET}") in found and ("a.b", "x") in found or ("same.b", "x") in found
