"""Temporary files: made anew, under names that nobody can foresee, and gone after a kill."""

import os
import re
import signal
import stat

import pytest

from fairseq_srupp.compat.files.atomic import atomic_copy, atomic_write, leftovers, remove_leftovers, written_name


def temporary_files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".tmp"))


def killed_while_writing(path):
    """What a process leaves that is killed in the middle of writing `path`."""
    child = os.fork()
    if child == 0:
        with atomic_write(str(path)) as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = temporary_files(path.parent)
    return path.parent / left


def test_names_differ_each_time_and_are_none_of_a_checkpoint(tmp_path):
    seen = set()
    for _ in range(3):
        with atomic_write(str(tmp_path / "checkpoint_1_2.pt")):
            (name,) = temporary_files(tmp_path)
        assert re.fullmatch(r"checkpoint_1_2\.pt\.[0-9a-f]{16}\.tmp", name)
        assert written_name(name) == "checkpoint_1_2.pt"
        seen.add(name)
    assert len(seen) == 3
    assert os.listdir(tmp_path) == ["checkpoint_1_2.pt"]


def test_a_link_that_waits_under_the_name_is_not_followed(tmp_path, monkeypatch):
    """The older, fixed name and, with the random digits given away, today's."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / "file.tmp").symlink_to(precious)
    with atomic_write(str(tmp_path / "file")) as file:
        file.write(b"new")
    monkeypatch.setattr("secrets.token_hex", lambda count: "ab" * count)
    (tmp_path / f"file.{'ab' * 8}.tmp").symlink_to(precious)
    with pytest.raises(FileExistsError), atomic_write(str(tmp_path / "file")) as file:
        file.write(b"newer")
    assert precious.read_bytes() == b"precious" and (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic_write(str(tmp_path / "file")):
            pass
        atomic_copy(str(tmp_path / "file"), str(tmp_path / "copy"))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("file", "copy")} == {mode}


def test_what_a_kill_left_goes_with_the_next_write_of_that_file(tmp_path):
    left = killed_while_writing(tmp_path / "file[1]")
    assert left.read_bytes() == b"half" and leftovers(str(tmp_path)) == [str(left)]
    with atomic_write(str(tmp_path / "other")):
        pass
    assert left.exists()
    with atomic_write(str(tmp_path / "file[1]")) as file:
        file.write(b"whole")
        assert not left.exists()
    assert (tmp_path / "file[1]").read_bytes() == b"whole"


def test_what_another_process_is_writing_stays(tmp_path):
    started, goes_on = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with atomic_write(str(tmp_path / "file")) as file:
            os.write(started[1], b"x")
            os.read(goes_on[0], 1)
            file.write(b"theirs")
        os._exit(0)
    os.read(started[0], 1)
    assert remove_leftovers(str(tmp_path)) == []
    with atomic_write(str(tmp_path / "file")) as file:
        file.write(b"ours")
    assert len(temporary_files(tmp_path)) == 1 and (tmp_path / "file").read_bytes() == b"ours"
    os.write(goes_on[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "file").read_bytes() == b"theirs" and temporary_files(tmp_path) == []


def test_a_file_that_is_taken_for_a_leftover_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    import fcntl

    lock, taken = fcntl.flock, []

    def late(descriptor, how):
        if not taken:  # what remove_leftovers of another process does in that moment
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with atomic_write(str(tmp_path / "file")) as file:
        file.write(b"whole")
    assert len(taken) == 1 and (tmp_path / "file").read_bytes() == b"whole"


def test_leftovers_are_found_by_the_name_of_the_file(tmp_path):
    names = ["checkpoint_last.pt.tmp", f"checkpoint_1_2.pt.{'0f' * 8}.tmp", "notes.tmp", "checkpoint_last.pt", "tmp"]
    for name in names:
        (tmp_path / name).touch()
    assert sorted(leftovers(str(tmp_path), "checkpoint*.pt")) == sorted(str(tmp_path / name) for name in names[:2])
    assert leftovers(str(tmp_path / "nowhere")) == []
