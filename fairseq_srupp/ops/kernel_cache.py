"""Compiled kernels on disk, in $FAIRSEQ_SRUPP_CACHE, or fairseq_srupp in $XDG_CACHE_HOME (~/.cache).

What is read from there runs on the GPU, so it must have been written by this user: the folder is made for the user
alone, and one that belongs to another user or that others can write to is not used.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import warnings
from pathlib import Path
from typing import Callable, Iterator

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_folder() -> Path:
    """Where compiled kernels are kept.

    Raises:
        RuntimeError: the user has no home folder.
    """
    own = os.environ.get("FAIRSEQ_SRUPP_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fairseq_srupp"


def cached(key: str, make: Callable[[], bytes]) -> bytes:
    """The content of the file `key` of the cache, made if it is missing, damaged or not the user's own.

    A cache that cannot be used is no error: the content is made each time. Files appear whole or not at all, so
    processes need no lock: at worst two make the same.
    """
    with contextlib.suppress(OSError, RuntimeError), _own_folder(cache_folder()) as folder:
        whole = _read(key, folder)
        if whole[:32] == hashlib.sha256(whole[32:]).digest():
            return whole[32:]
    content = make()
    with contextlib.suppress(OSError, RuntimeError), _own_folder(cache_folder()) as folder:
        _write(key, hashlib.sha256(content).digest() + content, folder)
    return content


@contextlib.contextmanager
def _own_folder(path: Path) -> Iterator[int]:
    """A descriptor of the folder, made if it is missing.

    Raises:
        OSError: there is none that can be trusted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not _is_own(os.fstat(folder)):
            _warn(path)
            raise PermissionError(path)
        yield folder
    finally:
        os.close(folder)


def _is_own(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_WRITE


@functools.cache
def _warn(path: Path) -> None:
    warnings.warn(
        f"compiled kernels are not kept: {path} belongs to another user, or others can write to it; "
        f"`chmod 700 {path}` makes it your own, or set FAIRSEQ_SRUPP_CACHE to a folder that is",
        stacklevel=2,
    )


def _read(key: str, folder: int) -> bytes:
    # A pipe of this name would wait for a writer.
    descriptor = os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not (stat.S_ISREG(status.st_mode) and _is_own(status)):
            raise PermissionError(key)
        return file.read()


def _write(key: str, content: bytes, folder: int) -> None:
    temporary = f"{key}.{os.urandom(8).hex()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, key, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise
