"""Training goes on from a whole checkpoint, and says clearly when it cannot."""

import logging
import os
import shutil
from functools import partial
from types import SimpleNamespace

import damage
import pytest
import torch

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files import records, resuming, weights_only, whole_checkpoints


@pytest.fixture
def run(tmp_path, trained):
    """A copy of the run of 4 updates."""
    return shutil.copytree(trained, tmp_path / "run")


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def updates_in(path):
    return torch.load(path, weights_only=True)["optimizer_history"][-1]["num_updates"]


@pytest.fixture
def loaded(monkeypatch):
    """The `checkpoint_path`s that epoch iterators were given."""
    from fairseq.data.iterators import EpochBatchIterator

    paths = []
    load_state_dict = EpochBatchIterator.load_state_dict

    def spy(self, state):
        paths.append(state["checkpoint_path"])
        load_state_dict(self, state)

    monkeypatch.setattr(EpochBatchIterator, "load_state_dict", spy)
    return paths


def go_on(fairseq_cli, text, run, *options):
    fairseq_cli("train", text.train, "--save-interval-updates 2 --max-update 6 --save-dir", run, *options)


def test_the_iterator_is_told_the_checkpoint(loaded, fairseq_cli, text, run):
    go_on(fairseq_cli, text, run)
    assert loaded == [str(run / "checkpoint_last.pt")]
    go_on(fairseq_cli, text, run, "--max-update 8 --restore-file", run / "checkpoint_1_2.pt")
    assert loaded[1:] == [str(run / "checkpoint_1_2.pt")]


def test_a_truncated_last_checkpoint_is_skipped(loaded, fairseq_cli, text, run, caplog):
    cut(run / "checkpoint_last.pt")
    go_on(fairseq_cli, text, run)
    assert loaded in ([str(run / "checkpoint_1_4.pt")], [str(run / "checkpoint_best.pt")])
    assert "checkpoint_last.pt is damaged; going on from" in caplog.text
    assert updates_in(run / "checkpoint_last.pt") == 6


def test_the_newest_whole_one_is_taken(run):
    for name in ("checkpoint_last.pt", "checkpoint_1_4.pt", "checkpoint_best.pt"):
        cut(run / name)
    assert whole_checkpoints.restorable(str(run)) == str(run / "checkpoint_1_2.pt")


def zeros(path):
    damage.zero_block(path, path, seed=1)


def a_bit_of_a_tensor(path):
    before = path.read_bytes()
    damage.zero_block(path, path, seed=2, size=8)
    assert path.read_bytes() != before


def a_bit_of_a_name(path):
    damage.flip_in_pickle(path, path, b"OrderedDict")


@pytest.mark.parametrize("damaged", [zeros, a_bit_of_a_tensor, a_bit_of_a_name])
@pytest.mark.parametrize("last", [True, False], ids=["last damaged", "last missing"])
def test_damage_that_a_reader_does_not_meet_is_no_whole_one(damaged, last, run, caplog):
    (damaged if last else os.remove)(run / "checkpoint_last.pt")
    (run / "checkpoint_best.pt").unlink()
    damaged(run / "checkpoint_1_4.pt")
    assert whole_checkpoints.restorable(str(run)) == str(run / "checkpoint_1_2.pt")
    assert f"going on from {run}/checkpoint_1_2.pt, the newest whole checkpoint" in caplog.text


def test_a_run_goes_on_from_the_whole_one_beside_a_flipped_bit(loaded, fairseq_cli, text, run):
    for name in ("checkpoint_last.pt", "checkpoint_best.pt", "checkpoint_1_4.pt"):
        a_bit_of_a_tensor(run / name)
    go_on(fairseq_cli, text, run)
    assert loaded == [str(run / "checkpoint_1_2.pt")]
    assert updates_in(run / "checkpoint_last.pt") == 6


def test_no_more_checkpoints_are_read_in_full_than_it_takes(run, monkeypatch):
    read = []
    damage_of = records.damage
    monkeypatch.setattr(records, "damage", lambda path: read.append(os.path.basename(path)) or damage_of(path))
    assert whole_checkpoints.restorable(str(run)) is None
    assert read == ["checkpoint_last.pt"]
    zeros(run / "checkpoint_last.pt")
    (run / "checkpoint_best.pt").unlink()
    read.clear()
    assert whole_checkpoints.restorable(str(run)) == str(run / "checkpoint_1_4.pt")
    assert read == ["checkpoint_last.pt", "checkpoint_1_4.pt"]


def test_only_a_checkpoint_of_an_update_is_there(loaded, fairseq_cli, text, run, caplog):
    """The first save of a run was cut off, and what it was writing has any name."""
    for name in ("checkpoint_last.pt", "checkpoint_best.pt", "checkpoint_1_2.pt"):
        (run / name).unlink()
    (run / ".something.6fa3").write_bytes(b"half")
    shutil.copy(run / "checkpoint_1_4.pt", run / "pretrained.pt")
    go_on(fairseq_cli, text, run, "--finetune-from-model", run / "pretrained.pt")
    assert loaded == [str(run / "checkpoint_1_4.pt")]
    assert "checkpoint_last.pt is missing" in caplog.text


