"""Checkpoints are whole at any moment, and the iterator can save its state with them."""

import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files import saving
from fairseq_srupp.compat.files.atomic import atomic_copy, atomic_write


@pytest.fixture(autouse=True)
def repaired(fairseq_cli):
    pass


def killed_within(action) -> None:
    """Runs `action(kill)` in another process; `kill()` ends that at once, as kill -9 does."""
    child = os.fork()
    if child == 0:
        action(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the action ended without being killed"


def test_a_kill_while_a_checkpoint_is_copied_leaves_the_old_one(tmp_path, monkeypatch):
    """fairseq makes checkpoint_last and checkpoint_best so."""
    from fairseq.file_io import PathManager

    new, last = str(tmp_path / "new.pt"), str(tmp_path / "last.pt")
    torch.save(torch.zeros(1000), last)
    torch.save(torch.ones(1000), new)

    def half_a_copy(reader, writer, *_):
        writer.write(reader.read()[:2000])
        writer.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(shutil, "copyfileobj", half_a_copy)
    killed_within(lambda kill: PathManager.copy(new, last, overwrite=True))
    assert torch.equal(torch.load(last), torch.zeros(1000))
    monkeypatch.undo()
    PathManager.copy(new, last, overwrite=True)
    assert torch.equal(torch.load(last), torch.ones(1000))


def test_a_kill_while_a_checkpoint_is_written_leaves_the_old_one(tmp_path):
    from fairseq import checkpoint_utils

    path = str(tmp_path / "x.pt")
    checkpoint_utils.torch_persistent_save({"a": torch.zeros(10)}, path)

    def write(kill):
        class Deadly:
            def __reduce__(self):
                kill()

        checkpoint_utils.torch_persistent_save({"a": torch.ones(10), "b": Deadly()}, path)

    killed_within(write)
    assert torch.equal(torch.load(path)["a"], torch.zeros(10))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ValueError), atomic_write(str(path)) as file:
        file.write(b"new")
        raise ValueError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
    with atomic_write(str(path)) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["file"]


def test_copies_are_whole(tmp_path):
    source, destination = tmp_path / "a", tmp_path / "b"
    source.write_bytes(os.urandom(100_000))
    atomic_copy(str(source), str(destination))
    assert destination.read_bytes() == source.read_bytes()


def test_a_full_disk_is_told_in_one_line(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=f"cannot write the checkpoint {tmp_path}/x.pt: "):
            saving.save_whole({"a": torch.zeros(1_000_000)}, str(tmp_path / "x.pt"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert os.listdir(tmp_path) == []


def test_a_network_file_system_gets_another_chance(tmp_path, monkeypatch):
    import errno

    attempts = []
    save = torch.save

    def fails_once(state, file):
        attempts.append(file.tell())
        save(state, file)
        if len(attempts) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(torch, "save", fails_once)
    monkeypatch.setattr(saving, "_SECONDS_BETWEEN", 0)
    saving.save_whole({"a": torch.ones(3)}, str(tmp_path / "x.pt"))
    assert attempts == [0, 0]  # from the start of the file both times
    assert torch.equal(torch.load(tmp_path / "x.pt")["a"], torch.ones(3))


def test_a_folder_that_cannot_be_written_to(text, tmp_path, fairseq_cli):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"--save-dir {tmp_path}/file/run"):
        fairseq_cli("train", text.train, "--max-update 1 --save-dir", tmp_path / "file" / "run")


@pytest.fixture
def hooked(monkeypatch):
    """fairseq's epoch iterator with the two methods; the list of their calls, and whether the checkpoint
    was there."""
    from fairseq.data.iterators import EpochBatchIterator

    calls = []

    def before_save(self, save_dir, num_updates):
        calls.append(("before", save_dir, num_updates, os.path.exists(f"{save_dir}/checkpoint_1_{num_updates}.pt")))

    def after_save(self, save_dir):
        calls.append(("after", save_dir, len(os.listdir(save_dir))))

    monkeypatch.setattr(EpochBatchIterator, "before_save", before_save, raising=False)
    monkeypatch.setattr(EpochBatchIterator, "after_save", after_save, raising=False)
    return calls


def test_the_iterator_is_called_before_and_after(hooked, text, tmp_path, fairseq_cli):
    run = str(tmp_path)
    fairseq_cli(
        "train",
        text.train,
        "--save-interval-updates 2 --max-update 4 --keep-interval-updates 1 --save-dir",
        run,
    )
    assert hooked == [
        ("before", run, 2, False),
        ("after", run, 3),
        ("before", run, 4, False),
        ("after", run, 3),  # checkpoint_1_2.pt is removed by then
    ]


def test_nothing_is_called_without_saving(hooked, text, tmp_path, fairseq_cli):
    fairseq_cli("train", text.train, "--no-save --max-update 2 --save-dir", tmp_path)
    assert hooked == []


def test_only_rank_0_is_called_afterwards(tmp_path, monkeypatch):
    from fairseq import checkpoint_utils

    calls = []
    iterator = SimpleNamespace(
        before_save=lambda save_dir, updates: calls.append("before"),
        after_save=lambda save_dir: calls.append("after"),
    )
    trainer = SimpleNamespace(
        data_parallel_world_size=2,
        data_parallel_rank=1,
        data_parallel_process_group="ranks",
        is_data_parallel_master=False,
        should_save_checkpoint_on_current_rank=False,
        always_call_state_dict_during_save_checkpoint=False,
        get_num_updates=lambda: 2,
        consolidate_optimizer=lambda: calls.append("save"),
    )
    monkeypatch.setattr(torch.distributed, "barrier", lambda group: calls.append(f"barrier of {group}"))
    cfg = SimpleNamespace(save_dir=str(tmp_path), no_save=False, maximize_best_checkpoint_metric=False)
    checkpoint_utils.save_checkpoint(cfg, trainer, iterator, None)
    assert calls == ["before", "barrier of ranks", "save"]
