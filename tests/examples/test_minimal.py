"""examples/minimal/srupp.py: the model is SRUppStack between embedding and output, and its command trains and writes."""

import ast
import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fairseq_srupp.modules import SRUppStack

SCRIPT = Path(__file__).parents[2] / "examples" / "minimal" / "srupp.py"
SYMBOLS, D, DA, LAYERS, ROWS = 11, 9, 5, 3, 2
TINY = "--steps 2 --rows 2 --segment 7 --d 15 --d_attention 5 --layers 2".split()


@pytest.fixture(scope="module")
def minimal():
    spec = importlib.util.spec_from_file_location("minimal_srupp", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("memory, lengths", [(4, [6]), (4, [6, 6, 3, 1]), (7, [3, 3, 3, 3]), (1, [1, 5])])
def test_scores_and_gradients_are_those_of_the_stack(minimal, awake, memory, lengths):
    torch.manual_seed(1)
    stack = awake(SRUppStack(D, DA, LAYERS).double())
    model = awake(minimal.LanguageModel(SYMBOLS, D, DA, LAYERS, memory).double(), seed=1)
    missing, unexpected = model.load_state_dict(stack.state_dict(), strict=False)
    assert not unexpected and all(not name.startswith("layers") for name in missing)
    state = own_state = None
    for length in lengths:
        tokens = torch.randint(SYMBOLS, (length, ROWS))
        weights = torch.randn(length, ROWS, SYMBOLS, dtype=torch.double)
        h, own_state = stack.forward_segment(model.embed_tokens(tokens), own_state, mem_len=memory)
        expected = model.output(h)
        scores, state = model(tokens, state)
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)
        ours = [*stack.parameters(), model.embed_tokens.weight, *model.output.parameters()]
        theirs = [dict(model.named_parameters())[name] for name, _ in stack.named_parameters()] + ours[-3:]
        by_stack = torch.autograd.grad((expected * weights).sum(), ours)
        by_model = torch.autograd.grad((scores * weights).sum(), theirs)
        torch.testing.assert_close(by_model, by_stack, rtol=0, atol=1e-12)
    assert len(by_model) == len(list(model.parameters())) and all(each.abs().max() > 0 for each in by_model)


def test_streams_are_contiguous_and_every_byte_has_its_next(minimal):
    data = torch.arange(32)
    batches = list(minimal.segments(data, rows=3, length=4))
    tokens, targets = (torch.cat(side) for side in zip(*batches))
    assert tokens.t().tolist() == [list(range(start, start + 8)) for start in (0, 8, 16)]
    assert torch.equal(targets, tokens + 1) and all(each.shape == (4, 3) for each, _ in batches)


def test_dropout_is_of_the_normalised_attention_output_and_only_in_training(minimal, awake):
    torch.manual_seed(1)
    transform = awake(minimal.Transform(D, DA, dropout=1.0))
    x, memory = torch.randn(4, ROWS, D), torch.randn(2, ROWS, D)
    assert (transform(x, memory) == 0).all() and (transform.eval()(x, memory) != 0).all()


def test_is_short_and_imports_torch_alone():
    source = SCRIPT.read_text()
    assert source.count("\n") <= 150
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {getattr(node, "module", None) or alias.name for node in imports for alias in node.names}
    assert {name.split(".")[0] for name in names} <= {"torch", *sys.stdlib_module_names}


def test_trains_and_continues_a_text(tmp_path):
    (tmp_path / "text").write_bytes(b"abcdefg" * 100)
    command = [sys.executable, SCRIPT, tmp_path / "text", *TINY, "--lr", "0.1", "--prompt", "fgab"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300)
    assert done.returncode == 0, done.stderr
    first, last = map(float, re.findall(r"step \d: ([\d.]+) bits per byte", done.stdout))
    assert last < first
    held_out, text = re.search(r"held out: ([\d.]+) bits per byte\n(.*)", done.stdout, re.DOTALL).groups()
    assert float(held_out) < last and text.startswith("fgab") and len(text) > 100


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "No such file or directory"),
        (b"", "0 bytes, expected at least 300"),
        (b"a" * 299, "299 bytes, expected at least 300"),
    ],
)
def test_a_file_that_cannot_be_used_ends_in_one_line(monkeypatch, tmp_path, content, message):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["srupp.py", str(path), *TINY])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stopped.value.code == f"{path}: {message}"


def test_the_shortest_text_that_is_enough(monkeypatch, capsys, tmp_path):
    (tmp_path / "text").write_bytes(b"a" * 300)
    monkeypatch.setattr(sys, "argv", ["srupp.py", str(tmp_path / "text"), *TINY])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "held out: nan" not in capsys.readouterr().out
