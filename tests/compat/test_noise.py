"""What is printed is what LOGLEVEL asks for, and nothing of other packages that is meant for their authors."""

import os
import subprocess
import sys

import pytest

from fairseq_srupp.compat.user_dir import PACKAGE_DIR

# As a package does that logs its own doings (filelock while torch.compile runs), one that sets its own level as well.
SCRIPT = """
import argparse, logging, sys
from fairseq_cli import validate
from fairseq import utils
utils.import_user_module(argparse.Namespace(user_dir={folder!r}))
{then}
logging.getLogger("chatty").setLevel(logging.DEBUG)
for name in ("otherpackage", "chatty", "fairseq.trainer", "fairseq_srupp.tasks"):
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        logging.getLogger(name).log(level, f"{{logging.getLevelName(level)}} of {{name}}.")
"""


def printed(tmp_path, level, then):
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": os.path.dirname(PACKAGE_DIR)}
    environment.pop("LOGLEVEL", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(folder=PACKAGE_DIR, then=then)],
        text=True,
        capture_output=True,
        cwd=tmp_path,
        env={**environment, **({"LOGLEVEL": level} if level else {})},
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    names = ("otherpackage", "chatty", "fairseq.trainer", "fairseq_srupp.tasks")
    return {name: [level for level in ("DEBUG", "INFO", "WARNING") if f"{level} of {name}." in text] for name in names}


@pytest.mark.parametrize(
    "level, others, ours",
    [
        (None, ["INFO", "WARNING"], ["INFO", "WARNING"]),
        ("debug", ["INFO", "WARNING"], ["DEBUG", "INFO", "WARNING"]),
        ("WARNING", ["WARNING"], ["WARNING"]),
    ],
)
def test_loglevel(tmp_path, level, others, ours):
    # several processes set the root to INFO, and fairseq-validate sets up logging after the plugin is imported
    then = "from fairseq.utils import reset_logging; reset_logging()"
    if level == "WARNING":
        then += "; logging.getLogger().setLevel(logging.INFO)"
    found = printed(tmp_path, level, then)
    assert found == {"otherpackage": others, "chatty": others, "fairseq.trainer": ours, "fairseq_srupp.tasks": ours}


def test_logging_is_left_alone_where_no_command_runs(tmp_path):
    script = (
        "import logging\n"
        "logging.basicConfig(level=logging.DEBUG)\n"
        "from fairseq_srupp import compat\n"
        "compat.apply()\n"
        "logging.getLogger('mine').debug('my line')\n"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": os.path.dirname(PACKAGE_DIR)}
    done = subprocess.run(
        [sys.executable, "-c", script], text=True, capture_output=True, cwd=tmp_path, env=environment, timeout=200
    )
    assert "my line" in done.stderr
