"""Files that are either whole or not there."""

import contextlib
import os
import shutil
from typing import IO, Iterator


@contextlib.contextmanager
def atomic_write(path: str, mode: str = "wb", suffix: str = ".tmp") -> Iterator[IO]:
    """A file opened for writing that takes the name `path` only when the block has ended without an error.

    Until then its name is `path + suffix`, in the same folder. Whatever stops the process, the old content
    of `path` or the new one is there, never a part; the bytes are on the disk before the name changes.
    """
    temporary = path + suffix
    try:
        with open(temporary, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def atomic_copy(source: str, destination: str) -> None:
    """Copies the bytes of a file; `destination` is whole at any time."""
    with open(source, "rb") as reader, atomic_write(destination) as writer:
        shutil.copyfileobj(reader, writer, 16 << 20)
