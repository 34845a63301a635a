"""A tiny text, fairseq's transformer_lm of one layer, and fairseq's commands within the test's process."""

import importlib
import logging
import random
import sys
from types import SimpleNamespace

import pytest

from fairseq_srupp import compat
from fairseq_srupp.compat.inputs import known_mistakes

MODEL = (
    "--task language_modeling --arch transformer_lm --decoder-layers 1 --decoder-embed-dim 8 "
    "--decoder-input-dim 8 --decoder-output-dim 8 --decoder-ffn-embed-dim 8 "
    "--decoder-attention-heads 2 --tokens-per-sample 16 --dropout 0 --optimizer adam --lr 0.01 "
    "--batch-size 8 --num-workers 0 --no-progress-bar"
)


@pytest.fixture(scope="session")
def fairseq_cli():
    """A function: fairseq_cli("train", "data", "--cpu") runs `fairseq-train data --cpu` here, repaired."""
    compat.apply()

    def run(command: str, *words: str):
        from fairseq import checkpoint_utils
        from fairseq_cli import train

        for function in (checkpoint_utils.save_checkpoint, train.should_stop_early):
            vars(function).pop("best", None)  # a new process would not have it
        argv, root = sys.argv, logging.getLogger()
        handlers, level = root.handlers[:], root.level  # fairseq-validate resets them
        sys.argv = [f"fairseq-{command}", *" ".join(map(str, words)).split()]
        try:
            with known_mistakes():  # as at the end of a program
                return importlib.import_module(f"fairseq_cli.{command.replace('-', '_')}").cli_main()
        finally:
            sys.argv, root.handlers[:] = argv, handlers
            root.setLevel(level)

    return run


@pytest.fixture(scope="session")
def text(tmp_path_factory, fairseq_cli):
    """`text.data` is what fairseq-preprocess wrote, `text.train` are the words for fairseq-train."""
    folder = tmp_path_factory.mktemp("text")
    words = random.Random(0)
    for split, lines in (("train", 120), ("valid", 13)):
        (folder / split).write_text(
            "".join(" ".join(words.choices("abcdefghij", k=words.randint(3, 9))) + "\n" for _ in range(lines))
        )
    data = folder / "data"
    inputs = f"--trainpref {folder}/train --validpref {folder}/valid"
    fairseq_cli("preprocess", "--only-source --workers 1", inputs, "--destdir", data)
    return SimpleNamespace(data=data, train=f"{data} {MODEL} --cpu")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory, fairseq_cli):
    """Data of a translation: 60 short sentences, many of equal length, which only a seed puts in order."""
    folder, words = tmp_path_factory.mktemp("pairs"), random.Random(0)
    for split, sentences in (("train", 60), ("valid", 5)):
        for side in "ab":
            lines = (" ".join(words.choices("abcdefghij", k=words.randint(3, 6))) for _ in range(sentences))
            (folder / f"{split}.{side}").write_text("\n".join(lines) + "\n")
    inputs = f"--source-lang a --target-lang b --trainpref {folder}/train --validpref {folder}/valid"
    fairseq_cli("preprocess", inputs, "--workers 1 --destdir", folder / "data")
    return folder / "data"


@pytest.fixture(scope="session")
def trained(tmp_path_factory, text, fairseq_cli):
    """A --save-dir with the checkpoints of updates 2 and 4. Copy it before writing into it."""
    folder = tmp_path_factory.mktemp("trained")
    fairseq_cli("train", text.train, "--save-interval-updates 2 --max-update 4 --save-dir", folder)
    return folder


class RunsCode:
    """Unpickled by a careless loader, it writes the file `path`."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return exec, (f"open({self.path!r}, 'w').close()",)


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def evil(request, tmp_path, trained):
    """`evil.path`, a checkpoint in either of torch's formats whose code would write the file `evil.harm`."""
    import torch

    state = torch.load(trained / "checkpoint_last.pt", weights_only=True)
    state["extra_state"]["surprise"] = RunsCode(tmp_path / "harm")
    torch.save(state, tmp_path / "evil.pt", _use_new_zipfile_serialization=request.param)
    return SimpleNamespace(path=tmp_path / "evil.pt", harm=tmp_path / "harm")
