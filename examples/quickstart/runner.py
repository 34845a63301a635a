"""Runs the steps of a demonstration: prints each command, shows how far it is, keeps its output, stops when it fails."""

from __future__ import annotations

import collections
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Sequence

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
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1",
                            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}

    def run(self, title: str, command: Sequence[str], log: Path, status: Callable[[str], str | None] = lambda line: None,
            stdin: str | None = None) -> str:
        """Runs a command with its output, stderr included, in `log`, and returns that output.

        `status` turns a line of output into what to show of it, or None. `stdin` is a file to read from.

        Raises:
            StepFailed: the command cannot be started or ends with another status than 0; the log's end is shown.
        """
        self.step += 1
        print(f"\n[{self.step}/{self.steps}] {title}\n{_wrapped(command, stdin)}", flush=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        started, lines = time.monotonic(), []
        try:
            source = open(stdin, encoding="utf-8") if stdin else subprocess.DEVNULL
            process = subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                       encoding="utf-8", errors="replace", env=self.environment)
        except OSError as error:
            raise StepFailed(f"demo: {command[0]}: {error.strerror}; `make setup` installs what is needed") from error
        with process, log.open("w", encoding="utf-8") as file, _Status(started) as shown:
            try:
                for line in process.stdout:
                    file.write(line)
                    lines.append(line)
                    shown.text = status(line) or shown.text
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            print("".join(collections.deque(lines, _TAIL)), end="", flush=True)
            raise StepFailed(f"demo: step {self.step} ({title}) failed with status {process.returncode}; its output: {log}")
        print(f"    done in {time.monotonic() - started:.0f} s, output in {log}", flush=True)
        return "".join(lines)


class _Status:
    """Shows `text` and the time while a step runs: in place on a terminal, as a line now and then elsewhere."""

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
            line = " | ".join(filter(None, [f"    {time.monotonic() - self._started:.0f} s", self.text]))
            print(f"\r\033[K{line[:_WIDTH]}" if self._terminal else line, end="" if self._terminal else "\n", flush=True)


def _wrapped(command: Sequence[str], stdin: str | None) -> str:
    """The command as one would type it, options on lines that fit."""
    lines, words = ["    $"], [shlex.quote(word) for word in command] + (["<", shlex.quote(stdin)] if stdin else [])
    for index, word in enumerate(words):
        following = words[index + 1] if word.startswith("--") and index + 1 < len(words) else ""
        if len(lines[-1]) + len(word) + len(following) + 4 > _WIDTH and not words[index - 1].startswith("--"):
            lines[-1] += " \\"
            lines.append("       ")
        lines[-1] += " " + word
    return "\n".join(lines)
