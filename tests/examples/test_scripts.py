"""What all scripts of the examples share: needed files, numbers from the environment, and no process that outlives them."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.sh"))
SOURCED = {"common.sh", "language_model.sh"}

# Stands for fairseq's and this package's commands: notes its arguments; trains for a long time where SLOW is set.
COMMAND = """#!/usr/bin/env bash
echo "${0##*/} $*" >> "$NOTES"
[ "${0##*/}" != python ] || { case $* in *user-dir*) echo DIR ;; *device_count*) echo 0 ;; *zipfile*|*prepare-bytes*) ;; esac; exit 0; }
if [ -n "${FAILS:-}" ] && [[ $* == *"$FAILS"* ]]; then echo "fairseq_srupp: no memory"; exit 1; fi
if [ -n "${SLOW:-}" ] && [ "${0##*/}" = fairseq-train ]; then
  echo $$ >> "$PIDS"; (echo $BASHPID >> "$PIDS"; sleep 60); sleep 60
fi
echo "train_inner | ups=2.5, num_updates=60"
echo "ppl: 7.5 per word"
echo "Evaluated 10 tokens"
"""


@pytest.fixture
def script(tmp_path):
    """A function: what a script does where the commands above stand for the real ones. `script.notes()` are their calls."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("fairseq-train", "fairseq-eval-lm", "fairseq-generate", "fairseq-preprocess", "sacrebleu", "python", "taskset"):
        (commands / name).write_text(COMMAND if name != "taskset" else '#!/usr/bin/env bash\nshift 2; exec "$@"\n')
        (commands / name).chmod(0o755)
    settings = {"PATH": f"{commands}:{os.environ['PATH']}", "NOTES": str(tmp_path / "notes"), "PIDS": str(tmp_path / "pids")}

    def start(name, *arguments, **variables):
        environment = {**os.environ, **settings, **{key: str(value) for key, value in variables.items()}}
        command = ["bash", str(EXAMPLES / name), *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def run(name, *arguments, **variables):
        process = start(name, *arguments, **variables)
        process.out, process.err = process.communicate(timeout=60)
        return process

    run.start = start
    run.notes = lambda: (tmp_path / "notes").read_text().splitlines() if (tmp_path / "notes").exists() else []
    return run


@pytest.fixture
def given(tmp_path):
    """The arguments of each script that trains or evaluates, over data that is there."""
    data, text = tmp_path / "data", tmp_path / "text"
    (data / "bpe").mkdir(parents=True)
    names = [f"{split}.{kind}" for split in ("train", "valid", "test") for kind in ("bin", "idx")]
    for name in ["dict.txt", "dict.de.txt", "dict.en.txt", "bpe/reference.en", "bpe/reference.tok.en", *names]:
        (data / name).write_text("x 1\n")
    text.write_text("text\n")
    out = tmp_path / "out"
    return {
        "enwik8/train.sh": ["srupp_lm_enwik8_base", data, out],
        "wiki103/train.sh": ["srupp_lm_wiki103_base", data, out],
        "lm1b/train.sh": ["srupp_lm_lm1b_base", data, out],
        "enwik8/evaluate.sh": [data, text],
        "wiki103/evaluate.sh": [data, text],
        "lm1b/evaluate.sh": [data, text],
        "translation/train.sh": ["de", "en", data, out],
        "translation/compare.sh": ["de", "en", data, out],
        "iwslt14_de_en/train.sh": [data, out],
        "novels/run.sh": [text, text, text, out],
        "novels/compare.sh": [text, text, out],
        "novels/attention_layers.sh": [text, text, text, out],
        "wikitext2/compare.sh": [data, out],
    }


def refused(done, message):
    """One line on stderr, and nothing was trained."""
    assert done.returncode == 1 and re.fullmatch(rf"\w+\.sh: {message}\n", done.err), (done.out, done.err)
    assert not done.out


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in SOURCED])
def test_all_scripts_are_alike(name, script, tmp_path):
    text = (EXAMPLES / name).read_text()
    assert re.search(r"^set -euo pipefail$", text, re.MULTILINE)
    assert re.search(r'^\. "\$.*/(common|language_model)\.sh"$', text, re.MULTILINE)
    assert not re.search(r"fail\(\)|mkdir|exit [12]\b(?!; \})|set -m", text)
    for arguments in ([], [""] * 8):
        shown = script(name, *arguments)
        assert shown.returncode == 2 and not shown.out and f"\n{name.split('/')[1]} " in shown.err, shown.err
    assert script.notes() == []


