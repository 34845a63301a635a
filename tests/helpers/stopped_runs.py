"""Training in processes of its own that is killed at random moments and started again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Sequence

from fairseq_srupp.compat.user_dir import PACKAGE_DIR


def environment(**changes: str) -> Dict[str, str]:
    """Of a process that runs this plugin on one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.path.dirname(PACKAGE_DIR), **changes}


def saved_updates(save_dir: Path) -> str:
    """A mark of what stands in `save_dir`, another one after each save."""
    return " ".join(f"{path.name} {path.stat().st_mtime_ns}" for path in sorted(Path(save_dir).glob("*.pt")))


def kill_all(process: subprocess.Popen) -> None:
    """Ends the process and those of its session, as a crash does."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run_with_kills(
    words: Sequence[str], save_dir: Path, kills: int, *, seed: int = 0, seconds: float = 0.5, timeout: float = 300
) -> Path:
    """Runs `python words` until it ends by itself, having killed it (kill -9, with all its processes) `kills` times.

    Args:
        words: after `python`, such as ["-m", "fairseq_cli.train", ...], with `--save-dir save_dir`. Its processes must
            stay in its session: not under torchrun, but with `--distributed-world-size`.
        save_dir: a run is killed up to `seconds` after something was saved there.
        seed: of the moments.
        timeout: seconds, for each start.

    Returns: the last checkpoint.

    Raises: AssertionError when the run fails, with the end of what it printed.
    """
    moments = random.Random(seed)
    for left in range(kills, -1, -1):
        before, started = saved_updates(save_dir), time.monotonic()
        with open(Path(save_dir).with_suffix(".log"), "a+") as log:
            process = subprocess.Popen(
                [sys.executable, *words], stdout=log, stderr=log, env=environment(), start_new_session=True
            )
            try:
                while left and process.poll() is None and saved_updates(save_dir) == before:
                    assert time.monotonic() - started < timeout, "nothing was saved"
                    time.sleep(0.01)
                if left:
                    time.sleep(moments.uniform(0, seconds))
                else:
                    process.wait(timeout)
            finally:
                ended = process.poll()
                kill_all(process)
            log.seek(0)
            assert ended in (None, 0), log.read()[-3000:]
        if ended == 0:
            break
    return Path(save_dir) / "checkpoint_last.pt"
