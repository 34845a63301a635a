"""All ways of searching, over several batches whose sentences end at different times: as each sentence alone."""

import contextlib
import io
import json
import random
import re
from types import SimpleNamespace

import pytest

from fairseq_srupp.compat.user_dir import PACKAGE_DIR

SRUPP = (
    "--arch srupp_transformer --hidden-size 12 --attention-dim 8 --embed-dim 6 --encoder-layers 1 --decoder-layers 1 "
    "--alpha-init 1"
)
TRANSFORMER = "--arch transformer --encoder-layers 1 --decoder-layers 1 " + " ".join(
    f"--{side}-{size}" for side in ("encoder", "decoder") for size in ("embed-dim 8", "ffn-embed-dim 8", "attention-heads 2")
)
TRAINING = f"--user-dir {PACKAGE_DIR} --cpu --optimizer adam --lr 0.02 --max-tokens 300 --num-workers 0 --no-epoch-checkpoints"


@pytest.fixture(scope="module")
def translating(request, tmp_path_factory, fairseq_cli):
    """`translating.generate(*options)`: what fairseq-generate prints of 23 sentences."""
    folder, words = tmp_path_factory.mktemp("pairs"), random.Random(0)
    for split, count in (("train", 90), ("valid", 3), ("test", 23)):
        lines = [" ".join(words.choices("abcdefghij", k=words.randint(1, 6))) for _ in range(count)]
        (folder / f"{split}.de").write_text("".join(f"{line}\n" for line in lines))
        (folder / f"{split}.en").write_text("".join(f"{line.upper()}\n" for line in lines))
    splits = " ".join(f"--{split}pref {folder}/{split}" for split in ("train", "valid", "test"))
    fairseq_cli("preprocess", f"-s de -t en --workers 1 {splits} --destdir {folder}")
    fairseq_cli("train", folder, TRAINING, request.param, "--max-update 25 --disable-validation --save-dir", folder)

    def generate(*options):
        printed, path = io.StringIO(), folder / "checkpoint_last.pt"
        with contextlib.redirect_stdout(printed):
            limits = f"--user-dir {PACKAGE_DIR} --cpu --max-len-b 12 --path {path} --num-workers 0"
            fairseq_cli("generate", folder, limits, *options)
        return printed.getvalue()

    return SimpleNamespace(generate=generate, data=folder, model=request.param)


def hypotheses(printed):
    """[(sentence, text, score)], the sentences in order."""
    found = re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", printed, re.MULTILINE)
    return sorted((int(line), text, float(score)) for line, score, text in found)


only_srupp = pytest.mark.parametrize("translating", [SRUPP], indirect=True, ids=[""])


@pytest.mark.parametrize(
    "translating, options",
    [
        (TRANSFORMER, "--beam 4 --diverse-beam-groups 2"),
        (SRUPP, "--beam 4 --diverse-beam-groups 2"),
        (SRUPP, "--beam 6 --diverse-beam-groups 3 --diverse-beam-strength 2 --min-len 3"),
        (SRUPP, "--beam 4 --diversity-rate 0.7"),
        (SRUPP, "--beam 3 --match-source-len"),
        (SRUPP, "--beam 3 --prefix-size 2 --unkpen 3 --lenpen 0.5 --no-repeat-ngram-size 2 --temperature 2"),
    ],
    indirect=["translating"],
)
def test_every_search_translates_batches_like_single_sentences(options, translating):
    nbest = f"--nbest {options.split()[1]}"
    together = hypotheses(translating.generate(options, nbest, "--batch-size 5 --required-batch-size-multiple 1"))
    alone = hypotheses(translating.generate(options, nbest, "--batch-size 1"))
    assert {sentence for sentence, _, _ in together} == set(range(23))
    assert [(sentence, text) for sentence, text, _ in together] == [(sentence, text) for sentence, text, _ in alone]
    assert [score for *_, score in together] == pytest.approx([score for *_, score in alone], abs=1e-3)


@only_srupp
@pytest.mark.parametrize("limit", ["--sampling-topk 3", "--sampling-topp 0.7"])
def test_sampling(limit, translating):
    found = hypotheses(translating.generate("--sampling --beam 3 --nbest 3 --batch-size 5", limit))
    assert [sentence for sentence, _, _ in found] == [i for i in range(23) for _ in range(3)]


@only_srupp
def test_groups_of_beams_differ(translating):
    """The first group is a beam search of its own; a strong penalty drives the second from its words."""
    one = hypotheses(translating.generate("--beam 1 --batch-size 5"))
    found = hypotheses(
        translating.generate("--beam 2 --nbest 2 --diverse-beam-groups 2 --diverse-beam-strength 9 --batch-size 5")
    )
    for sentence, text, _ in one:
        texts = [other for number, other, _ in found if number == sentence]
        assert text in texts and len(set(texts)) == 2


@only_srupp
def test_groups_of_beams_in_validation(translating, fairseq_cli, tmp_path, caplog):
    arguments = json.dumps({"beam": 4, "diverse_beam_groups": 2, "max_len_b": 8}, separators=(",", ":"))
    with caplog.at_level("INFO"):
        run = f"--max-update 2 --no-save --eval-bleu --eval-bleu-args {arguments} --valid-subset test --batch-size-valid 4"
        fairseq_cli("train", translating.data, TRAINING, translating.model, run)
    assert re.search(r"valid on.* bleu [\d.]+", caplog.text)
