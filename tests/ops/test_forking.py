"""A process that used the op on several threads forks: the child can use it, whatever was imported before the fork.

Each runs in a process of its own, and children have a time limit: OpenMP hangs rather than fails."""

import os
import subprocess
import sys

import pytest

import fairseq_srupp

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

SCRIPT = """
import multiprocessing, os, signal, sys, torch
import torch.nn.functional as F
from fairseq_srupp.ops import sru_recurrence

torch.set_num_threads(3)
torch.manual_seed(0)
u, x = torch.randn(16, 8, 3, 512, requires_grad=True), torch.randn(16, 8, 512)
weight_c, bias = torch.randn(2, 512), torch.randn(2, 512)


def use():
    h, _ = sru_recurrence(u, x, weight_c, bias)
    (gradient,) = torch.autograd.grad(F.linear(h, x[0]).sum(), u)
    return float(gradient.double().square().sum())


def child(first, expected):
    signal.alarm(60)  # who hangs is ended
    exec(first)
    assert abs(use() - expected) < 1e-3 * abs(expected)


expected = use()
before, after = sys.argv[1:]
exec(before)
pid = os.fork()
if pid == 0:
    try:
        child(after, expected)
    except BaseException as error:
        print(error, flush=True)
        os._exit(1)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
process = multiprocessing.get_context("fork").Process(target=child, args=(after, expected))
process.start()
process.join()
assert process.exitcode == 0
assert torch.get_num_threads() == 3 and use() == expected
"""
PLUGIN = "import fairseq_srupp.models, fairseq_srupp.tasks"


@pytest.mark.parametrize("before, after", [(PLUGIN, ""), ("", PLUGIN)], ids=["before", "after"])
def test_the_plugin_is_imported_before_the_fork_and_after(before, after):
    pytest.importorskip("fairseq")
    folder = os.path.dirname(os.path.dirname(os.path.abspath(fairseq_srupp.__file__)))
    environment = {**os.environ, "PYTHONPATH": folder, "PYTHONWARNINGS": "ignore"}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, before, after], text=True, capture_output=True, env=environment, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
