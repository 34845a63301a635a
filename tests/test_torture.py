"""The driver of the long version, for a moment, and that it notices what fails."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "torture"


@pytest.fixture
def torture(monkeypatch):
    """torture(*words, folder): the exit status, and what was written as JSON."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("torture", FOLDER / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "torture", module)  # or its functions could not go to another process
    spec.loader.exec_module(module)

    def run(*words, folder):
        status = module.main([*map(str, words), "--json", str(folder / "torture.json")])
        return status, json.loads((folder / "torture.json").read_text())

    yield run
    sys.modules.pop("kinds")


def test_what_holds(torture, tmp_path, capsys):
    status, written = torture("--only", "calls", "malice", "--count", 70, "--seed", 11, folder=tmp_path)
    assert (status, written["seed"]) == (0, 11)
    for name in ("calls", "malice"):
        kind = written["kinds"][name]
        assert (kind["tried"], kind["held"], kind["failed"]) == (70, 70, [])
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "seed 11" and table[2].split()[:4] == ["calls", "70", "70", "0"]


def test_what_does_not_hold(torture, tmp_path, monkeypatch):
    import kinds

    monkeypatch.setattr(kinds.op_calls, "faults", lambda call, run: ["a fault"] if call.shape[0] == 20 else [])
    monkeypatch.setattr(kinds.op_calls, "derivative_faults", lambda seed: [])
    status, written = torture("--only", "calls", "--count", 30, "--seed", 0, "--jobs", 1, folder=tmp_path)
    failed = written["kinds"]["calls"]["failed"]
    assert status == 1 and failed and all("a fault" in line for line in failed)
    assert len(failed) + written["kinds"]["calls"]["held"] == 30


@pytest.mark.parametrize("wrong", ["raises", "stops early"])
def test_a_kind_that_breaks_off(torture, tmp_path, monkeypatch, wrong):
    import kinds

    def calls(folder, seed, count):
        yield kinds.Tried("the first")
        if wrong == "raises":
            raise OSError("no space")

    monkeypatch.setattr(kinds, "COUNTS", {calls: 2})
    status, _ = torture("--only", "calls", "--count", 2, "--jobs", 1, folder=tmp_path)
    assert status == 1


def test_the_counts_are_those_of_the_readme(torture, tmp_path):
    import kinds
    import malicious

    text = (FOLDER.parent / "README.md").read_text()
    counts = {kind.__name__: count for kind, count in kinds.COUNTS.items()}
    running, crafted = len(list(kinds.code(tmp_path))), len(list(malicious.crafted()))
    assert f"{counts['calls']:,} (`calls`)" in text and f"| {counts['flips']}, of both models" in text
    assert f"| {counts['kills']}, both models" in text and f"| {running} (`malice`)" in text
    assert f"| {crafted} and {counts['malice'] - running - crafted} (`malice`)" in text


def test_a_pickle_that_runs_code_would_be_seen(torture, tmp_path):
    """All of them do where nothing stops them."""
    import kinds
    import malicious
    import torch

    for name, program in kinds.code(tmp_path / "marker"):
        malicious.write(tmp_path / "x.pt", program)
        try:
            torch.load(tmp_path / "x.pt", weights_only=False)
        except Exception as error:  # such as that no config can be made of what came out
            print(name, error)
        assert (tmp_path / "marker").exists(), name
        (tmp_path / "marker").unlink()
