"""setup.py, as far as it says something instead of compiling."""

import os
import pathlib
import subprocess
import sys

import fairseq_srupp

ROOT = pathlib.Path(__file__).parents[2]


def setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "setup.py", "--quiet", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )


def test_without_torch_one_line_says_what_to_run(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    done = setup("build_ext", "--build-lib", str(tmp_path), PYTHONPATH=str(tmp_path), FAIRSEQ_SRUPP_NO_EXTENSION="0")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "run `pip install torch" in line and "pip install --no-build-isolation ." in line


def test_the_extension_can_be_left_out(tmp_path):
    done = setup("build_ext", "--build-lib", str(tmp_path), FAIRSEQ_SRUPP_NO_EXTENSION="1")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_one_version():
    assert setup("--version", FAIRSEQ_SRUPP_NO_EXTENSION="1").stdout.strip() == fairseq_srupp.__version__
