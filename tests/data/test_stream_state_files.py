"""State files are whole or absent, and go when no checkpoint names them."""

import os

import damage
import pytest
import torch

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.data import stream_state_files
from fairseq_srupp.data.stream_state_files import (
    StateFileKeeper,
    UnusableState,
    read_state,
    state_path,
    write_state,
)


def write_checkpoint(folder, name, update):
    state = {"train_iterator": {"epoch": 1, "stream": {"update": update}}}
    torch.save({"model": {"w": torch.zeros(3)}, "extra_state": state}, folder / name)


def files(folder):
    return sorted(os.listdir(folder / "stream_states"))


def test_what_is_written_is_read(tmp_path):
    state = [{"c": torch.arange(6.0).view(2, 3), "memory": None}, {"c": torch.ones(2), "memory": torch.zeros(4, 2, 3)}]
    write_state(str(tmp_path), 7, 1, {"update": 7, "key": ("train", 2, 5), "state": state})
    content = read_state(str(tmp_path), 7, 1, {"update": 7, "key": ("train", 2, 5)})
    assert files(tmp_path) == ["update7.rank1.pt"]
    assert content["state"][0]["memory"] is None
    assert torch.equal(content["state"][0]["c"], state[0]["c"])
    assert torch.equal(content["state"][1]["memory"], state[1]["memory"])


def test_reading_says_why_a_file_is_of_no_use(tmp_path):
    folder = str(tmp_path)
    with pytest.raises(UnusableState, match="missing"):
        read_state(folder, 7, 0, {})
    write_state(folder, 7, 0, {"update": 7, "rows": 4})
    with pytest.raises(UnusableState, match="of another run"):
        read_state(folder, 7, 0, {"rows": 8})
    path = state_path(folder, 7, 0)
    whole = open(path, "rb").read()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        with open(path, "wb") as f:
            f.write(whole[:length])
        with pytest.raises(UnusableState, match=f"^{path} is damaged|^cannot read {path}"):
            read_state(folder, 7, 0, {})
    os.remove(path)
    os.mkdir(path)
    with pytest.raises(UnusableState, match=f"^cannot read {path}: Is a directory"):
        read_state(folder, 7, 0, {})


def test_a_flipped_bit_in_a_state_file_is_seen(tmp_path):
    write_state(str(tmp_path), 7, 0, {"update": 7, "state": [{"c": torch.ones(64, 64)}]})
    path = state_path(str(tmp_path), 7, 0)
    damage.zero_block(path, path, seed=0, size=8)
    with pytest.raises(UnusableState, match=rf"^{path} is damaged: its record \S+data/0 "):
        read_state(str(tmp_path), 7, 0, {"update": 7})


@pytest.mark.parametrize(
    "update", [torch.ones(3), torch.tensor(7), [7], None, "7", 7.0, True], ids=lambda update: type(update).__name__
)
def test_what_says_that_a_state_is_of_this_run_can_be_anything(tmp_path, update):
    write_state(str(tmp_path), 7, 0, {"update": update, "key": ("train", update, 5)})
    for expected in ({"update": 7}, {"key": ("train", 7, 5)}, {"key": ("train", 7)}, {"other": 1}):
        with pytest.raises(UnusableState, match="of another run"):
            read_state(str(tmp_path), 7, 0, expected)


def test_what_is_no_file_stays(tmp_path):
    write_state(str(tmp_path), 7, 0, {})
    os.mkdir(state_path(str(tmp_path), 6, 0))
    write_checkpoint(tmp_path, "checkpoint_last.pt", {"not": "a number"})
    StateFileKeeper().clean(str(tmp_path), current=7)
    StateFileKeeper().clean(str(tmp_path), current=7, rank=0)
    assert files(tmp_path) == ["update6.rank0.pt", "update7.rank0.pt"]


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "stream_states").write_text("mine")
    with pytest.raises(UserError, match="cannot write the stream state .*update7.rank0.pt"):
        write_state(str(tmp_path), 7, 0, {})


