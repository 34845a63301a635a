"""The command line: `python -m fairseq_srupp COMMAND`.

Each command is one module with `add_arguments(parser)` and `run(args) -> int`, the exit status. A module
is imported when its command is called, so that `info` and `user-dir` work where fairseq is not installed.
"""

import argparse
import importlib
import sys
from typing import List, Optional

COMMANDS = {
    "info": "versions, devices, and which backends of the recurrence op work here",
    "user-dir": "print the path for fairseq's --user-dir",
    "prepare-bytes": "make a byte-level corpus for --task streaming_language_modeling",
    "import-checkpoint": "turn a released language model of the author's into a checkpoint of fairseq",
    "average-checkpoints": "average the parameters of several checkpoints",
    "export": "write a checkpoint as a folder that transformers reads without fairseq",
    "generate": "translate sentences or continue texts with such a folder, or a checkpoint",
    "score": "how probable texts are to it",
    "plot": "draw training curves from fairseq's logs",
}


def _overview() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS)) + 2
    lines = "\n".join(f"  {name:{width}}{text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m fairseq_srupp",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="SRU++ for fairseq.",
        epilog=f"commands:\n{lines}\n\npython -m fairseq_srupp COMMAND --help tells a command's options.",
    )
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help="one of those below")
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Runs `argv` (default: the process's arguments) and returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    command = _overview().parse_args(argv[:1]).command
    module = importlib.import_module(f"{__name__}.{command.replace('-', '_')}")
    parser = argparse.ArgumentParser(prog=f"python -m fairseq_srupp {command}", description=module.__doc__)
    module.add_arguments(parser)
    return module.run(parser.parse_intermixed_args(argv[1:]))  # options may stand between files