NUMBERS = [
    ("enwik8/train.sh", {"ROWS": "abc"}, "ROWS is no whole number: abc"),
    ("wiki103/train.sh", {"ROWS": "0"}, "ROWS must be at least 1: 0"),
    ("lm1b/train.sh", {"ROWS": "9" * 30}, f"ROWS is no whole number: {'9' * 30}"),
    ("lm1b/train.sh", {"UPDATE_FREQ": "0"}, "UPDATE_FREQ must be at least 1: 0"),
    ("enwik8/train.sh", {"UPDATE_FREQ": "1.5"}, r"UPDATE_FREQ is no whole number: 1\.5"),
    ("enwik8/train.sh", {"GPUS": "two"}, "GPUS is no whole number: two"),
    ("enwik8/train.sh", {"ROWS": "010"}, "ROWS is no whole number: 010"),
    ("iwslt14_de_en/train.sh", {"GPUS": "-1"}, "GPUS is no whole number: -1"),
    ("novels/run.sh", {"UPDATES": "0"}, "UPDATES must be at least 1: 0"),
    ("novels/run.sh", {"UPDATES": "1e3"}, "UPDATES is no whole number: 1e3"),
    ("novels/run.sh", {"HOURS": "nan"}, "HOURS is no number: nan"),
    ("novels/run.sh", {"HOURS": "0.00"}, r"HOURS must be above 0: 0\.00"),
    ("novels/run.sh", {"TRAIN_ONLY": "yes"}, "TRAIN_ONLY is no whole number: yes"),
    ("novels/attention_layers.sh", {"HOURS": "-1"}, "HOURS is no number: -1"),
    ("novels/compare.sh", {"MINUTES": "x"}, "MINUTES is no number: x"),
    ("novels/compare.sh", {"SEARCH_MINUTES": "0"}, "SEARCH_MINUTES must be above 0: 0"),
    ("wikitext2/compare.sh", {"HOURS": "inf"}, "HOURS is no number: inf"),
    ("wikitext2/compare.sh", {"HOURS": "0"}, "HOURS must be above 0: 0"),
    ("translation/compare.sh", {"MINUTES": "0"}, "MINUTES must be above 0: 0"),
    ("translation/compare.sh", {"DROPOUT": "nan"}, "DROPOUT is no number: nan"),
    ("translation/compare.sh", {"SEED": "x"}, "SEED is no whole number: x"),
]


@pytest.mark.parametrize("name, variables, message", NUMBERS)
def test_numbers_in_the_environment(name, variables, message, script, given, tmp_path):
    refused(script(name, *given[name], **{"GPUS": 0, **variables}), message)
    assert not any("train" in call or "prepare" in call for call in script.notes()) and not (tmp_path / "out").exists()


PREPARING = [
    ("enwik8", {"ENWIK8_ZIP_BYTES": "36MB"}, "ENWIK8_ZIP_BYTES is no whole number: 36MB"),
    ("enwik8", {"ENWIK8_SYMBOLS": "0"}, "ENWIK8_SYMBOLS must be at least 1: 0"),
    ("enwik8", {"ENWIK8_SPLIT": "90 5"}, "ENWIK8_SPLIT is not three whole numbers: 90 5"),
    ("wiki103", {"WORKERS": "0"}, "WORKERS must be at least 1: 0"),
    ("wiki103", {"WIKITEXT_WORDS": "many"}, "WIKITEXT_WORDS is no whole number: many"),
    ("lm1b", {"WORKERS": "-2"}, "WORKERS is no whole number: -2"),
    ("lm1b", {"LM1B_TOKENS": "1 2"}, "LM1B_TOKENS is not three whole numbers: 1 2"),
    ("iwslt14_de_en", {"VOCAB": "0"}, "VOCAB must be at least 1: 0"),
]


