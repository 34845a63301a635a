"""Damage of a file is seen before anything of it is used; what is not seen does not matter."""

import os
import shutil
import sys
import zipfile

import damage
import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_srupp import cli
from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files import records, weights_only


@pytest.fixture(autouse=True)
def repaired(fairseq_cli):
    pass


def outcome(load, path, expected):
    """What a damaged file comes to: "refused" in one line, or "same"."""
    try:
        loaded = load(str(path))
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error) and "could run code" not in str(error)
        return "refused"
    assert damage.equal(loaded, expected)
    return "same"


@pytest.mark.parametrize(
    "damaged, count, outcomes",
    [
        (damage.flip_bit, 60, {"refused", "same"}),
        (damage.flip_bit_outside_of_records, 120, {"refused", "same"}),
        (damage.truncate, 15, {"refused"}),
        (damage.zero_block, 10, {"refused"}),
    ],
)
@pytest.mark.parametrize(
    "load", [weights_only.load, lambda path: checkpoint_utils.load_checkpoint_to_cpu(path)], ids=["ours", "fairseq"]
)
def test_a_damaged_checkpoint_is_refused_or_the_same(load, damaged, count, outcomes, trained, tmp_path):
    source = trained / "checkpoint_last.pt"
    expected, path = load(str(source)), tmp_path / "x.pt"
    found = set()
    for seed in range(count):
        damaged(source, path, seed)
        found.add(outcome(load, path, expected))
    assert found == outcomes


def test_every_bit_of_a_record_counts(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"model": torch.arange(4.0)}, path)
    with zipfile.ZipFile(path) as archive:
        place = path.read_bytes().index(archive.read("x/data/0"))
    whole = path.read_bytes()
    for bit in range(8 * 16):
        data = bytearray(whole)
        data[place + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"{path} is damaged: its record x/data/0"):
            weights_only.load(path)


def test_a_name_that_a_flip_has_changed_is_damage(trained, tmp_path):
    damage.flip_in_pickle(trained / "checkpoint_last.pt", tmp_path / "x.pt", b"OrderedDict")
    for load in (weights_only.load, checkpoint_utils.load_checkpoint_to_cpu):
        with pytest.raises(UserError, match=r"x.pt is damaged: its record \S*/data.pkl"):
            load(str(tmp_path / "x.pt"))


def test_a_record_that_is_not_stored_plainly_is_not_unpacked(tmp_path):
    torch.save({"model": torch.zeros(1000)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive, zipfile.ZipFile(tmp_path / "y.pt", "w") as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name), zipfile.ZIP_DEFLATED)
    assert "not stored as torch.save does" in records.damage(str(tmp_path / "y.pt"))


def test_records_that_stand_in_one_another_are_not_read(tmp_path):
    """A directory that names one record many times would have it read as often."""
    torch.save({"model": torch.zeros(1000)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as archive:
        archive.filelist += [archive.getinfo("x/data/0")] * 1000
        archive._didModify = True
    assert records.damage(str(tmp_path / "x.pt")) == "its records stand in one another"


def test_many_processors_see_no_damage_that_is_not_there(tmp_path, monkeypatch):
    """zipfile of Python 3.12 and later, read by eight threads, finds some."""
    monkeypatch.setattr(records, "_workers", lambda: 8)
    torch.save([torch.rand(1 + 7919 * i % 200_000) for i in range(60)], tmp_path / "x.pt")
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        assert {records.damage(str(tmp_path / "x.pt")) for _ in range(20)} == {None}
    finally:
        sys.setswitchinterval(switching)


def test_a_file_that_is_replaced_in_the_meantime(tmp_path, monkeypatch):
    torch.save(torch.zeros(9), tmp_path / "x.pt")
    torch.save([torch.zeros(9)] * 2 + [torch.ones(9) for _ in range(4)], tmp_path / "y.pt")
    plain, path = records._damage_of, str(tmp_path / "y.pt")

    def replaced_before(*args):
        if (tmp_path / "x.pt").exists():
            os.replace(tmp_path / "x.pt", path)
        return plain(*args)

    monkeypatch.setattr(records, "_damage_of", replaced_before)
    assert records.damage(path) is None


def test_large_records_are_read_to_their_end(tmp_path):
    torch.save({"model": torch.zeros(3 << 20)}, tmp_path / "x.pt")
    assert records.damage(str(tmp_path / "x.pt")) is None
    with open(tmp_path / "x.pt", "r+b") as file:
        file.seek(-5000, os.SEEK_END)
        file.write(b"\1")
    assert "data/0" in records.damage(str(tmp_path / "x.pt"))


def test_every_command_sees_it(trained, text, fairseq_cli, tmp_path):
    from fairseq.models.transformer_lm import TransformerLanguageModel

    folder = shutil.copytree(trained, tmp_path / "run")
    path = folder / "checkpoint_1_4.pt"
    damage.zero_block(trained / "checkpoint_1_4.pt", path, 0)
    out, evaluate = tmp_path / "out", "--task language_modeling --cpu --batch-size 4"
    calls = [
        lambda: fairseq_cli("train", text.train, "--save-dir", out, "--restore-file", path),
        lambda: fairseq_cli("train", text.train, "--save-dir", out, "--finetune-from-model", path),
        lambda: fairseq_cli("eval-lm", text.data, "--cpu --gen-subset valid --path", path),
        lambda: fairseq_cli("validate", text.data, evaluate, "--valid-subset valid --path", path),
        lambda: fairseq_cli("generate", text.data, evaluate, "--gen-subset valid --path", path),
        lambda: TransformerLanguageModel.from_pretrained(str(folder), path.name, data_name_or_path=str(text.data)),
        lambda: cli.main(["average-checkpoints", "--inputs", str(path), "--output", str(out)]),
        lambda: cli.main(["import-checkpoint", "--checkpoint", str(path), "--vocab", "x", "--destdir", str(out)]),
    ]
    for call in calls:
        with pytest.raises(UserError, match=f"{path} is damaged: its record"):
            call()
