"""The folder of compiled kernels: whole files, of the user alone."""

import os
import stat
import warnings
from pathlib import Path

import pytest

from fairseq_srupp.ops import kernel_cache
from fairseq_srupp.ops.kernel_cache import cache_folder, cached


@pytest.fixture
def folder(monkeypatch, tmp_path):
    kernel_cache._warn.cache_clear()
    monkeypatch.setenv("FAIRSEQ_SRUPP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def make():
    """Makes code; `make.calls` counts."""

    def code():
        code.calls += 1
        return b"code"

    code.calls = 0
    return code


def test_made_once(folder, make):
    assert cached("key", make) == cached("key", make) == b"code" and make.calls == 1
    (folder / "key").write_bytes(b"half of")
    assert cached("key", make) == cached("key", make) == b"code" and make.calls == 2
    assert os.listdir(folder) == ["key"]


def test_folder_and_files_are_of_the_user_alone(folder, make):
    before = os.umask(0)
    try:
        cached("key", make)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and stat.S_IMODE((folder / "key").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o770, 0o703, 0o1777])
def test_a_folder_that_others_can_write_to_is_not_used(mode, folder, make):
    cached("key", make)
    folder.chmod(mode)
    with pytest.warns(UserWarning, match=f"`chmod 700 {folder}`"):
        assert cached("key", make) == b"code" and make.calls == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it has been said
        assert cached("other", make) == b"code"
    assert os.listdir(folder) == ["key"]
    folder.chmod(0o755)  # others may read
    assert cached("key", make) == b"code" and make.calls == 3


@pytest.mark.parametrize("whose", ["folder", "file"])
def test_what_belongs_to_another_user_is_not_used(whose, folder, make, monkeypatch):
    cached("key", make)
    original, other = os.fstat, os.geteuid() + 1

    def of_another(descriptor):
        status = original(descriptor)
        if stat.S_ISDIR(status.st_mode) == (whose == "folder"):
            status = os.stat_result([*status[:4], other, *status[5:]])
        return status

    monkeypatch.setattr(os, "fstat", of_another)
    with warnings.catch_warnings():
        warnings.simplefilter("error" if whose == "file" else "ignore")
        assert cached("key", make) == b"code" and make.calls == 2


def test_a_file_that_others_can_write_to_is_made_again(folder, make):
    cached("key", make)
    (folder / "key").chmod(0o666)
    assert cached("key", make) == cached("key", make) == b"code" and make.calls == 2


def test_a_pipe_or_a_link_is_not_read(folder, make, tmp_path):
    cached("key", make)
    os.rename(folder / "key", tmp_path / "elsewhere")
    (folder / "key").symlink_to(tmp_path / "elsewhere")
    assert cached("key", make) == b"code" and make.calls == 2
    assert not (folder / "key").is_symlink()
    (folder / "key").unlink()
    os.mkfifo(folder / "key")
    assert cached("key", make) == b"code" and make.calls == 3
    assert (folder / "key").is_file()
    (folder / "key").unlink()
    (folder / "key").mkdir()
    assert cached("key", make) == b"code" and os.listdir(folder) == ["key"]


def test_a_cache_that_cannot_be_written_is_no_error(folder, make, monkeypatch):
    folder.write_text("a file")
    assert cached("key", make) == b"code"
    monkeypatch.setenv("FAIRSEQ_SRUPP_CACHE", str(folder / "below"))
    assert cached("key", make) == b"code"


def test_a_full_disk_leaves_nothing(folder, make):
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        assert cached("key", make) == b"code"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert os.listdir(folder) == []


def test_a_user_without_a_home(make, monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    for name in ("FAIRSEQ_SRUPP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert cached("key", make) == b"code"


def test_where_it_is(monkeypatch):
    monkeypatch.delenv("FAIRSEQ_SRUPP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/fairseq_srupp")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "fairseq_srupp"