@pytest.mark.parametrize("corpus, variables, message", PREPARING)
def test_numbers_of_what_is_prepared(corpus, variables, message, script, tmp_path):
    refused(script(f"{corpus}/prepare.sh", tmp_path / "out", **variables), message)
    assert script.notes() == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("window", ["0", "all", "-5"])
def test_windows(window, script, given):
    for corpus in ("enwik8", "wiki103", "lm1b"):
        refused(script(f"{corpus}/evaluate.sh", *given[f"{corpus}/evaluate.sh"], window), "WINDOW .*: " + window)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if re.search("train|evaluate|compare|novels", name)])
def test_without_data(name, script, tmp_path):
    count = {"novels": 4, "enwik8": 3, "wiki103": 3, "lm1b": 3, "translation": 4, "iwslt14_de_en": 2, "wikitext2": 2}[
        name.split("/")[0]
    ]
    arguments = [tmp_path / "nowhere"] * (3 if name == "novels/compare.sh" else count)
    if name.split("/")[0] in ("enwik8", "wiki103", "lm1b"):
        arch = f"srupp_lm_{name.split('/')[0]}_base"
        arguments = [arch, *arguments[1:]] if "train" in name else arguments[:2]
    refused(script(name, *arguments, GPUS=0), r".*nowhere\S* is missing.*")
    assert not any("train" in call for call in script.notes()) and sorted(p.name for p in tmp_path.iterdir()) in (
        ["bin"],
        ["bin", "notes"],
    )


TRAINING = {
    "enwik8/train.sh": 1,
    "wiki103/train.sh": 1,
    "lm1b/train.sh": 1,
    "translation/train.sh": 1,
    "translation/compare.sh": 2,
    "iwslt14_de_en/train.sh": 1,
    "novels/run.sh": 1,
    "novels/compare.sh": 2,
    "novels/attention_layers.sh": 1,
    "wikitext2/compare.sh": 2,
}


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_goes_on_after_the_script(name, number, script, given, tmp_path):
    process = script.start(name, *given[name], GPUS=0, SLOW=1)
    expected = 2 * TRAINING[name]
    deadline = time.monotonic() + 30
    while len(pids := read_pids(tmp_path)) < expected:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    assert all(map(alive, pids))
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode in (-number, 128 + number)
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, pids))


def read_pids(folder):
    return [int(line) for line in (folder / "pids").read_text().split()] if (folder / "pids").exists() else []


def alive(pid):
    """Whether a process runs; one that has ended may wait for its parent to ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def options(call):
    words = call.split()
    return dict(zip(words, words[1:]))


def test_comparison_of_language_models(script, given, tmp_path):
    done = script("wikitext2/compare.sh", *given["wikitext2/compare.sh"], HOURS="0.01")
    assert done.returncode == 0 and not done.err, done.err
    lines = done.out.splitlines()
    assert lines[0] == "updates: 85 and 85"  # 36 seconds, 2.5 updates a second
    assert lines[1:] == [f"{name}: ppl: 7.5 per word, Evaluated 10 tokens" for name in ("srupp_lm", "transformer_lm")]
    trained = [options(call) for call in script.notes() if call.startswith("fairseq-train")]
    assert sorted(call["--max-update"] for call in trained) == ["60", "60", "85", "85"]
    assert [call["--stop-time-hours"] for call in trained if call["--max-update"] == "85"] == ["0.01"] * 2


@pytest.mark.parametrize("model", ["srupp_lm", "transformer_lm"])
def test_comparison_of_which_one_training_fails(model, script, given, tmp_path):
    done = script("wikitext2/compare.sh", *given["wikitext2/compare.sh"], FAILS=f"--arch {model}")
    refused(done, f"training failed, see {tmp_path}/out/{model}.speed/train.log: fairseq_srupp: no memory")


def test_layers_with_attention(script, given, tmp_path):
    done = script("novels/attention_layers.sh", *given["novels/attention_layers.sh"], "--cpu", HOURS="0.01")
    assert done.returncode == 0, done.err
    trained = [options(call) for call in script.notes() if call.startswith("fairseq-train")]
    assert [call["--max-update"] for call in trained] == ["60", "85"] * 5
    assert [path.parent.name for path in sorted(tmp_path.rglob("done"))] == ["k1", "k10", "k2", "k5", "none"]
