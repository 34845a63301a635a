"""Missing files and forgotten options end in one line; faults of the program keep their traceback."""

import shutil
import subprocess
import sys

import pytest

from fairseq_srupp.compat.errors import UserError, user_errors
from fairseq_srupp.compat.inputs import known_mistakes
from fairseq_srupp.compat.user_dir import PACKAGE_DIR


def train_on(data, text, tmp_path, fairseq_cli):
    words = text.train.replace(str(text.data), str(data))
    fairseq_cli("train", words, "--max-update 1 --save-dir", tmp_path / "run")


@pytest.mark.parametrize("by_hydra", [False, True])
@pytest.mark.parametrize("missing", ["dict.txt", "train.bin", "valid.idx"])
def test_a_missing_data_file(missing, by_hydra, text, tmp_path, fairseq_cli, monkeypatch):
    from fairseq.distributed import utils as distributed_utils

    if by_hydra:  # fairseq-hydra-train meets the plugin past call_main
        monkeypatch.setattr(distributed_utils, "call_main", lambda cfg, main, **kwargs: main(cfg, **kwargs))
    data = tmp_path / "data"
    shutil.copytree(text.data, data)
    (data / missing).unlink()
    with pytest.raises(UserError) as error:
        train_on(data, text, tmp_path, fairseq_cli)
    assert "dict.txt" in str(error.value) or f"Dataset not found: {missing.split('.')[0]}" in str(error.value)
    assert not list((tmp_path / "run").glob("*.pt"))


@pytest.mark.parametrize("damage", [b"", b"neither of fairseq's formats"])
def test_damaged_data(damage, text, tmp_path, fairseq_cli):
    data = tmp_path / "data"
    shutil.copytree(text.data, data)
    for name in ("train.bin", "train.idx"):
        (data / name).write_bytes(damage)
    with pytest.raises(UserError, match=f"{data}/train"):
        train_on(data, text, tmp_path, fairseq_cli)


def test_no_batch_size(text, tmp_path, fairseq_cli):
    with pytest.raises(UserError, match="--max-tokens or --batch-size"):
        fairseq_cli("train", text.train.replace("--batch-size 8", ""), "--save-dir", tmp_path)


def test_data_of_another_dictionary(text, tmp_path, fairseq_cli):
    data = tmp_path / "data"
    shutil.copytree(text.data, data)
    (data / "dict.txt").write_text("a 1\n")
    with pytest.raises(UserError, match="a token that their dict.txt does not"):
        train_on(data, text, tmp_path, fairseq_cli)
    assert not list((tmp_path / "run").glob("*.pt"))


@pytest.fixture(scope="module")
def parallel(tmp_path_factory):
    """Words of German and English, as fairseq-preprocess leaves them."""
    root = tmp_path_factory.mktemp("parallel")
    for lang in ("de", "en"):
        (root / f"text.{lang}").write_text("a b c d\n" * 20)
        (root / f"few.{lang}").write_text("a b c d\n" * 10 + "a " * 30 + "\n")
    words = "--source-lang de --target-lang en --joined-dictionary --trainpref text --validpref few --testpref few --destdir data"
    subprocess.run([sys.executable, "-m", "fairseq_cli.preprocess", *words.split()], cwd=root, check=True, capture_output=True)
    return root / "data"


SMALL = "--arch transformer_tiny --optimizer adam --lr 0.1 --max-update 2"


def few_lines_of_one_language(data):
    for kind in ("bin", "idx"):
        shutil.copy(data / f"valid.de-en.en.{kind}", data / f"train.de-en.en.{kind}")


def a_truncated_file(data):
    path = data / "train.de-en.de.bin"
    path.write_bytes(path.read_bytes()[:20])


def a_last_sentence_cut_short(data):
    path = data / "train.de-en.de.bin"
    path.write_bytes(path.read_bytes()[:-2])


def another_dictionary(data):
    for lang in ("de", "en"):
        (data / f"dict.{lang}.txt").write_text("a 1\n")


