"""--shuffle-sentences: fairseq-train in this process, on text of lines."""

import shutil

import numpy as np
import pytest
import torch
from fairseq.data import indexed_dataset
from streams import SRUPP, make_task, run_eval_lm, run_train

WORDS, EOS = 12, 2
TRAINING = ["--tokens-per-sample", 8, "--batch-size", 3, "--shuffle-sentences", "--lr", 0.05, "--save-interval-updates", 5]


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """A folder with data of lines, each the same word again and again."""
    folder = tmp_path_factory.mktemp("lines")
    (folder / "dict.txt").write_text("".join(f"w{i} 1\n" for i in range(WORDS)))
    random = np.random.default_rng(1)
    for split, count in (("train", 60), ("valid", 9), ("test", 9)):
        builder = indexed_dataset.make_builder(str(folder / f"{split}.bin"), "mmap", WORDS)
        for i in range(count):
            builder.add_item(torch.tensor([*[4 + i % WORDS] * random.integers(1, 5), EOS]))
        builder.finalize(str(folder / f"{split}.idx"))
    return folder


def weights(save_dir):
    return torch.load(save_dir / "checkpoint_last.pt", weights_only=True)["model"]


def test_a_stopped_run_goes_on_to_the_last_bit(lines, tmp_path, caplog):
    options = [*SRUPP, *TRAINING]
    run_train(str(lines), tmp_path / "whole", *options, "--max-update", 20)
    for updates in (13, 20):  # 9 updates an epoch: stopped in the second
        run_train(str(lines), tmp_path / "parts", *options, "--max-update", updates)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)

    run_train(str(lines), tmp_path / "other", *options, "--max-update", 13)
    shutil.copytree(tmp_path / "other", tmp_path / "ordered")
    with pytest.raises(SystemExit, match="shuffled with --seed 2 instead of shuffled with --seed 1"):
        run_train(str(lines), tmp_path / "other", *options, "--max-update", 20, "--seed", 2)
    options.remove("--shuffle-sentences")
    with pytest.raises(SystemExit, match="in the order of the text instead of shuffled with --seed 1"):
        run_train(str(lines), tmp_path / "ordered", *options, "--max-update", 20)

    # evaluation reads the text as it is, whatever was asked for
    path = tmp_path / "whole" / "checkpoint_last.pt"
    one, other = (run_eval_lm(str(lines), path, "--batch-size", 2, *more) for more in ([], ["--shuffle-sentences"]))
    assert one == other


def test_only_training_is_shuffled(lines):
    task = make_task(lines, tokens_per_sample=8, shuffle_sentences=True, seed=1)
    task.load_dataset("train")
    stream = task.dataset("train").stream
    in_order = stream.take(np.arange(len(stream)))

    def read(epoch, **kwargs):
        batches = task.get_batch_iterator(task.dataset("train"), max_sentences=1, epoch=epoch, **kwargs).next_epoch_itr()
        return torch.cat([batch["net_input"]["src_tokens"] for batch in batches], 1)[0].tolist()

    training = {"update_epoch_batch_itr": False, "disable_iterator_cache": True}
    first, second = read(1, **training), read(2, **training)
    assert first != second and first != in_order[:-1].tolist() == read(1)
    assert read(2, **training) == second
    for found in (first, second):  # all but the last token of the text in that order, which is an end of sentence
        assert sorted([*found, EOS]) == sorted(in_order.tolist())
