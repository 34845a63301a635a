"""torchrun on two machines, of which both are this one: two agents, each with a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from stopped_runs import environment

from fairseq_srupp.compat.files.weights_only import load
from fairseq_srupp.compat.user_dir import PACKAGE_DIR

# Not Adam, which makes whole steps of what rounding leaves where a gradient is 0.
COMMON = f"--user-dir {PACKAGE_DIR} --cpu --optimizer sgd --lr 0.5 --dropout 0 --no-epoch-checkpoints --num-workers 0 "
SIZES = "--hidden-size 16 --attention-dim 8 --alpha-init 0.5 --no-progress-bar --disable-validation "
STREAM = f"--task streaming_language_modeling --arch srupp_lm --layers 2 --tokens-per-sample 8 {SIZES}"
SENTENCES = (
    f"--task translation --arch srupp_transformer --encoder-layers 1 --decoder-layers 1 --embed-dim 8 --max-tokens 60 {SIZES}"
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Machines:
    """The agents of machines 0 and 1. A tuple among the words for fairseq-train has one for each of them."""

    def __init__(self, folder, *words):
        folder.mkdir(exist_ok=True)
        launcher = "-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --master-addr 127.0.0.1 "
        launcher += f"--master-port {free_port()}"
        pairs = (word if isinstance(word, tuple) else (word, word) for word in words)
        words = [" ".join(map(str, machine)).split() for machine in zip(*pairs)]
        self.logs = [folder / f"machine{rank}.log" for rank in range(2)]
        self.agents = []
        for rank in range(2):
            train = f"--node-rank {rank} -m fairseq_cli.train --distributed-backend gloo --ddp-backend legacy_ddp"
            with open(self.logs[rank], "w") as log:
                command = [sys.executable, *launcher.split(), *train.split(), *words[rank]]
                self.agents.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment()))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for agent in self.agents:
            agent.terminate()
        for agent in self.agents:
            agent.wait(60)

    def ended(self, seconds=200):
        """The exit statuses, and what was printed."""
        statuses = [agent.wait(seconds) for agent in self.agents]
        return statuses, [log.read_text() for log in self.logs]


def train(folder, *words):
    with Machines(folder, *words) as machines:
        statuses, printed = machines.ended()
    assert statuses == [0, 0], printed[0][-3000:] + printed[1][-3000:]


def assert_same_model(folder, other):
    models = [load(str(path / "checkpoint_last.pt"))["model"] for path in (folder, other)]
    torch.testing.assert_close(*models, rtol=1e-5, atol=1e-6)


def test_streams_with_the_rows_of_one_process(fairseq_cli, text, tmp_path):
    words = f"{text.data} {COMMON} {STREAM} --max-update 6 --save-dir"
    fairseq_cli("train", words, tmp_path / "one", "--batch-size 4")
    train(tmp_path, words, tmp_path / "two", "--batch-size 2")
    assert_same_model(tmp_path / "one", tmp_path / "two")


def test_goes_on_after_an_agent_was_killed(fairseq_cli, pairs, tmp_path):
    """Sentences: the batches of two updates of one process are those of an update of two."""
    words = f"{pairs} {COMMON} {SENTENCES} --save-dir"
    fairseq_cli("train", words, tmp_path / "one", "--max-update 12 --update-freq 2")
    with Machines(tmp_path, words, tmp_path / "two", "--max-update 100000 --save-interval-updates 3") as machines:
        until = time.monotonic() + 200
        while not (tmp_path / "two" / "checkpoint_1_3.pt").exists() and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(machines.agents[1].pid, signal.SIGKILL)
    (tmp_path / "two" / "checkpoint_last.pt").unlink(missing_ok=True)  # it may have come further than 12
    (tmp_path / "two" / "checkpoint_1_3.pt").rename(tmp_path / "two" / "checkpoint_last.pt")
    train(tmp_path, words, tmp_path / "two", "--max-update 12")
    assert_same_model(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("mistake", ["no data", "no common folder"])
def test_one_machine_has_a_mistake(fairseq_cli, pairs, tmp_path, mistake):
    """Its line is told, and the other ends as well, at once: not after 30 minutes."""
    data, save_dir = pairs, tmp_path / "run"
    if mistake == "no data":
        data, line = (pairs, tmp_path / "nowhere"), f"fairseq_srupp: No such file or directory: {tmp_path}/nowhere"
    else:
        fairseq_cli("train", pairs, COMMON, SENTENCES, "--max-update 1 --save-dir", save_dir)
        save_dir = (save_dir, tmp_path / "other")
        line = "and rank 1 does not: all machines need to share one --save-dir"
    with Machines(tmp_path, data, f"{COMMON} {SENTENCES} --max-update 3 --save-dir", save_dir) as machines:
        statuses, printed = machines.ended()
    assert 0 not in statuses
    told = [next(line for line in log.splitlines() if line.startswith("fairseq_srupp: ")) for log in printed]
    assert line in told[1]
    assert line in told[0] or told[0] == "fairseq_srupp: rank 1 has failed, and said why"
