"""Training on a stream in the ways that fairseq-train offers, in processes of its own where that matters."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fairseq_srupp.compat.files.weights_only import load
from fairseq_srupp.compat.user_dir import PACKAGE_DIR

ADAPTIVE = (
    "--arch srupp_lm --layers 2 --hidden-size 16 --attention-dim 8 --embed-dim 16 --alpha-init 0.7 --dropout 0 "
    "--adaptive-input --adaptive-softmax-cutoff 8,20 --tie-adaptive-weights --tie-adaptive-proj --criterion adaptive_loss"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of byte data."""
    folder = tmp_path_factory.mktemp("text")
    text = "".join(f"{n} times {n % 7} is {n * (n % 7)}.\n" for n in range(400))
    for split, end in (("train", None), ("valid", 200), ("test", 300)):
        (folder / split).write_text(text[:end])
    splits = [f"--{split}={folder / split}" for split in ("train", "valid", "test")]
    command = [sys.executable, "-m", "fairseq_srupp", "prepare-bytes", *splits, f"--destdir={folder / 'data'}"]
    subprocess.run(command, check=True, capture_output=True, env=environment())
    return folder / "data"


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.path.dirname(PACKAGE_DIR)}


def command(data, save_dir, *options, processes=1):
    launcher = "" if processes == 1 else f"-m torch.distributed.run --standalone --nproc-per-node {processes}"
    words = [
        f"{sys.executable} {launcher} -m fairseq_cli.train {data} --user-dir {PACKAGE_DIR} --cpu --save-dir {save_dir}",
        "--task streaming_language_modeling --tokens-per-sample 16 --distributed-backend gloo --ddp-backend legacy_ddp",
        f"--optimizer radam --lr 0.01 --clip-norm 1 --seed 1 --batch-size-valid 2 --no-epoch-checkpoints {ADAPTIVE}",
    ]
    return [*" ".join(words).split(), *map(str, options)]


def train(data, save_dir, *options, processes=1):
    """Run to the end, and return the log."""
    done = subprocess.run(
        command(data, save_dir, *options, processes=processes),
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr + done.stdout


def weights(save_dir, name="checkpoint_last.pt"):
    return load(Path(save_dir) / name)["model"]


def test_two_processes_share_the_rows(data, tmp_path):
    """The rows of one process, dealt out to two: the same updates."""
    # Not an adaptive optimizer, which makes whole steps of rounding errors.
    plain = ["--optimizer", "sgd", "--lr", "0.3", "--max-update", 6]
    train(data, tmp_path / "one", *plain, "--batch-size", 4)
    train(data, tmp_path / "two", *plain, "--batch-size", 2, processes=2)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5, msg=name)

    # and they evaluate it together
    results = []
    for processes in (1, 2):
        words = f"-m fairseq_cli.eval_lm {data} --user-dir {PACKAGE_DIR} --cpu --task streaming_language_modeling"
        words += f" --path {tmp_path}/one/checkpoint_last.pt --gen-subset test --batch-size {2 // processes}"
        words += f" --distributed-world-size {processes} --distributed-backend gloo"
        done = subprocess.run([sys.executable, *words.split()], capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(set(re.findall(r"bpc: [\d.]+", done.stdout + done.stderr)))
    assert results[0] == results[1] and len(results[0]) == 1


def kill_while_saving(arguments, save_dir):
    """Start a run, and kill all of it when a checkpoint of update 8 or later is being written."""
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(), start_new_session=True
    )
    whole = Path(save_dir) / "checkpoint_1_4.pt"
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        # a file under a temporary name stands there for as long as the writing takes
        if whole.exists() and any(".tmp" in path.name for path in Path(save_dir).glob("*")):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return
    pytest.fail(f"no checkpoint was seen being written, exit status {process.poll()}")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_was_killed_while_it_saved_goes_on_exactly(data, tmp_path, processes):
    options = ["--batch-size", 4 // processes, "--max-update", 16, "--save-interval-updates", 4]
    # spawned, not under torchrun, whose processes are not in its group and would outlive it
    options += ["--keep-interval-updates", 2, "--disable-validation", "--distributed-world-size", processes]
    train(data, tmp_path / "whole", *options)
    kill_while_saving(command(data, tmp_path / "killed", *options), tmp_path / "killed")
    assert not (tmp_path / "killed" / "checkpoint_1_16.pt").exists()
    log = train(data, tmp_path / "killed", *options)
    assert re.search(r"Loaded checkpoint .* @ \d+ updates", log)
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_an_average_of_the_weights_is_kept(data, tmp_path):
    """--store-ema, and going on from it."""
    options = ["--batch-size", 4, "--store-ema", "--ema-decay", 0.8]
    train(data, tmp_path / "whole", *options, "--max-update", 8)
    train(data, tmp_path / "parts", *options, "--max-update", 5)
    train(data, tmp_path / "parts", *options, "--max-update", 8)
    states = [load(tmp_path / run / "checkpoint_last.pt")["extra_state"]["ema"] for run in ("whole", "parts")]
    assert states[0] and all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], value) for name, value in weights(tmp_path / "whole").items())


