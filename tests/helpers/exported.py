"""Checkpoints of small random models, off their initial values, and what `export` makes of them."""

import argparse
import os

import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

from fairseq_srupp.cli import export
from fairseq_srupp.compat.user_dir import load_plugin

WORDS = [f"w{i}" for i in range(26)]
SIZES = ["--hidden-size", "12", "--attention-dim", "8", "--dropout", "0"]
STREAM = ["--task", "streaming_language_modeling", "--tokens-per-sample", "5", "--arch", "srupp_lm", "--layers", "3", *SIZES]
TRANSLATION = ["--source-lang", "de", "--target-lang", "en", "--arch", "srupp_transformer", *SIZES]
TRANSLATION += ["--encoder-layers", "2", "--decoder-layers", "3"]


def write_dictionaries(folder, joined=False):
    """dict.txt of 30 symbols, and dict.de.txt and dict.en.txt, of which the latter has four symbols less unless joined."""
    os.makedirs(folder, exist_ok=True)
    for name, words in (("dict.txt", WORDS), ("dict.de.txt", WORDS), ("dict.en.txt", WORDS if joined else WORDS[4:][::-1])):
        with open(os.path.join(folder, name), "w") as file:
            file.writelines(f"{word} 1\n" for word in words)


def checkpoint(folder, awake, argv, change=None):
    """The model of fairseq's that the options argv make with the dictionaries in `folder`, its task, and its checkpoint."""
    load_plugin()
    torch.manual_seed(1)
    args = options.parse_args_and_arch(options.get_training_parser(), [str(folder), *argv])
    cfg = convert_namespace_to_omegaconf(args)
    task = tasks.setup_task(cfg.task)
    model = awake(task.build_model(cfg.model)).eval()
    if change:
        change(model)
    path = os.path.join(folder, "checkpoint.pt")
    state = {
        "args": None,
        "cfg": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
        "model": model.state_dict(),
        "criterion": None,
        "optimizer_history": [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0, "version": 2}},
    }
    torch.save(state, path)
    return model, task, path


def run_export(path, destdir, *argv):
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    return export.run(parser.parse_args(["--checkpoint", str(path), "--destdir", str(destdir), *map(str, argv)]))
