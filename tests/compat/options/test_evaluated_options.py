"""Nothing that stands in an option is executed, and fairseq has no other place that would."""

import argparse
import ast
import contextlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

import fairseq
import fairseq_cli
import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.options import evaluated_options
from fairseq_srupp.compat.options.literals import literal
from fairseq_srupp.compat.user_dir import PACKAGE_DIR


@pytest.fixture(autouse=True)
def repaired(fairseq_cli):
    pass


@pytest.mark.parametrize(
    "text", ["[(512, 3)] * 20", "[(8, 3)] + [(4, 2, 1)] * 2", "-1.5e-3,2", " (0.9, 0.98)", "'a' + 'b'", "{'a': [None, True]}"]
    + ["[]", "{1, 2}", "[1] * -1", "3 * [0]", "2 * 3 + 4", "1 + 2j", "'ab' * 3", "+1", "b'x'", "False"]
)  # fmt: skip
def test_values_are_those_of_python(text):
    value = literal(text)
    assert value == eval(text) and type(value) is type(eval(text))


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "os", "nan", "print(1)", "[].append", "[x for x in ()]", "lambda: 0", "f'{1}'", "(a := 1)", "{**{}}"]
    + ["[*()]", "1 if 1 else 2", "1 < 2", "not 1", "2 ** 3", "1 / 2", "[1][0]", "'%s' % 1", "~1", "1 and 2", "await x"]
    + ["", "((((", "1 2", "a = 1", "[1] + (2,)", "[1] * 2.5", "{[]: 1}", "-'a'", "\0", "9" * 9999, "-" * 9999 + "1"]
    + ["1" + "+1" * 60_000, "[0] * 10001", "[0] * 9999 * 9999", "'a' * 9999 * 9999", "9999 * ([0] * 9999)", "[0] * 9 ** 9", "*".join(["9" * 4000] * 250)],
)  # fmt: skip
def test_all_else_is_refused(text):
    with pytest.raises(ValueError):
        literal(text)


def options_of_fconv(**evil):
    options = {"_name": "fconv_lm", "arch": "fconv_lm", "dropout": 0.1, "decoder_embed_dim": 8, "decoder_layers": "[(8, 3)]"}
    options |= {"decoder_out_embed_dim": 8, "adaptive_softmax_cutoff": None, "adaptive_softmax_dropout": 0}
    options |= {"decoder_attention": "False", "tokens_per_sample": 32, "max_target_positions": 32}
    return argparse.Namespace(**options | evil)


@pytest.fixture
def harm(tmp_path):
    """A file, and text that makes it when it is evaluated."""
    return tmp_path / "harm", f"__import__('pathlib').Path({str(tmp_path / 'harm')!r}).touch() or [(8, 3)]"


@pytest.fixture
def checkpoint(trained, tmp_path, text):
    """A function: the path of a checkpoint whose configuration has these entries."""

    def write(**entries):
        state = torch.load(trained / "checkpoint_last.pt", weights_only=True)
        state["cfg"].update(entries)
        torch.save(state, tmp_path / "evil.pt")
        return tmp_path / "evil.pt"

    return write


COMMANDS = {
    "eval-lm": "--gen-subset valid",
    "validate": "--task language_modeling --valid-subset valid --batch-size 4",
    "generate": "--task language_modeling --gen-subset valid --batch-size 4",
    "interactive": "--task language_modeling --input /dev/null",
}


