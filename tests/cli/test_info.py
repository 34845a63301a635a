"""`python -m fairseq_srupp`: its list of commands, info and user-dir."""

import os
import subprocess
import sys

import pytest
import torch

import fairseq_srupp
from fairseq_srupp import cli, ops
from fairseq_srupp.compat import family

HERE = os.path.dirname(os.path.abspath(fairseq_srupp.__file__))


def test_user_dir_prints_the_path_alone(capsys):
    assert cli.main(["user-dir"]) == 0
    assert capsys.readouterr() == (HERE + "\n", "")


def test_info_tells_versions_devices_and_backends(capsys):
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    for expected in (
        fairseq_srupp.__version__,
        HERE,
        torch.__version__,
        "numpy",
        f"  {'fairseq':15}{family.find()}\n",
        "GPU",
        "CPU threads",
    ):
        assert expected in out
    for name, (available, reason) in ops.backends().items():
        (line,) = [line for line in out.splitlines() if line.split()[:1] == [name]]
        assert ("not here" in line) == (not available) and reason in line


def test_info_tells_why_a_backend_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(ops, "backends", lambda: {"cpu": (False, "not built: run make setup")})
    assert cli.main(["info"]) == 0
    assert "cpu            not here: not built: run make setup\n" in capsys.readouterr().out


def test_info_without_torch(tmp_path):
    script = (
        "import runpy, sys\n"
        "sys.modules['torch'] = None\n"
        "sys.argv = ['fairseq_srupp', 'info']\n"
        "runpy.run_module('fairseq_srupp', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        text=True,
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.path.dirname(HERE)},
    )
    assert done.returncode == 1, done.stderr
    assert f"{'torch':15}not installed" in done.stdout and "backends" not in done.stdout


def test_an_unknown_command_is_told_what_there_is(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["averages"])
    assert end.value.code == 2
    assert "average-checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    assert f"python -m fairseq_srupp {command}" in capsys.readouterr().out


def test_a_reader_that_stops_reading():
    """As `info | head -1` does."""
    command = subprocess.Popen(
        [sys.executable, "-m", "fairseq_srupp", "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    command.stdout.close()
    assert command.stderr.read() == ""
    assert command.wait() == 1
    command.stderr.close()