def test_what_is_not_of_a_cut_off_save_is_left_alone(run):
    (run / "checkpoint_last.pt").unlink()
    (run / "checkpoint_best.pt").unlink()
    assert whole_checkpoints.restorable(str(run), expect_last=False) is None, "with --no-last-checkpoints"
    (run / "checkpoint_1_2.pt").unlink()
    (run / "checkpoint_1_4.pt").rename(run / "checkpoint.pt")  # of import-checkpoint
    assert whole_checkpoints.restorable(str(run)) is None
    (run / "checkpoint.pt").rename(run / "checkpoint_best.pt")
    assert whole_checkpoints.restorable(str(run), but=str(run / "checkpoint_best.pt")) is None, "to fine-tune from"
    assert whole_checkpoints.restorable(str(run)) == str(run / "checkpoint_best.pt")


def test_without_a_last_one_and_all_others_damaged(run):
    (run / "checkpoint_last.pt").unlink()
    for path in run.glob("*.pt"):
        zeros(path)
    with pytest.raises(UserError, match=r"is damaged, with no checkpoint_last.pt and no whole checkpoint beside it"):
        whole_checkpoints.restorable(str(run))


def test_a_folder_in_the_place_of_the_last_checkpoint(run):
    (run / "checkpoint_last.pt").unlink()
    (run / "checkpoint_last.pt").mkdir()
    with pytest.raises(UserError, match="checkpoint_last.pt is a folder"):
        whole_checkpoints.restorable(str(run))


def test_a_whole_one_with_code_in_it_is_not_taken_for_damaged(run, evil):
    zeros(run / "checkpoint_last.pt")
    for path in run.glob("checkpoint_[b1]*.pt"):
        path.unlink()
    shutil.copy(evil.path, run / "checkpoint_1_8.pt")
    with pytest.raises(weights_only.Refused, match="checkpoint_1_8.pt.*exec"):
        whole_checkpoints.restorable(str(run))
    assert not evil.harm.exists()


def test_no_whole_one_is_left(fairseq_cli, text, run):
    for path in run.glob("*.pt"):
        cut(path)
    with pytest.raises(UserError, match=f"{run}/checkpoint_last.pt is damaged"):
        go_on(fairseq_cli, text, run)


def test_a_last_checkpoint_with_code_in_it_is_not_skipped(run, evil):
    shutil.copy(evil.path, run / "checkpoint_last.pt")
    with pytest.raises(UserError, match="exec"):
        whole_checkpoints.restorable(str(run))
    assert not evil.harm.exists()


def test_a_kill_in_the_first_save_of_a_run(fairseq_cli, text, run, loaded):
    """checkpoint_1_4.pt was written, its first copy was not finished."""
    (run / "checkpoint_best.pt").unlink()
    (run / "checkpoint_last.pt").rename(run / "checkpoint_last.pt.tmp")
    cut(run / "checkpoint_last.pt.tmp")
    shutil.copy(run / "checkpoint_last.pt.tmp", run / "checkpoint_1_3.pt.tmp")
    go_on(fairseq_cli, text, run)
    assert loaded == [str(run / "checkpoint_1_4.pt")]
    assert not list(run.glob("*.tmp"))


@pytest.mark.parametrize("outcome", [("whole.pt", None), (None, None), (None, "fairseq_srupp: all are damaged")])
def test_other_ranks_do_as_rank_0_says(outcome, tmp_path, monkeypatch):
    from fairseq.distributed import utils as distributed_utils

    rank_1 = SimpleNamespace(
        is_data_parallel_master=False,
        data_parallel_world_size=2,
        data_parallel_process_group=None,
        device="cpu",
    )
    (tmp_path / "checkpoint_last.pt").write_bytes(b"")  # not looked at here
    monkeypatch.setattr(distributed_utils, "broadcast_object", lambda mine, **_: outcome)
    cfg = SimpleNamespace(save_dir=str(tmp_path))
    if outcome[1] is None:
        assert resuming._agreed_restore_file(cfg, rank_1) == outcome[0]
    else:
        with pytest.raises(UserError, match="^fairseq_srupp: all are damaged$"):
            resuming._agreed_restore_file(cfg, rank_1)


def test_an_old_format_is_whole(run):
    state = torch.load(run / "checkpoint_last.pt", weights_only=True)
    torch.save(state, run / "checkpoint_last.pt", _use_new_zipfile_serialization=False)
    assert whole_checkpoints.updates_of(str(run / "checkpoint_last.pt")) == 4
    assert whole_checkpoints.restorable(str(run)) is None


def test_nothing_to_go_on_from(tmp_path):
    assert whole_checkpoints.restorable(str(tmp_path)) is None


