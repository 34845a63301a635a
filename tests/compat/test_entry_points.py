"""fairseq's commands as a user calls them: the plugin comes in by --user-dir, and nothing else is printed."""

import os
import subprocess
import sys

import pytest
import torch

from fairseq_srupp.compat.user_dir import PACKAGE_DIR

# Not the plugin's parent folder: a plain clone is known by --user-dir alone.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
# Where torch warns (from 2.15 on) of what fairseq does while it is imported, before any plugin.
ENVIRONMENT["PYTHONWARNINGS"] = "ignore:`torch.jit:FutureWarning"
OURS = {"PYTHONPATH": os.path.dirname(PACKAGE_DIR)}


def run(tmp_path, *words, **environment):
    words = " ".join(map(str, words)).split()
    environment = {**ENVIRONMENT, **environment}
    return subprocess.run([sys.executable, *words], text=True, capture_output=True, env=environment, cwd=tmp_path, timeout=200)


def test_a_mistake_is_one_line_and_nothing_else(text, tmp_path):
    done = run(tmp_path, "-m fairseq_cli.train", text.train, "--user-dir", PACKAGE_DIR, "--fp16 --save-dir run")
    assert done.returncode == 1
    line = "fairseq_srupp: --fp16 needs a GPU, but --cpu was given; leave it out, or use --bf16\n"
    assert done.stderr == line
    assert not (tmp_path / "run").exists()


def ended(tmp_path, *words, **environment):
    """What the command, which fails, writes to stderr."""
    done = run(tmp_path, *words, **environment)
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_what_fairseq_refuses_is_one_line(processes, text, tmp_path):
    """Also from a process that was started by this one."""
    words = f"--decoder-attention-heads 3 --distributed-world-size {processes} --distributed-backend gloo"
    told = ended(tmp_path, "-m fairseq_cli.train", text.train, "--user-dir", PACKAGE_DIR, words, "--no-save")
    assert told == "fairseq_srupp: embed_dim must be divisible by num_heads\n"


def test_the_traceback_follows_on_request(text, tmp_path):
    words = ("-m fairseq_cli.train", text.train, "--user-dir", PACKAGE_DIR, "--no-save --decoder-attention-heads 3")
    line, traceback = ended(tmp_path, *words, FAIRSEQ_SRUPP_TRACEBACK="1").split("\n", 1)
    assert line == "fairseq_srupp: embed_dim must be divisible by num_heads"
    assert traceback.startswith("Traceback") and "multihead_attention.py" in traceback
    words = ("-m fairseq_srupp average-checkpoints --last 0 --dir . --output x.pt",)  # our own refusal
    line, traceback = ended(tmp_path, *words, **OURS, FAIRSEQ_SRUPP_TRACEBACK="1").split("\n", 1)
    assert line == "fairseq_srupp average-checkpoints: --dir needs --last N with N of at least 1"
    assert traceback.startswith("Traceback") and "average_checkpoints.py" in traceback


def test_a_fault_keeps_its_traceback(text, tmp_path):
    """KeyError of a metric that is looked up, in fairseq."""
    (tmp_path / "faulty").mkdir()
    (tmp_path / "faulty" / "__init__.py").write_text(
        "from fairseq_srupp import compat\n"
        "compat.apply()\n"
        "from fairseq.tasks.language_modeling import LanguageModelingTask\n"
        "names = {'__name__': 'fairseq.tasks.language_modeling'}\n"
        "exec('def build_model(*args): return {}[\"a fault\"]', names)\n"
        "LanguageModelingTask.build_model = names['build_model']\n"
    )
    words = ("-m fairseq_cli.train", text.train, "--user-dir", tmp_path / "faulty", "--no-save")
    told = ended(tmp_path, *words, **OURS)
    assert told.startswith("Traceback") and told.endswith("KeyError: 'a fault'\n")


@pytest.mark.parametrize(
    "change, line",
    [
        ("optimization.lr=[nan]", "optimization.lr must be a finite number, not nan"),
        ("model.decoder_attention_heads=3", "embed_dim must be divisible by num_heads"),
    ],
)
def test_mistakes_under_hydra(change, line, text, tmp_path):
    hydra_config(tmp_path, text)
    told = ended(tmp_path, f"-m fairseq_cli.hydra_train --config-dir {tmp_path} --config-name tiny {change}")
    assert told.endswith(f"\nfairseq_srupp: {line}\n")
    assert "Error executing job" not in told and "Traceback" not in told  # hydra's warnings are before it


def hydra_config(tmp_path, text):
    """Writes tiny.yaml."""
    (tmp_path / "tiny.yaml").write_text(f"""
# @package _group_
common: {{user_dir: {PACKAGE_DIR}, cpu: true, no_progress_bar: true}}
checkpoint: {{save_dir: {tmp_path}/run}}
task: {{_name: language_modeling, data: {text.data}, sample_break_mode: none, tokens_per_sample: 16}}
dataset: {{batch_size: 8, num_workers: 0}}
criterion: {{_name: cross_entropy}}
optimizer: {{_name: radam}}
lr_scheduler: {{_name: fixed}}
optimization: {{max_update: 2, lr: [0.01]}}
model: {{_name: transformer_lm, decoder_layers: 1, decoder_embed_dim: 8, decoder_input_dim: 8,
  decoder_output_dim: 8, decoder_ffn_embed_dim: 8, decoder_attention_heads: 2}}
""")


def test_hydra(text, tmp_path):
    hydra_config(tmp_path, text)
    command = f"-m fairseq_cli.hydra_train --config-dir {tmp_path} --config-name tiny"
    done = run(tmp_path, command)
    assert done.returncode == 0, done.stderr[-3000:]
    state = torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)
    assert state["optimizer_history"][-1]["num_updates"] == 2
    assert state["cfg"]["optimizer"]["_name"] == "radam"


def test_the_plugin_is_registered_though_a_part_of_it_was_imported(tmp_path):
    script = (
        "import argparse, fairseq_srupp.ops\n"
        "from fairseq_srupp import compat\n"
        "compat.apply()\n"
        "from fairseq import models, tasks, utils, optim\n"
        f"utils.import_user_module(argparse.Namespace(user_dir={PACKAGE_DIR!r}))\n"
        "assert {'srupp_lm', 'srupp_transformer'} <= set(models.ARCH_MODEL_REGISTRY)\n"
        "assert 'streaming_language_modeling' in tasks.TASK_REGISTRY\n"
        "assert 'radam' in optim.OPTIMIZER_REGISTRY\n"
        "from fairseq_srupp.compat.user_dir import load_plugin\n"
        "load_plugin()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        text=True,
        capture_output=True,
        cwd=tmp_path,
        timeout=200,
        env={**ENVIRONMENT, "PYTHONPATH": os.path.dirname(PACKAGE_DIR)},
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("part", ["models.srupp_lm", "tasks.streaming_language_modeling"])
def test_a_part_of_the_plugin_brings_all_repairs(part, tmp_path):
    """For a user dir of somebody's own that imports one of ours."""
    script = (
        f"import fairseq_cli.eval_lm, fairseq_srupp.{part}\n"
        "assert hasattr(fairseq_cli.eval_lm.main, '__wrapped__')\n"
        "assert hasattr(fairseq_cli.eval_lm.eval_lm, '__wrapped__')\n"
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": os.path.dirname(PACKAGE_DIR)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, text=True, capture_output=True, cwd=tmp_path, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
