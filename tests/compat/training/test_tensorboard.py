"""--tensorboard-logdir, with what the package requires."""

import os
import subprocess
import sys

from fairseq_srupp.compat.user_dir import PACKAGE_DIR


def test_training_is_logged(text, tmp_path):
    words = f"-m fairseq_cli.train {text.train} --user-dir {PACKAGE_DIR} --max-update 3 --log-interval 1 --no-save"
    done = subprocess.run(
        [sys.executable, *words.split(), "--tensorboard-logdir", "curves"],
        text=True,
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "tensorboard not found" not in done.stdout + done.stderr
    for name in ("train_inner", "valid"):
        (events,) = (tmp_path / "curves" / name).glob("events*")
        assert b"loss" in events.read_bytes()
