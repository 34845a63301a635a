"""--output-dictionary-size: a language model that reads all words and predicts the most frequent ones."""

import math
import re

import pytest
import torch
from fairseq.data import Dictionary, data_utils

from fairseq_srupp.compat.errors import UserError

MODEL = "--arch srupp_lm --hidden-size 12 --attention-dim 8 --layers 2 --output-dictionary-size 9"


@pytest.fixture
def train(text, fairseq_cli):
    import fairseq_srupp.models.srupp_lm  # noqa: F401 (registers the architecture)

    def run(*options):
        run = f"{MODEL} --optimizer adam --lr 0.01 --batch-size 8 --tokens-per-sample 16 --num-workers 0 --cpu"
        fairseq_cli("train", text.data, "--task language_modeling", run, "--max-update 3 --no-epoch-checkpoints", *options)

    return run


@pytest.mark.parametrize("adaptive", ["", "--criterion adaptive_loss --ddp-backend legacy_ddp --adaptive-softmax-cutoff 6,9"])
def test_other_words_are_read_and_count_as_unknown_in_the_output(train, text, fairseq_cli, tmp_path, adaptive, caplog):
    from fairseq import checkpoint_utils

    train("--save-dir", tmp_path, adaptive)
    path = tmp_path / "checkpoint_last.pt"
    options = "--tokens-per-sample 16 --output-dictionary-size 9 --gen-subset valid --batch-size 4 --cpu"
    with caplog.at_level("INFO"):
        fairseq_cli("eval-lm", text.data, options, "--path", path)

    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    model.eval()
    dictionary = Dictionary.load(f"{text.data}/dict.txt")
    assert len(dictionary) == 16 and model.decoder.embed_tokens.weight.size(0) == 16
    stored = data_utils.load_indexed_dataset(f"{text.data}/valid", dictionary)
    tokens = torch.cat([torch.tensor([dictionary.eos()]), *stored]).long()
    assert (tokens >= 9).any()
    bits = 0.0
    for start in range(0, len(tokens) - 1, 16):
        piece = tokens[start : start + 17]
        with torch.no_grad():
            log_probs = model.get_normalized_probs(model(piece[None, :-1]), log_probs=True)[0]
        assert log_probs.size(1) == 9
        target = piece[1:].masked_fill(piece[1:] >= 9, dictionary.unk())
        bits -= log_probs.gather(1, target[:, None]).sum().item() / math.log(2)
    found = float(re.search(r"Loss \(base 2\): ([\d.]+)", caplog.text).group(1))
    assert found == pytest.approx(bits / (len(tokens) - 1), abs=1e-4)


@pytest.mark.parametrize(
    "options, line",
    [
        ("--share-decoder-input-output-embed", "one dictionary for input and output, but they have 16 and 9 symbols"),
        (
            "--criterion adaptive_loss --adaptive-softmax-cutoff 6 --adaptive-input --tie-adaptive-weights",
            "--tie-adaptive-weights needs one dictionary for input and output",
        ),
        ("--output-dictionary-size 3", "3 is less than the 4 special symbols"),
    ],
)
def test_what_cannot_be(train, options, line):
    with pytest.raises(UserError, match=line):
        train("--no-save", options)