@pytest.mark.parametrize(
    "damage, options, message",
    [
        (few_lines_of_one_language, "--max-tokens 100", "must contain the same number of examples"),
        (a_truncated_file, "--max-tokens 100", "the data end too early"),
        (a_truncated_file, "--max-tokens 100 --num-workers 0", "the data end too early"),
        (a_last_sentence_cut_short, "--max-tokens 100", "the data end too early"),
        (another_dictionary, "--max-tokens 100", "a token that their dict.txt does not"),
        (None, "--max-tokens 20", "max_tokens"),
        (None, "--max-tokens 100 --max-source-positions 25", r"\(=\(31, 31\)\) since .*: raise --max-source-positions"),
    ],
)
def test_parallel_data_that_do_not_fit(damage, options, message, parallel, tmp_path, fairseq_cli):
    data = tmp_path / "data"
    shutil.copytree(parallel, data)
    if damage is not None:
        damage(data)
    with pytest.raises(UserError, match=message):
        fairseq_cli("train", data, "--cpu --source-lang de --target-lang en", SMALL, options, "--save-dir", tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.pt"))


@pytest.mark.parametrize("content", [None, b"", b"\x00\xffno model"])
def test_a_sentencepiece_model_that_cannot_be_read(content, tmp_path):
    from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE, SentencepieceConfig
    from omegaconf import OmegaConf

    path = tmp_path / "spm.model"
    path.mkdir() if content is None else path.write_bytes(content)
    config = OmegaConf.structured(SentencepieceConfig(sentencepiece_model=str(path)))
    with pytest.raises(UserError, match=f"{path} cannot be read"):
        SentencepieceBPE(config)
    with pytest.raises(UserError, match=f"{path} cannot be read"):
        SentencepieceBPE(SentencepieceConfig(sentencepiece_model=str(path)))  # fairseq's hub gives a plain object
    with pytest.raises(UserError, match="needs --sentencepiece-model"):
        SentencepieceBPE(OmegaConf.structured(SentencepieceConfig()))


def test_soft_alignments_are_not_for_interactive(tmp_path, fairseq_cli):
    with pytest.raises(UserError, match="fairseq-interactive prints no soft alignments"):
        fairseq_cli("interactive", tmp_path, "--path model.pt --print-alignment soft")


def test_files_that_cannot_be_opened_when_text_is_generated(tmp_path):
    """In a process of its own: fairseq-generate is running when the repairs are made."""
    for lang in ("de", "en"):
        (tmp_path / f"test.{lang}").write_text("a b\n")
    words = f"--testpref {tmp_path}/test --trainpref {tmp_path}/test --destdir {tmp_path}/data"
    fairseq = [sys.executable, "-m"]
    languages = ["--source-lang", "de", "--target-lang", "en"]
    subprocess.run([*fairseq, "fairseq_cli.preprocess", *languages, *words.split()], check=True, capture_output=True)
    command = [*fairseq, "fairseq_cli.generate", str(tmp_path / "data"), "--user-dir", PACKAGE_DIR]
    command += ["--cpu", "--path", str(tmp_path / "nowhere.pt"), "--results-path", str(tmp_path / "test.de")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("fairseq_srupp: ")


def from_fairseq(source, filename="fairseq/somewhere.py"):
    """Runs `source` as a line of a module of fairseq."""
    exec(compile(source, filename, "exec"), {"__name__": "fairseq.somewhere"})


@pytest.mark.parametrize(
    "source, line",
    [
        ("raise OSError('file x.model not found')", "file x.model not found"),
        ("assert False, '--batch-size cannot be larger than --buffer-size'", "--batch-size cannot be larger"),
        ("raise KeyError('Dataset not loaded: valid')", "Dataset not loaded: valid"),
        ("raise ValueError('two\\nlines')", "two lines"),
        ("raise FileNotFoundError('/nowhere/at/all.txt')", "file not found: /nowhere/at/all.txt"),
        ("try: {}['x']\nexcept KeyError: raise ValueError('x is not known')", "x is not known"),
        ("raise ImportError('Please install x with: pip install x')", "Please install x with: pip install x"),
        ("import a_package_that_is_not_there.at_all", "pip install a_package_that_is_not_there"),
        ("open('/nowhere/x')", "No such file or directory: /nowhere/x"),
        ("b'caf\\xe9'.decode('utf-8')", "byte 0xe9 at position 3"),
    ],
)
def test_what_fairseq_raises_on_purpose_is_a_line(source, line):
    with pytest.raises(UserError) as told, known_mistakes():
        from_fairseq(source)
    assert str(told.value).startswith("fairseq_srupp: ") and line in str(told.value)


def test_a_long_text_is_cut():
    with pytest.raises(UserError) as told, known_mistakes():
        from_fairseq("raise RuntimeError('not this: ' + ' '.join(map(str, range(10000))))")
    assert "not this: 0 1 2" in str(told.value) and 400 < len(str(told.value)) < 600


def test_assertions_of_compiled_code_are_a_line():
    """A sentence above --max-tokens: data_utils_fast is Cython."""
    import numpy
    from fairseq.data import data_utils

    with pytest.raises(UserError, match="exceed max_tokens"), known_mistakes():
        data_utils.batch_by_size(numpy.arange(3), lambda index: 9, max_tokens=5)


def test_what_processes_that_load_data_tell(tmp_path):
    """torch hands over their tracebacks as text."""
    from fairseq.data import Dictionary
    from fairseq.data.indexed_dataset import IndexedRawTextDataset
    from torch.utils.data import DataLoader

    (tmp_path / "text").write_text("a b\n")
    data = IndexedRawTextDataset(str(tmp_path / "text"), Dictionary())
    with pytest.raises(UserError, match="^fairseq_srupp: index out of range$"), known_mistakes():
        list(DataLoader(data, sampler=[99], num_workers=1))
    with pytest.raises(TypeError), known_mistakes():
        list(DataLoader(data, sampler=[None], num_workers=1))
    with pytest.raises(ZeroDivisionError), known_mistakes():
        list(DataLoader(Unreadable(), sampler=[0], num_workers=1))


class Unreadable:
    def __getitem__(self, index):
        return 1 / 0


@pytest.mark.parametrize(
    "source, kind",
    [
        ("{}['x']", KeyError),
        ("(1).x", AttributeError),
        ("[][0]", IndexError),
        ("1 / 0", ZeroDivisionError),
        ("raise ValueError()", ValueError),
        ("assert 1 == 2", AssertionError),
        ("assert 1 == 2, (1, 2)", AssertionError),
        ("raise ValueError('3 < 3')", ValueError),
        ("int('no number')", ValueError),
        ("try: {}['x']\nexcept KeyError: raise", KeyError),
        ("import importlib; importlib.import_module('a_user_folder')", ModuleNotFoundError),
        ("raise OSError('')", OSError),
        ("raise ValueError('/nowhere/at/all')", ValueError),
        ("raise KeyboardInterrupt('two words')", KeyboardInterrupt),
    ],
)
def test_what_fairseq_does_not_raise_on_purpose_keeps_its_traceback(source, kind):
    with pytest.raises(kind), known_mistakes():
        from_fairseq(source)


def test_what_other_code_raises_keeps_its_traceback():
    """Ours too: a mistake of the user is a UserError there."""
    from fairseq_srupp.modules import SRUppStack

    with pytest.raises(ValueError, match="must be"), known_mistakes():
        SRUppStack(hidden_size=16, attention_dim=8, layers=0)
    with pytest.raises(AssertionError, match="a fault of a test"), known_mistakes():
        assert not known_mistakes, "a fault of a test"
    with pytest.raises(OSError, match="broken pipe"), known_mistakes():
        raise OSError("broken pipe")


def test_libraries_that_refuse_options_for_fairseq():
    """omegaconf names the option; a key that code looks for in vain is a fault of the code."""
    source = "from fairseq.dataclass.configs import EMAConfig\nfrom omegaconf import OmegaConf\n"
    with pytest.raises(UserError, match="'abc' of type 'str' could not be converted to Float full_key: ema_decay"):
        with known_mistakes():
            from_fairseq(source + "OmegaConf.structured(EMAConfig(ema_decay='abc'))")
    with pytest.raises(AttributeError), known_mistakes():
        from_fairseq(source + "OmegaConf.structured(EMAConfig()).nothing")
    with pytest.raises(UserError, match="Invalid learning rate: -1"), known_mistakes():
        from_fairseq("import torch; torch.optim.SGD([torch.zeros(1)], lr=-1)")


def test_a_user_error_is_one_line():
    error = UserError("two\nlines", command="plot")
    assert str(error) == error.code == "fairseq_srupp plot: two lines"
    assert isinstance(error, SystemExit)


def test_the_traceback_follows_on_request(monkeypatch):
    monkeypatch.setenv("FAIRSEQ_SRUPP_TRACEBACK", "1")
    with pytest.raises(UserError) as told, known_mistakes():
        from_fairseq("raise ValueError('this is wrong')")
    first, second, *_ = told.value.code.splitlines()
    assert first == str(told.value) == "fairseq_srupp: this is wrong"
    assert second.startswith("Traceback") and 'File "fairseq/somewhere.py", line 1' in told.value.code


def test_a_user_error_survives_pickling():
    import pickle

    assert str(pickle.loads(pickle.dumps(UserError("x")))) == "fairseq_srupp: x"


def test_errors_of_constructors_become_user_errors():
    with pytest.raises(UserError, match="fairseq_srupp: 3 does not divide 7"), user_errors():
        raise ValueError("3 does not divide 7")
    with pytest.raises(KeyError), user_errors():
        raise KeyError("a fault")
