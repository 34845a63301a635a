"""Print the path for fairseq's --user-dir."""

import argparse

from fairseq_srupp.compat.user_dir import PACKAGE_DIR


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no options."""


def run(args: argparse.Namespace) -> int:
    print(PACKAGE_DIR)
    return 0