def refused(path, name, call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert str(error.value).startswith(f'fairseq_srupp: the option {name} of {path} is "__import__(')


@pytest.mark.parametrize("command", COMMANDS)
def test_code_in_an_option_of_a_checkpoint(command, checkpoint, harm, text, fairseq_cli):
    path = checkpoint(model=options_of_fconv(decoder_layers=harm[1]))
    refused(path, "decoder_layers", fairseq_cli, command, text.data, "--cpu --path", path, COMMANDS[command])
    assert not harm[0].exists()


@pytest.mark.parametrize(
    "evil, options",
    [
        ("decoder_attention", vars(options_of_fconv())),
        ("adaptive_softmax_cutoff", {}),
        ("character_filters", {"character_embeddings": True}),
        ("conv_feature_layers", {"_name": "wav2vec", "arch": "wav2vec"}),
        ("conv_feature_layers", {"_name": "wav2vec2", "arch": "wav2vec2"}),
    ],
)
def test_code_in_options_of_other_models(evil, options, checkpoint, trained, harm, text):
    model = torch.load(trained / "checkpoint_last.pt", weights_only=True)["cfg"]["model"]
    path = checkpoint(model={**model, "criterion": "adaptive_loss", **options, evil: harm[1]})
    overrides = {"data": str(text.data)}
    refused(path, evil, checkpoint_utils.load_model_ensemble, [str(path)], overrides)
    assert not harm[0].exists()


def test_code_in_the_criterion_that_a_checkpoint_names(checkpoint, harm, text, fairseq_cli):
    path = checkpoint(criterion={"_name": "ctc", "wer_args": harm[1]})
    refused(path, "wer_args", fairseq_cli, "validate", text.data, "--cpu --path", path, COMMANDS["validate"])
    assert not harm[0].exists()


def test_code_in_a_checkpoint_of_a_python_program(checkpoint, harm, text, tmp_path):
    from fairseq.models.transformer_lm import TransformerLanguageModel

    path = checkpoint(model=options_of_fconv(decoder_layers=harm[1]))
    refused(path, "decoder_layers", TransformerLanguageModel.from_pretrained, str(tmp_path), path.name, str(text.data))
    assert not harm[0].exists()


@pytest.mark.parametrize("module", ["eval_lm", "validate"])
def test_code_on_the_command_line(module, trained, harm, text):
    """In a process of its own, where the command is the program."""
    words = [text.data, "--user-dir", PACKAGE_DIR, "--cpu", "--path", trained / "checkpoint_last.pt"]
    words += ["--task", "language_modeling", "--batch-size", "4", "--model-overrides", f"{{'x': {harm[1]}}}"]
    words += ["--valid-subset" if module == "validate" else "--gen-subset", "valid"]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(PACKAGE_DIR)}
    command = [sys.executable, "-m", f"fairseq_cli.{module}", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and not harm[0].exists()
    last = done.stderr.splitlines()[-1]
    assert last.startswith("fairseq_srupp: --model-overrides ") and "Traceback" not in done.stderr, done.stderr


def test_code_in_an_option_of_training(harm, text, tmp_path, fairseq_cli):
    evil = harm[1].replace(" ", "")
    words = f"{text.data} --cpu --task language_modeling --tokens-per-sample 16 --batch-size 2 --max-update 1 --no-save"
    with pytest.raises(UserError, match="fairseq_srupp: --decoder-layers is "):
        fairseq_cli("train", words, "--arch fconv_lm --optimizer adam --decoder-layers", evil)
    with pytest.raises(UserError, match="fairseq_srupp: --adam-betas is "):
        fairseq_cli("train", words, "--arch transformer_lm --optimizer adam --adam-betas", evil)
    with pytest.raises(UserError, match="fairseq_srupp: --decoder-glu is "):  # read while options are parsed
        fairseq_cli("train", words, "--arch lightconv_lm --optimizer adam --decoder-glu", evil)
    assert not harm[0].exists()


def test_models_of_convolutions_still_train(text, tmp_path, fairseq_cli):
    words = (
        f"{text.data} --cpu --task language_modeling --tokens-per-sample 16 --batch-size 2 --max-update 1 --save-dir {tmp_path}"
    )
    fairseq_cli("train", words, "--arch fconv_lm --decoder-embed-dim 8 --optimizer adam --decoder-layers [(8,3)]*2+[(4,2)]")
    fairseq_cli("eval-lm", text.data, "--cpu --gen-subset valid --path", tmp_path / "checkpoint_last.pt")


def test_modules_that_are_imported_later():
    del sys.modules["fairseq.data.codedataset"]
    module = importlib.import_module("fairseq.data.codedataset")
    assert module.eval is evaluated_options.evaluate


def test_a_user_folder_of_a_checkpoint_is_not_imported(checkpoint, trained, text, tmp_path, fairseq_cli):
    plugin = tmp_path / "plugin"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w').close()\n")
    state = torch.load(trained / "checkpoint_last.pt", weights_only=True)
    state["cfg"]["common"]["user_dir"] = str(plugin)
    state["cfg"]["task"]["user_dir"] = state["cfg"]["model"]["user_dir"] = str(plugin)
    path = checkpoint(**{name: state["cfg"][name] for name in ("common", "task", "model")})
    for command in ("eval-lm", "validate"):
        fairseq_cli(command, text.data, "--cpu --path", path, COMMANDS[command])
    fairseq_cli("train", text.train, "--max-update 5 --no-save --restore-file", path, "--save-dir", tmp_path)
    assert not (tmp_path / "harm").exists()


def test_fasta_data_whose_path_is_a_command(tmp_path, monkeypatch):
    from fairseq.data.fasta_dataset import FastaDataset

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "$(touch harm);touch harm;"
    folder.mkdir()
    (folder / "train.fasta").write_text(">one\nACG\nT\n>two\nAA\n")
    found = FastaDataset(str(folder / "train"))
    assert found.offsets.tolist() == [0, 11] and found.sizes.tolist() == [4, 2]
    assert not (tmp_path / "harm").exists()
    assert [found[n] for n in range(2)] == [(">one", "ACGT"), (">two", "AA")]


def test_meters_of_a_checkpoint(checkpoint, trained, text, tmp_path, fairseq_cli):
    from fairseq.logging.meters import MetersDict

    meters = MetersDict()
    meters.load_state_dict([(1, "a", "AverageMeter", {"val": 1.0, "sum": 2.0, "count": 2, "round": None})])
    assert meters.get_smoothed_value("a") == 1.0
    for name in ("OrderedDict", "time", "Meter.__subclasses__", "__builtins__", 3):
        with pytest.raises(UserError, match="the checkpoint names .* as the meter a"):
            MetersDict().load_state_dict([(1, "a", name, {})])


# All that fairseq's own modules have of what may execute text or files, and why it is no way for a checkpoint.
COVERED = "compat/options/evaluated_options.py"
LISTED = "names are those of the files in fairseq's own folder, or a constant"
PROTECTED = "torch.load with its protection on, which is the default, and compat/files/fairseq_loads.py sees to it"
NUMBERS = "numpy.load, which reads no objects unless it is told to"
SHELL_FREE = "a fixed command or one of the training's own options; a checkpoint's task does not train"
KNOWN = {
    "checkpoint_utils.py": {"torch.load": PROTECTED},
    "criterions/__init__.py": {"import_module": LISTED},
    "criterions/ctc.py": {"eval": COVERED},
    "data/audio/__init__.py": {"import_module": LISTED},
    "data/audio/audio_utils.py": {"np.load": NUMBERS},
    "data/audio/data_cfg.py": {"yaml.load": "FullLoader, which makes values only"},
    "data/audio/feature_transforms/global_cmvn.py": {"np.load": NUMBERS},
    "data/audio/raw_audio_dataset.py": {"eval": COVERED},
    "data/codedataset.py": {"eval": COVERED, "np.load": NUMBERS, "torch.load": PROTECTED},
    "data/encoders/__init__.py": {"import_module": LISTED},
    "data/fasta_dataset.py": {"subprocess, shell": COVERED, "np.load": NUMBERS},
    "data/plasma_utils.py": {"subprocess": SHELL_FREE},
    "distributed/utils.py": {
        "subprocess": "SLURM's scontrol, with the environment's list of nodes",
        "pickle.loads": "what the other processes of the run sent",
        "torch.load": PROTECTED,
    },
    "logging/meters.py": {"globals": COVERED},
    "model_parallel/criterions/__init__.py": {"import_module": LISTED},
    "model_parallel/models/__init__.py": {"import_module": LISTED},
    "models/__init__.py": {"import_module": LISTED, "globals": "assigned to"},
    "models/ema/__init__.py": {"import_module": LISTED},
    "models/huggingface/__init__.py": {"import_module": LISTED},
    "models/speech_to_text/hub_interface.py": {"torch.hub": COVERED},
    "models/speech_to_text/xm_transformer.py": {"torch.load": PROTECTED},
    "models/text_to_speech/vocoder.py": {"torch.load": PROTECTED},
    "modules/quantization/pq/em.py": {"torch.load": PROTECTED},
    "modules/quantization/scalar/ops.py": {"globals": "functions whose names begin with emulate_"},
    "optim/__init__.py": {"import_module": LISTED},
    "optim/fused_adam.py": {"import_module": LISTED},
    "optim/lr_scheduler/__init__.py": {"import_module": LISTED},
    "scoring/__init__.py": {"import_module": LISTED},
    "speech_generator.py": {"np.load": NUMBERS},
    "tasks/__init__.py": {"import_module": LISTED, "globals": "assigned to"},
    "tasks/audio_pretraining.py": {"subprocess": SHELL_FREE},
    "tasks/text_to_speech.py": {"np.load": NUMBERS},
    "utils.py": {"eval": COVERED, "import_module": "--user-dir, of the command line alone"},
}
EVALUATING = "models/fconv models/fconv_lm models/fconv_self_att models/lightconv_lm models/transformer_lm models/hubert/hubert"
EVALUATING += " models/multires_hubert/multires_hubert models/wav2vec/wav2vec models/wav2vec/wav2vec2 models/speech_to_text/s2t_wav_transformer"
EVALUATING += " optim/adam optim/adafactor optim/adamax optim/cpu_adam optim/fused_lamb eval_lm validate"
for module in EVALUATING.split():
    KNOWN.setdefault(f"{module}.py", {})["eval"] = COVERED

LOADERS = {
    "torch.load",
    "torch.jit",
    "torch.hub",
    "np.load",
    "numpy.load",
    "yaml",
    "pickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
}
RUNNERS = {
    "subprocess",
    "runpy",
    "pty",
    "code",
    "ctypes",
    "cffi",
    "importlib",
    "imp",
    "pkgutil",
    "hydra.utils",
    "cloudpickle",
    "_pickle",
}
NAMES = {"eval", "exec", "compile", "__import__", "globals", "getattr_static", "execfile", "builtins", "__builtins__"}
SAFE_YAML = {"safe_load", "dump", "SafeLoader", "FullLoader", "BaseLoader", "YAMLError"}


def full_name(node, imported):
    """`torch.load` of an expression, whatever the module is called there; "" of others."""
    if isinstance(node, ast.Name):
        return imported.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = full_name(node.value, imported)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def executing(path):
    """What a source file has that may execute text or files: {kind}."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.asname: alias.name for alias in node.names if alias.asname}
        if isinstance(node, ast.ImportFrom) and not node.level:
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {kind for node in ast.walk(tree) if (kind := kind_of(node, imported))}


def kind_of(node, imported):
    if isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
        return node.id
    name = full_name(node.func if isinstance(node, ast.Call) else node, imported)
    name = name.replace("numpy.", "np.")
    first, last = name.split(".")[0], name.split(".")[-1]
    if isinstance(node, ast.Call):
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if keywords.get("shell", "False") != "False":
            return "subprocess, shell"
        if keywords.get("allow_pickle", "False") != "False":
            return f"{name}, unprotected"
        if name == "yaml.load" and keywords.get("Loader") not in ("yaml.FullLoader", "yaml.SafeLoader", "yaml.BaseLoader"):
            return "yaml.load, unprotected"
        if first == "subprocess":
            return "subprocess"
        if last in ("instantiate", "import_module", "Unpickler", "load_library", "load_inline"):
            return last
    if not isinstance(node, (ast.Call, ast.Attribute, ast.Name)) or "." not in name:
        return None
    if name in ("os.system", "os.popen") or first == "os" and last.startswith(("exec", "spawn", "posix_spawn")):
        return "os.system"
    if name.startswith(("torch.hub.load", "torch.jit.load")) or name in ("torch.load", "np.load"):
        return ".".join(name.split(".")[:2])
    if first == "yaml" and last not in SAFE_YAML:
        return name
    if first in ("pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle", "_pickle") and last in ("load", "loads", "open"):
        return name
    return None


def test_fairseq_has_no_other_way_to_execute_what_a_file_says():
    found = {}
    for package in (fairseq, fairseq_cli):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root).as_posix()
            # programs of their own, which fairseq does not import (see the test below)
            if not name.startswith("examples/") and (kinds := executing(path)):
                found[name] = kinds
    assert {name: kinds for name, kinds in found.items() if not kinds <= set(KNOWN.get(name, ()))} == {}
    assert len(found) >= 45  # the trees of the 0.12 family differ in a few modules


def test_all_modules_that_evaluate_have_our_function():
    covered = {name.removesuffix(".py").replace("/", ".") for name, kinds in KNOWN.items() if "eval" in kinds}
    tried = 0
    for name in covered:
        module = f"fairseq_cli.{name}" if name in ("eval_lm", "validate") else f"fairseq.{name}"
        with contextlib.suppress(ModuleNotFoundError):  # not in every tree
            assert importlib.import_module(module).eval is evaluated_options.evaluate
            tried += 1
    assert tried >= 20
