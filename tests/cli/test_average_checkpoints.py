"""`average-checkpoints`: means in double precision, in a checkpoint that fairseq takes."""

import argparse
import os

import pytest
import torch

from fairseq_srupp import cli
from fairseq_srupp.compat.errors import UserError


def checkpoint(seed, updates, **parameters):
    """As fairseq-train writes it, with a tied and an integer parameter."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(5, 3, generator=generator)
    model = {"embed.weight": embedding, "output.weight": embedding, "steps": torch.tensor([7]), **parameters}
    return {
        "args": None,
        "cfg": {"model": argparse.Namespace(arch="x"), "seed": seed},
        "model": model,
        "criterion": None,
        "optimizer_history": [{"num_updates": updates, "optimizer_name": "FairseqAdam"}],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1}, "ema": model},
        "last_optimizer_state": {"state": torch.zeros(1000)},
    }


@pytest.fixture
def write(tmp_path):
    def write(name, *args, **parameters):
        path = tmp_path / name
        torch.save(checkpoint(*args, **parameters), path)
        return str(path)

    return write


def average(tmp_path, *words):
    assert cli.main(["average-checkpoints", *map(str, words), "--output", str(tmp_path / "mean.pt")]) == 0
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(tmp_path / "mean.pt", weights_only=True)


def test_the_mean_of_parameters(write, tmp_path, capsys):
    paths = [write(f"{seed}.pt", seed, 10 * seed) for seed in (1, 2, 3)]
    mean = average(tmp_path, "--inputs", *paths)
    weights = [checkpoint(seed, 0)["model"]["embed.weight"].double() for seed in (1, 2, 3)]
    assert torch.equal(mean["model"]["embed.weight"], (sum(weights) / 3).float())
    assert mean["model"]["steps"].tolist() == [7] and mean["model"]["steps"].dtype == torch.int64
    assert "3.pt (30 updates)" in capsys.readouterr().out


def test_sums_do_not_round(write, tmp_path):
    values = [1e8, 1.0, -1e8]
    paths = [write(f"{i}.pt", 1, 1, x=torch.tensor([value])) for i, value in enumerate(values)]
    assert average(tmp_path, "--inputs", *paths)["model"]["x"].item() == pytest.approx(1 / 3)


def test_what_is_kept_and_what_is_not(write, tmp_path):
    mean = average(tmp_path, "--inputs", write("late.pt", 2, 20), write("early.pt", 1, 10))
    assert mean["cfg"]["seed"] == 2 and mean["optimizer_history"][-1]["num_updates"] == 20  # of the newest
    assert "last_optimizer_state" not in mean and "ema" not in mean["extra_state"]
    tied = mean["model"]["embed.weight"].untyped_storage().data_ptr()
    assert mean["model"]["output.weight"].untyped_storage().data_ptr() == tied


def test_the_last_of_a_folder(write, tmp_path):
    for number in (2, 9, 10):
        write(f"checkpoint{number}.pt", number, number)
    write("checkpoint_last.pt", 10, 10)
    mean = average(tmp_path, "--dir", tmp_path, "--last", 2)
    expected = average(tmp_path, "--inputs", tmp_path / "checkpoint9.pt", tmp_path / "checkpoint10.pt")
    assert torch.equal(mean["model"]["embed.weight"], expected["model"]["embed.weight"])


def test_epochs_or_updates(write, tmp_path):
    write("checkpoint1.pt", 1, 50)
    write("checkpoint_1_40.pt", 2, 40)
    write("checkpoint_2_100.pt", 3, 100)
    with pytest.raises(UserError, match="say --by epochs or --by updates"):
        average(tmp_path, "--dir", tmp_path, "--last", 1)
    assert average(tmp_path, "--dir", tmp_path, "--last", 1, "--by", "epochs")["cfg"]["seed"] == 1
    assert average(tmp_path, "--dir", tmp_path, "--last", 2, "--by", "updates")["cfg"]["seed"] == 3


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"new.weight": torch.zeros(1)}, "new.weight is in .*b.pt but not in .*a.pt"),
        ({"embed.weight": torch.zeros(5, 4)}, r"embed.weight is \(5, 3\) in .*a.pt and \(5, 4\) in .*b.pt"),
        ({"steps": torch.tensor([8])}, "steps, of whole numbers, differs"),
        ({"steps": torch.tensor([7.0])}, "steps is torch.int64 in .*a.pt and torch.float32 in .*b.pt"),
        ({"embed.weight": torch.zeros(5, 3) * 1j}, "embed.weight is torch.float32 in .*a.pt and torch.complex64 in"),
    ],
)
def test_checkpoints_of_different_models(parameters, message, write, tmp_path):
    with pytest.raises(UserError, match=message):
        average(tmp_path, "--inputs", write("a.pt", 1, 1), write("b.pt", 1, 1, **parameters))
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "b.pt"]


@pytest.mark.parametrize("words", [["--inputs", "nowhere.pt"], ["--dir", "nowhere", "--last", "2"], ["--dir", "."]])
def test_nothing_to_average(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nowhere|--last N"):
        average(tmp_path, *words)


def test_too_few(write, tmp_path):
    write("checkpoint1.pt", 1, 1)
    with pytest.raises(UserError, match="holds 1 checkpoints of epochs, fewer than --last 2"):
        average(tmp_path, "--dir", tmp_path, "--last", 2)


def test_what_is_no_model(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="x.pt is not a checkpoint of fairseq"):
        average(tmp_path, "--inputs", tmp_path / "x.pt")


@pytest.mark.parametrize(
    "part, content, message",
    [
        ("model", {}, "no model"),
        ("model", {"x": "text"}, "x of its model is of type str, expected a tensor"),
        ("model", {7: torch.zeros(1)}, "7 of its model is of type Tensor, expected a tensor with a name"),
        ("model", {"x": [torch.zeros(1)]}, "x of its model is of type list"),
        ("model", {"x": torch.zeros(1).expand(10**12)}, "is no checkpoint: it declares tensors of 4,000,000,00"),
        ("model", {"x": torch.zeros(3, dtype=torch.int32).expand(10**9, 3)}, "it declares tensors of 12,000,00"),
        ("model", {"x": torch.ones(3).to_sparse()}, "without plain data .*sparse"),
        ("model", {"x": torch.ones(3, device="meta")}, "without plain data .*meta"),
        ("model", {"x": torch.ones(3).to(torch.float8_e5m2)}, "x of its model is of torch.float8_e5m2"),
        ("model", {"x": torch.ones(4, dtype=torch.uint8).view(torch.bits8)}, "x of its model is of torch.bits8"),
        ("criterion", "text", "its criterion is of type str"),
        ("criterion", torch.ones(3), "its criterion is of type Tensor"),
        ("criterion", {"x": 0.5}, "x of its criterion is of type float"),
        ("optimizer_history", torch.ones(3), "optimizer_history is no list"),
        ("optimizer_history", ["text"], "optimizer_history is no list of dicts"),
        ("optimizer_history", [{"num_updates": "7"}], "number of updates is of type str"),
        ("extra_state", [1], "its extra_state is of type list"),
    ],
)
def test_odd_content_is_one_line(part, content, message, tmp_path):
    state = {**checkpoint(1, 1), part: content}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(UserError, match=f"a.pt .*{message}"):
        average(tmp_path, "--inputs", tmp_path / "a.pt", tmp_path / "a.pt")
    assert os.listdir(tmp_path) == ["a.pt"]


def test_complex_numbers_have_a_mean(write, tmp_path):
    paths = [write(f"{i}.pt", 1, 1, x=torch.tensor([complex(i, -1)])) for i in range(2)]
    assert average(tmp_path, "--inputs", *paths)["model"]["x"].tolist() == [0.5 - 1j]


def test_parameters_that_want_gradients(write, tmp_path):
    paths = [write(f"{i}.pt", 1, 1, x=torch.nn.Parameter(torch.full((2,), float(i)))) for i in range(2)]
    mean = average(tmp_path, "--inputs", *paths)["model"]["x"]
    assert mean.tolist() == [0.5, 0.5] and not mean.requires_grad


class RunsCode:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return exec, (f"open({self.path!r}, 'w').close()",)


def test_a_checkpoint_that_runs_code(write, tmp_path):
    state = checkpoint(1, 1)
    state["extra_state"]["surprise"] = RunsCode(tmp_path / "harm")
    torch.save(state, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="evil.pt.*exec"):
        average(tmp_path, "--inputs", write("a.pt", 1, 1), tmp_path / "evil.pt")
    assert not (tmp_path / "harm").exists() and not (tmp_path / "mean.pt").exists()


def test_an_output_folder_that_is_not_there(write, tmp_path):
    with pytest.raises(UserError, match="cannot write the checkpoint .*nowhere/mean.pt"):
        average(tmp_path / "nowhere", "--inputs", write("a.pt", 1, 1))
