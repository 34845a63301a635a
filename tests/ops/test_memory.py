"""Large blocks are kept for the process: no page of them is cleared twice."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")

BLOCKS = """
import resource, sys, torch
if "keep" in sys.argv:
    from fairseq_srupp.ops import memory
    print(memory.keep())
many = int(sys.argv[-1]) if sys.argv[-1].isdigit() else 1
for i in range(32 if many == 1 else 6):  # an aligned block does not fit where one of its size was, so it takes some until all find a place
    if i == (24 if many == 1 else 4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.empty((384 if many > 1 else 48) << 20, dtype=torch.uint8) for _ in range(many)]
    for block in blocks:
        block.fill_(1)
    del blocks, block
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / (8 if many == 1 else 2))
"""


def run(*words, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", BLOCKS, *words], env=environment | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_blocks_are_touched_for_the_first_time_once():
    (mapped,) = run()
    kept, faults = run("keep")
    assert kept == "True" and float(faults) < 0.1 * float(mapped)


def test_also_where_much_is_free():
    """A C library that is told to trim nothing, rather than above some size."""
    kept, faults = run("keep", "6")
    assert kept == "True" and float(faults) < 100


@pytest.mark.parametrize("variables", [{"FAIRSEQ_SRUPP_KEEP_MEMORY": "0"}, {"MALLOC_TRIM_THRESHOLD_": "131072"}])
def test_not_where_somebody_has_decided_otherwise(variables):
    kept, faults = run("keep", **variables)
    assert kept == "False" and float(faults) > 10
