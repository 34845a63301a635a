"""Runs the steps of a demonstration, command by command, shows how far each is, and stops when one fails."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable

_WIDTH = 110
_TAIL = 15  # lines of the log that are shown when a step fails


class StepFailed(SystemExit):
    """Ends the program with status 1 and one line on stderr."""


class Runner:
    """Runs commands of this interpreter's environment, one after the other.

    `steps` is their number, for the headings.
    """

    def __init__(self, steps: int):
        self.steps, self.step = steps, 0
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PATH": path}

    def run(self, title: str, command: str, log: Path, status: Callable[[str], str | None] | None = None) -> str:
        """Runs a command, written as in a shell, with its output and errors in `log`; returns that output.

        `status` turns a line of output into what to show of it, or None.

        Raises:
            StepFailed: the command cannot be started or fails; the end of the log is shown before.
        """
        self.step += 1
        print(f"\n[{self.step}/{self.steps}] {title}\n{_wrapped(command)}", flush=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        started, lines, words = time.monotonic(), [], shlex.split(command)
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                env=self.environment,
            )
        except OSError as error:
            raise StepFailed(f"demo: {words[0]}: {error.strerror}; `make setup` installs what is needed") from error
        with process, log.open("w", encoding="utf-8") as file, _Status(started) as shown:
            try:
                for line in process.stdout:
                    file.write(line)
                    lines.append(line)
                    shown.text = status and status(line) or shown.text
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            print("".join(lines[-_TAIL:]), flush=True)
            raise StepFailed(f"demo: step {self.step} ({title}) failed, status {process.returncode}; all of it: {log}")
        print(f"    done in {time.monotonic() - started:.0f} s, output in {log}", flush=True)
        return "".join(lines)


class _Status:
    """Shows `text` and the time while a step runs: in place on a terminal, elsewhere a line now and then."""

    def __init__(self, started: float):
        self.text, self._started, self._over = "", started, threading.Event()
        self._terminal = sys.stdout.isatty()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> _Status:
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._over.set()
        self._thread.join()
        if self._terminal:
            print("\r\033[K", end="", flush=True)

    def _show(self) -> None:
        while not self._over.wait(1 if self._terminal else 15):
            line = " | ".join(filter(None, [f"    {time.monotonic() - self._started:.0f} s", self.text]))[:_WIDTH]
            print(f"\r\033[K{line}" if self._terminal else line, end="" if self._terminal else "\n", flush=True)


def _wrapped(command: str) -> str:
    """The command on several lines, an option and its value on the same one."""
    lines = ["    $"]
    for part in re.split(r" (?=--)", command):
        words = part.split(" ") if len(part) > _WIDTH // 2 else [part]
        for word in words:
            if len(lines[-1]) + len(word) + 3 > _WIDTH:
                lines[-1] += " \\"
                lines.append("       ")
            lines[-1] += " " + word
    return "\n".join(lines)