@pytest.mark.parametrize("processes, options", [(1, []), (2, ["--checkpoint-activations", "--store-ema"])])
def test_compiled_layers_go_on_exactly(data, tmp_path, processes, options):
    """And what they learn is nearly what they learn without --compile."""
    options = [*options, "--batch-size", 4 // processes, "--optimizer", "sgd", "--lr", 0.3]
    train(data, tmp_path / "whole", *options, "--compile", "--max-update", 6, processes=processes)
    for updates in (4, 6):
        train(data, tmp_path / "parts", *options, "--compile", "--max-update", updates, processes=processes)
    train(data, tmp_path / "eager", *options, "--max-update", 6, processes=processes)
    whole, parts, eager = (weights(tmp_path / run) for run in ("whole", "parts", "eager"))
    assert whole.keys() == eager.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    for name in whole:
        torch.testing.assert_close(whole[name], eager[name], rtol=1e-4, atol=1e-5, msg=name)


def test_compiled_layers_in_bf16(data, tmp_path):
    for run, options in (("compiled", ["--compile"]), ("eager", [])):
        train(data, tmp_path / run, "--bf16", "--batch-size", 4, "--optimizer", "sgd", "--max-update", 6, *options)
    compiled, eager = weights(tmp_path / "compiled"), weights(tmp_path / "eager")
    for name in compiled:
        torch.testing.assert_close(compiled[name], eager[name], rtol=0.05, atol=0.01, msg=name)


def test_fine_tuning_starts_the_text_from_zero(data, tmp_path):
    train(data, tmp_path / "base", "--batch-size", 4, "--max-update", 5)
    base = tmp_path / "base" / "checkpoint_last.pt"
    log = train(data, tmp_path / "tuned", "--batch-size", 2, "--max-update", 1, "--lr", 0, "--finetune-from-model", base)
    assert "loading pretrained model" in log
    before, after = weights(tmp_path / "base"), weights(tmp_path / "tuned")
    assert all(torch.equal(before[name], after[name]) for name in before)
    position = load(tmp_path / "tuned" / "checkpoint_last.pt")["extra_state"]["train_iterator"]
    assert (position["epoch"], position["iterations_in_epoch"]) == (1, 1)


def test_bf16(data, tmp_path):
    train(data, tmp_path, "--batch-size", 4, "--max-update", 3, "--bf16")
    assert all(weight.isfinite().all() for weight in weights(tmp_path).values())


def test_other_rows_or_processes_are_refused_in_one_line(data, tmp_path):
    train(data, tmp_path, "--batch-size", 4, "--max-update", 3)
    for processes, rows in ((1, 2), (2, 2)):
        arguments = command(data, tmp_path, "--batch-size", rows, "--max-update", 6, processes=processes)
        done = subprocess.run(arguments, capture_output=True, text=True, env=environment(), timeout=300)
        lines = [line for line in done.stderr.splitlines() if line.startswith("fairseq_srupp: ")]
        assert done.returncode != 0 and "--reset-dataloader" in lines[0]
        assert len(lines) <= processes  # under torchrun each of them may say it
        assert processes > 1 or "Traceback" not in done.stderr
