"""examples/benchmarks/original.py without the original: a wrong folder and a failed compilation give one line."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"


def test_a_folder_without_the_original_gives_one_line(tmp_path):
    command = [sys.executable, FOLDER / "original.py", tmp_path, "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"{tmp_path} is no checkout of asappresearch/sru") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "log, expected",
    [
        ("Error building\n[1/2] nvcc\nk.cu(8): error: no\n1 error detected\nninja: stopped.\n", "k.cu(8): error: no"),
        ("Got the following error:\nCUDA_HOME is not set.\n", "CUDA_HOME is not set."),
        ("", "no reason given"),
    ],
)
def test_the_reason_of_a_failed_compilation_is_one_line(monkeypatch, log, expected):
    monkeypatch.syspath_prepend(str(FOLDER))
    assert runpy.run_path(str(FOLDER / "original.py"))["reason"](log) == expected
