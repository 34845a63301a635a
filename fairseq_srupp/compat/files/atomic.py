"""Files that are either whole or not there.

What is being written has the name NAME.<16 random hexadecimal digits>.tmp, in the folder of the file, until it is
whole. The file is made anew: nothing that lies under that name is followed or written to. It is locked (flock) while it
is written, so a file that a killed process left is told from one that is being written.
"""

import contextlib
import fcntl
import fnmatch
import glob
import os
import re
import secrets
import shutil
from typing import IO, Iterator, List, Optional, Tuple

_TEMPORARY = re.compile(r"(?P<name>.+?)(\.[0-9a-f]{16})?\.tmp", re.DOTALL)  # without digits: fairseq's own


@contextlib.contextmanager
def atomic_write(path: str) -> Iterator[IO[bytes]]:
    """A file opened for writing that takes the name `path` only when the block has ended without an error.

    Whatever stops the process, the old content of `path` or the new one is there, never a part; the bytes are on the
    disk before the name changes. What killed writes of `path` left is removed.
    """
    remove_leftovers(os.path.dirname(path), glob.escape(os.path.basename(path)))
    temporary, file = _new_file(path)
    try:
        with file:
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


def written_name(temporary: str) -> Optional[str]:
    """The name that a file of this temporary name is to take; None when the name is no temporary one."""
    match = _TEMPORARY.fullmatch(temporary)
    return match and match["name"]


def leftovers(folder: str, names: str = "*") -> List[str]:
    """The paths of the unfinished files in a folder, being written or left by a kill.

    Args:
        names: pattern (fnmatch) of the names that they were to take, such as "checkpoint*.pt".
    """
    found = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    return [os.path.join(folder, name) for name in found if fnmatch.fnmatchcase(written_name(name) or "", names)]


def remove_leftovers(folder: str, names: str = "*") -> List[str]:
    """Removes those of `leftovers` that no process is writing, and gives their paths."""
    removed = []
    for path in leftovers(folder, names):
        with contextlib.suppress(OSError):  # of another user, or gone already
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)  # NFS locks what can be written
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.remove(path)
                removed.append(path)
            finally:
                os.close(descriptor)
    return removed


def _new_file(path: str) -> Tuple[str, IO[bytes]]:
    while True:
        temporary = f"{path}.{secrets.token_hex(8)}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(OSError):  # some network file systems have no locks; nothing is removed there
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(temporary):  # it was not taken for a leftover in the moment before it was locked
                return temporary, os.fdopen(descriptor, "wb")
            os.close(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