def test_a_restore_file_that_is_not_there(fairseq_cli, text, tmp_path):
    with pytest.raises(UserError, match="no such file: --restore-file nowhere.pt"):
        fairseq_cli("train", text.train, "--max-update 1 --save-dir", tmp_path, "--restore-file nowhere.pt")
    with pytest.raises(UserError, match="no such file: --finetune-from-model nowhere.pt"):
        fairseq_cli("train", text.train, "--max-update 1 --save-dir", tmp_path, "--finetune-from-model nowhere.pt")


def with_larger_dictionary(text, tmp_path):
    data = shutil.copytree(text.data, tmp_path / "data")
    with open(data / "dict.txt", "a") as dictionary:
        dictionary.writelines(f"word{i} 1\n" for i in range(8))
    return data


def test_a_dictionary_that_does_not_fit_in_training(fairseq_cli, text, run, tmp_path):
    data = with_larger_dictionary(text, tmp_path)
    with pytest.raises(UserError, match=r"checkpoint_last.pt does not fit.*embed_tokens.weight is \(16, 8\) there and \(24"):
        fairseq_cli("train", text.train.replace(str(text.data), str(data)), "--save-dir", run)


def test_a_dictionary_that_does_not_fit_in_evaluation(fairseq_cli, text, run, tmp_path):
    data = with_larger_dictionary(text, tmp_path)
    with pytest.raises(UserError, match="checkpoint_last.pt does not fit.*another dictionary"):
        fairseq_cli("eval-lm", data, "--cpu --gen-subset valid --path", run / "checkpoint_last.pt")


def test_another_architecture(fairseq_cli, text, run):
    with pytest.raises(UserError, match=r"does not fit.*no parameter decoder.layers.1"):
        go_on(fairseq_cli, text, run, "--decoder-layers 2")


def test_another_optimizer(fairseq_cli, text, run):
    with pytest.raises(UserError, match="reset-optimizer"):
        go_on(fairseq_cli, text, run, "--optimizer sgd")


def test_a_model_that_is_not_there(fairseq_cli, text):
    with pytest.raises(UserError, match="no such file: nowhere.pt"):
        fairseq_cli("eval-lm", text.data, "--cpu --path nowhere.pt")


def test_other_errors_of_loading_pass(fairseq_cli, text, run, monkeypatch):
    from fairseq.models.transformer_lm import TransformerLanguageModel

    def fault(*args, **kwargs):
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(TransformerLanguageModel, "load_state_dict", fault)
    with pytest.raises(ZeroDivisionError):
        fairseq_cli("eval-lm", text.data, "--cpu --path", run / "checkpoint_last.pt")


def test_a_finished_run_makes_no_further_update(fairseq_cli, text, tmp_path, caplog):
    train = f"{text.train} --max-update 3 --save-dir {tmp_path}"
    fairseq_cli("train", train)
    before = (tmp_path / "checkpoint_last.pt").read_bytes()
    with caplog.at_level(logging.INFO):
        fairseq_cli("train", train)
    assert "the run has made 3 updates" in caplog.text
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == before
    fairseq_cli("train", train.replace("--max-update 3", "--max-update 4"))
    assert updates_in(tmp_path / "checkpoint_last.pt") == 4


@pytest.mark.parametrize("precision", ["", "--bf16"])
def test_a_run_of_torchs_radam_goes_on(fairseq_cli, text, tmp_path, monkeypatch, precision):
    from fairseq_srupp.optim import radam

    words = f"{text.train} --no-epoch-checkpoints".replace("--optimizer adam --lr 0.01", f"--lr 1e-3 {precision}")
    words += " --optimizer radam --weight-decay 0.1"
    with monkeypatch.context() as patch:
        patch.setattr(radam, "FusedRAdam", partial(torch.optim.RAdam, decoupled_weight_decay=True))
        fairseq_cli("train", words, "--max-update 8 --save-dir", tmp_path / "torch")
        shutil.copytree(tmp_path / "torch", tmp_path / "ours")
        fairseq_cli("train", words, "--max-update 12 --save-dir", tmp_path / "torch")
    fairseq_cli("train", words, "--max-update 12 --save-dir", tmp_path / "ours")
    ours, theirs = (torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True) for name in ("ours", "torch"))
    assert [part["num_updates"] for part in ours["optimizer_history"]] == [8, 12]
    torch.testing.assert_close(ours["model"], theirs["model"], rtol=0, atol=1e-6)
    for state in (ours, theirs):
        state["last_optimizer_state"].pop("inner_optimizer", None)  # a name
    torch.testing.assert_close(ours["last_optimizer_state"], theirs["last_optimizer_state"], rtol=0, atol=1e-6)


def test_a_pretrained_model_is_needed_at_the_first_start_only(fairseq_cli, text, run, tmp_path):
    for option, value in (("--finetune-from-model", tmp_path), ("--continue-once", "nowhere.pt")):
        with pytest.raises(UserError, match=f"no such file: {option} {value}"):
            fairseq_cli("train", text.train, "--max-update 1 --save-dir", tmp_path / "new", option, value)
        go_on(fairseq_cli, text, run, option, value)
    assert updates_in(run / "checkpoint_last.pt") == 6