def test_code_in_a_state_file_does_not_run(tmp_path):
    ran = tmp_path / "ran"

    class Code:
        def __reduce__(self):
            return (os.mkdir, (str(ran),))

    write_state(str(tmp_path), 7, 0, {"state": Code()})
    with pytest.raises(UnusableState, match="^refused to load .*mkdir"):
        read_state(str(tmp_path), 7, 0, {})
    assert not ran.exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def save(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(SystemExit, match="update7.rank0.pt: No space left"):
        write_state(str(tmp_path), 7, 0, {})
    assert files(tmp_path) == []


def test_what_a_kill_left_half_written_goes_with_the_next_save_of_that_rank(tmp_path):
    write_state(str(tmp_path), 8, 0, {})
    (tmp_path / "stream_states" / "update7.rank0.pt.tmp").write_bytes(b"half")
    StateFileKeeper().clean(str(tmp_path), current=8, rank=1)
    StateFileKeeper().clean(str(tmp_path), current=8)  # another rank may be writing it
    assert files(tmp_path) == ["update7.rank0.pt.tmp", "update8.rank0.pt"]
    StateFileKeeper().clean(str(tmp_path), current=8, rank=0)
    assert files(tmp_path) == ["update8.rank0.pt"]


def test_a_file_gets_its_name_when_it_is_on_disk(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, original=original: (calls.append(name), original(*a)))
    write_state(str(tmp_path), 7, 0, {})
    assert calls == ["fsync", "replace"]


def test_files_that_no_checkpoint_names_go(tmp_path):
    for update in (10, 20, 30, 40):
        for rank in (0, 1):
            write_state(str(tmp_path), update, rank, {})
    write_checkpoint(tmp_path, "checkpoint_1_20.pt", 20)
    write_checkpoint(tmp_path, "checkpoint_best.pt", 20)
    write_checkpoint(tmp_path, "checkpoint2.pt", None)
    torch.save({"model": {}}, tmp_path / "checkpoint_of_something_else.pt")
    (tmp_path / "stream_states" / "notes.txt").write_text("mine")
    keeper = StateFileKeeper()
    keeper.clean(str(tmp_path), current=40, rank=1)
    everything_of_rank_0 = [f"update{u}.rank0.pt" for u in (10, 20, 30, 40)]
    assert files(tmp_path) == sorted(["notes.txt", "update20.rank1.pt", "update40.rank1.pt", *everything_of_rank_0])
    keeper.clean(str(tmp_path), current=40)
    left = [f"update{u}.rank{r}.pt" for u in (20, 40) for r in (0, 1)]
    assert files(tmp_path) == ["notes.txt", *left]
    (tmp_path / "checkpoint_1_20.pt").unlink()
    keeper.clean(str(tmp_path), current=40)
    assert files(tmp_path) == ["notes.txt", *left]
    write_checkpoint(tmp_path, "checkpoint_best.pt", 40)
    keeper.clean(str(tmp_path), current=None)
    assert files(tmp_path) == ["notes.txt", "update40.rank0.pt", "update40.rank1.pt"]


def test_nothing_goes_while_a_checkpoint_cannot_be_read(tmp_path):
    write_state(str(tmp_path), 10, 0, {})
    write_checkpoint(tmp_path, "checkpoint_last.pt", 20)
    with open(tmp_path / "checkpoint_last.pt", "r+b") as f:
        f.truncate(100)
    StateFileKeeper().clean(str(tmp_path), current=20)
    assert files(tmp_path) == ["update10.rank0.pt"]


def test_a_checkpoint_is_read_once(tmp_path, monkeypatch):
    read = []
    original = stream_state_files._named_update
    monkeypatch.setattr(stream_state_files, "_named_update", lambda path: read.append(path) or original(path))
    write_checkpoint(tmp_path, "checkpoint_last.pt", 10)
    keeper = StateFileKeeper()
    for update in (20, 30, 40):
        write_state(str(tmp_path), update, 0, {})
        keeper.clean(str(tmp_path), current=update)
    assert len(read) == 1
    assert files(tmp_path) == ["update40.rank0.pt"]


def test_a_folder_without_states(tmp_path):
    StateFileKeeper().clean(str(tmp_path), current=None)
    assert os.listdir(tmp_path) == []
