"""--replace-unk: the words that take the place of <unk>, by their alignment."""

import contextlib
import io
import random
import re
from types import SimpleNamespace

import pytest
import torch

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.user_dir import PACKAGE_DIR

SIZES = "--encoder-layers 1 --decoder-layers 1"
SRUPP = f"--arch srupp_transformer --hidden-size 32 --attention-dim 16 --embed-dim 16 --alpha-init 1 {SIZES}"
TRANSFORMER = f"--arch transformer {SIZES} " + " ".join(
    f"--{side}-{size}" for side in ("encoder", "decoder") for size in ("embed-dim 16", "ffn-embed-dim 16", "attention-heads 1")
)
COMMON = ("a@@", "b", "c@@", "d", "e@@", "f")


def sentences(words, count, rare):
    """Common words, and in some places words of which each is rare."""
    return [
        " ".join(rare(words) if words.random() < 0.2 else words.choice(COMMON) for _ in range(words.randint(2, 5)))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def copying(request, tmp_path_factory, fairseq_cli):
    """A model of few updates, text as it is, and a way to run what prints translations."""
    folder, words = tmp_path_factory.mktemp("pairs"), random.Random(0)
    for split, count in (("train", 150), ("test", 12)):
        lines = sentences(words, count, lambda words: f"{split}{words.randint(0, 10**6)}")
        (folder / f"{split}.de").write_text("".join(f"{line}\n" for line in lines))
        (folder / f"{split}.en").write_text("".join(f"{line.upper()}\n" for line in lines))
    splits = f"--trainpref {folder}/train --testpref {folder}/test --thresholdsrc 5 --thresholdtgt 5"
    fairseq_cli("preprocess", f"-s de -t en --workers 1 --dataset-impl raw {splits} --destdir {folder}/raw")
    training = f"--user-dir {PACKAGE_DIR} --cpu --optimizer adam --lr 0.01 --max-tokens 400 --num-workers 0 --dataset-impl raw"
    fairseq_cli("train", folder / "raw", training, request.param, "--max-update 30 --disable-validation --save-dir", folder)
    path = folder / "checkpoint_last.pt"

    def printed(command, *options):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            limits = f"--user-dir {PACKAGE_DIR} --cpu --max-len-b 8 --beam 3 --unkpen -2 --path {path}"
            fairseq_cli(command, folder / "raw", limits, *options)
        found = {kind: {} for kind in "HDA"}
        for kind, number, rest in re.findall(r"^([HDA])-(\d+)\t(.*)$", out.getvalue(), re.MULTILINE):
            found[kind][int(number)] = rest.split("\t")[-1].split()
        return SimpleNamespace(**found)

    lines = (folder / "test.de").read_text().splitlines()
    plain = printed("generate", "--dataset-impl raw --batch-size 5 --print-alignment hard")
    return SimpleNamespace(printed=printed, lines=lines, data=folder / "raw", path=path, plain=plain)


def expected(copying, dictionary=None):
    """From hypotheses with <unk> and hard alignments that fairseq prints for them."""
    plain, texts = copying.plain, {}
    for number, hypothesis in plain.H.items():
        sources = dict(pair.split("-")[::-1] for pair in plain.A[number])
        words = copying.lines[number].split()
        texts[number] = [
            (dictionary or {}).get(words[int(sources[str(i)])], words[int(sources[str(i)])]) if word == "<unk>" else word
            for i, word in enumerate(hypothesis)
        ]
    assert any(text != plain.H[number] for number, text in texts.items())  # something was there to be replaced
    return texts


only_srupp = pytest.mark.parametrize("copying", [SRUPP], indirect=True, ids=[""])


@pytest.mark.parametrize("copying", [SRUPP, TRANSFORMER], indirect=True, ids=["srupp", "transformer"])
def test_words_of_the_source_are_copied(copying, tmp_path):
    texts = expected(copying)
    generate = "--dataset-impl raw --batch-size 5"
    (tmp_path / "lines").write_text("".join(f"{line}\n" for line in copying.lines))
    interactive = f"--input {tmp_path}/lines --buffer-size 12 --batch-size 5"
    for command, options in (("generate", generate), ("interactive", interactive)):
        for alignment in ("", "--print-alignment hard"):
            found = copying.printed(command, options, alignment, "--replace-unk")
            assert found.H == texts and bool(found.A) == bool(alignment)


@only_srupp
def test_joined_subwords_are_replaced_by_their_tokens(copying, tmp_path):
    texts = expected(copying)
    joined = {number: (" ".join(text) + " ").replace("@@ ", "").split() for number, text in texts.items()}
    assert joined != texts
    generate = copying.printed("generate", "--dataset-impl raw --replace-unk --remove-bpe")
    assert generate.H == joined
    (tmp_path / "lines").write_text("".join(f"{line}\n" for line in copying.lines))
    assert copying.printed("interactive", f"--input {tmp_path}/lines --replace-unk --remove-bpe").H == joined


@only_srupp
def test_words_are_translated_by_a_dictionary(copying, tmp_path):
    texts = expected(copying)
    word = next(a for i, text in texts.items() for a, b in zip(text, copying.plain.H[i]) if b == "<unk>")
    (tmp_path / "words").write_text(f"{word} FOUND 0.9\n\nother OTHER\n", encoding="utf-8")
    found = copying.printed("generate", "--dataset-impl raw --replace-unk", tmp_path / "words").H
    assert found == expected(copying, {word: "FOUND"}) != texts


@only_srupp
def test_soft_alignments(copying):
    found = copying.printed("generate", "--dataset-impl raw --replace-unk --print-alignment soft")
    hard = expected(copying)
    assert found.H == hard


@only_srupp
def test_in_the_hub(copying):
    from fairseq.hub_utils import GeneratorHubInterface, from_pretrained

    loaded = from_pretrained(str(copying.path.parent), copying.path.name, str(copying.data), user_dir=PACKAGE_DIR, replace_unk="")
    hub = GeneratorHubInterface(loaded["args"], loaded["task"], loaded["models"])
    options = {"beam": 3, "max_len_b": 8, "unkpen": -2.0}
    texts = expected(copying)
    assert [text.split() for text in hub.translate(copying.lines, **options)] == [texts[i] for i in range(len(texts))]
    assert hub.translate(copying.lines[0], **options).split() == texts[0]


@only_srupp
def test_an_empty_value_and_a_source_alone(copying, fairseq_cli, tmp_path):
    import shutil
    import sys

    data = shutil.copytree(copying.data, tmp_path / "data")
    (data / "test.de-en.en").unlink()
    argv, out = sys.argv, io.StringIO()
    from fairseq_cli import generate

    sys.argv = ["fairseq-generate", str(data), "--user-dir", PACKAGE_DIR, "--cpu", "--path", str(copying.path)]
    sys.argv += "--dataset-impl raw --max-len-b 8 --beam 3 --unkpen -2 --batch-size 5 -s de -t en --replace-unk".split() + [""]
    try:
        with contextlib.redirect_stdout(out):
            generate.cli_main()
    finally:
        sys.argv = argv
    found = re.findall(r"^H-(\d+)\t\S+\t(.*)$", out.getvalue(), re.MULTILINE)
    assert {int(number): text.split() for number, text in found} == expected(copying)


@pytest.mark.parametrize(
    "content, line",
    [(None, "cannot be read: No such file"), (b"one two\nalone\n", "line 2 has no second word"), (b"\xff a", "cannot be read")],
)
def test_a_dictionary_that_cannot_be_read(content, line, tmp_path, fairseq_cli):
    from fairseq import utils

    if content is not None:
        (tmp_path / "words").write_bytes(content)
    with pytest.raises(UserError, match=line):
        utils.load_align_dict(str(tmp_path / "words"))


def test_a_language_model_has_no_source(text, trained, fairseq_cli, tmp_path):
    (tmp_path / "lines").write_text("a b\n")
    for option in ("--replace-unk", "--print-alignment"):
        with pytest.raises(UserError, match=f"{option} needs a model of translation"):
            options = f"--task language_modeling --cpu --input {tmp_path}/lines --path {trained}/checkpoint_last.pt"
            fairseq_cli("interactive", text.data, options, option)


def test_replacing_without_the_words_of_the_source():
    """Callers of fairseq's function that know the text alone."""
    from fairseq import utils
    from fairseq.data import Dictionary

    symbols = Dictionary()
    for word in ("x", "y"):
        symbols.add_symbol(word)
    tokens = torch.tensor([symbols.index("x"), symbols.unk(), symbols.unk(), symbols.eos()])
    _, text, _ = utils.post_process_prediction(tokens, "p q r", [(0, 0), (2, 1), (1, 2)], {"q": "Q"}, symbols)
    assert text == "x r Q"
