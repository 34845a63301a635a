"""Archives of models are unpacked within a folder of fairseq's cache, and stay what they are."""

import io
import os
import tarfile

import pytest
from fairseq import file_utils

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files.archives import unpacked


@pytest.fixture(autouse=True)
def cache(fairseq_cli, tmp_path, monkeypatch):
    monkeypatch.setattr(file_utils, "PYTORCH_FAIRSEQ_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def pack(path, members, mode="w:gz"):
    """An archive of (name, content, attributes); without content, of an entry that is no file."""
    with tarfile.open(path, mode) as archive:
        for name, content, attributes in members:
            member = tarfile.TarInfo(name)
            member.size = len(content or b"")
            for attribute, value in attributes.items():
                setattr(member, attribute, value)
            archive.addfile(member, io.BytesIO(content) if content is not None else None)
    return path


def pretrained(path, text, **options):
    from fairseq.models.transformer_lm import TransformerLanguageModel

    return TransformerLanguageModel.from_pretrained(str(path), "checkpoint_last.pt", str(text.data), **options)


def test_a_model_in_an_archive(trained, text, tmp_path, cache):
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as content:
        content.add(trained / "checkpoint_last.pt", "model/checkpoint_last.pt")
        content.add(text.data / "dict.txt", "model/dict.txt")
    before = archive.read_bytes()
    for _ in range(2):
        assert len(pretrained(archive, text).models) == 1
    assert archive.read_bytes() == before
    (folder,) = cache.iterdir()
    assert sorted(os.listdir(folder / "model")) == ["checkpoint_last.pt", "dict.txt"]
    archive.write_bytes(b"another file under the same name")
    with pytest.raises(UserError, match="it is no archive"):
        pretrained(archive, text)


@pytest.mark.parametrize("mode, name", [("w:gz", "m.tgz"), ("w:bz2", "m.tar.bz2"), ("w:xz", "m.tar.xz"), ("w", "m.tar")])
def test_kinds_of_archives(mode, name, tmp_path):
    archive = pack(tmp_path / name, [("a.txt", b"a", {}), ("b/c.txt", b"c", {})], mode)
    folder = unpacked(str(archive), str(tmp_path / "cache"))
    assert open(f"{folder}/a.txt").read() == "a" and open(f"{folder}/b/c.txt").read() == "c"
    assert unpacked(str(archive), str(tmp_path / "cache")) == folder


def test_what_looks_like_one_folder_and_is_none(tmp_path):
    """Of names that begin alike fairseq makes a folder of that beginning."""
    for names in (["model1.pt", "model2.pt"], ["model.pt"]):
        archive = pack(tmp_path / f"{len(names)}.tar", [(name, b"x", {}) for name in names], "w")
        assert sorted(os.listdir(unpacked(str(archive), str(tmp_path / "cache")))) == names


OUTSIDE = {
    "above": [("../escaped", b"x", {})],
    "above, later": [("m/ok", b"x", {}), ("m/../../escaped", b"x", {})],
    "symbolic link": [("m", None, {"type": tarfile.SYMTYPE, "linkname": ".."}), ("m/escaped", b"x", {})],
    "link to a file": [("m", None, {"type": tarfile.SYMTYPE, "linkname": "../precious"}), ("m", b"x", {})],
    "hard link": [("m", None, {"type": tarfile.LNKTYPE, "linkname": "../precious"}), ("m", b"x", {})],
    "pipe": [("m/checkpoint_last.pt", None, {"type": tarfile.FIFOTYPE})],
    "device": [("m/checkpoint_last.pt", None, {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})],
}


@pytest.mark.parametrize("members", OUTSIDE.values(), ids=OUTSIDE)
def test_nothing_is_unpacked_outside(members, tmp_path, cache, text):
    cache.mkdir()
    (cache / "precious").write_text("precious")
    archive = pack(tmp_path / "evil.tar.gz", members)
    with pytest.raises(UserError, match=f"refused to unpack {archive}: ") as refused:
        pretrained(archive, text)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.rglob("*escaped*")) and (cache / "precious").read_text() == "precious"
    assert os.listdir(cache) == ["precious"] and archive.exists()


def test_an_absolute_path_stays_within(tmp_path, cache):
    archive = pack(tmp_path / "evil.tar", [(str(tmp_path / "escaped"), b"x", {}), ("ok", b"x", {"mode": 0o4777})], "w")
    folder = unpacked(str(archive), str(cache))
    assert not (tmp_path / "escaped").exists()
    assert os.stat(f"{folder}/ok").st_mode & 0o7022 == 0


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty"])
def test_damaged_archives(damage, tmp_path, cache, text):
    archive = pack(tmp_path / "m.tar.gz", [("m/checkpoint_last.pt", os.urandom(100_000), {})])
    whole = archive.read_bytes()
    flipped = whole[:50_000] + bytes([whole[50_000] ^ 1]) + whole[50_001:]
    content = {"cut": whole[:50_000], "flipped": flipped, "text": b"text\n" * 999, "empty": b""}[damage]
    archive.write_bytes(content)
    with pytest.raises(UserError, match=f"cannot unpack {archive}: it is no archive .tar., or damaged"):
        pretrained(archive, text)
    assert archive.read_bytes() == content and os.listdir(cache) == []


def test_an_archive_that_is_larger_than_the_disk(tmp_path, cache):
    archive = tmp_path / "m.tar"
    member = tarfile.TarInfo("huge")
    member.size = 1 << 60
    archive.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(UserError, match=f"{archive}"):
        unpacked(str(archive), str(cache))
    assert os.listdir(cache) == []


@pytest.mark.parametrize("name", ["nowhere", "nowhere.tar.gz", "unknown://nowhere"])
def test_a_folder_that_is_not_there(name, tmp_path, text):
    with pytest.raises(UserError, match="no such folder or archive: .*nowhere"):
        pretrained(tmp_path / name if "://" not in name else name, text)


def test_a_folder_of_data_that_is_not_there(trained, tmp_path):
    from fairseq.models.transformer_lm import TransformerLanguageModel

    with pytest.raises(UserError, match=f"no such folder or archive: {tmp_path}/nowhere"):
        TransformerLanguageModel.from_pretrained(str(trained), "checkpoint_last.pt", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no such file: .*none.pt"):
        TransformerLanguageModel.from_pretrained(str(trained), "none.pt", str(tmp_path))
