"""import-checkpoint: the author's models against a reference of their own, through fairseq's commands, and bad input.

State dicts are small and random, with the names and shapes of asappresearch/sru, branch 3.0.0-dev.
"""

import argparse
import math
import os
import re
import subprocess
import sys
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import eval_lm, preprocess, train

from fairseq_srupp.cli import import_checkpoint, prepare_bytes
from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.models.srupp_lm import SRUppLanguageModel

D, A, LAYERS, WINDOW = 12, 8, 4, 5
TEXT = b"the author's bytes, each of them once at least\n" * 4
BYTES = sorted(set(TEXT))
WIKI = ["<eos>", "the", ",", "<unk>", "of", *(f"w{i}" for i in range(26))]
LM1B = ["the", ",", "<S>", "of", "w0", "<UNK>", *(f"w{i}" for i in range(1, 14))]
BANDS = {"wiki": [9, 6, 16], "lm1b": [8, 4, 7]}


def author_state(kind, every=1, norm=True, seed=1):
    """A state dict as train_enwik8.py ("bytes"), train_wt103.py ("wiki") or train_lm1b.py saves it."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator) * (0.3 if len(shape) == 1 else shape[-1] ** -0.5)

    state = {}
    for i in range(LAYERS):
        cell, attends = f"rnn.rnn_lst.{i}.", (i + 1) % every == 0
        state |= {f"{cell}weight_c": 3 * random(2 * D), f"{cell}bias": random(2 * D), f"{cell}scale_x": torch.ones(1)}
        cell += "transform_module."
        state |= {f"{cell}alpha": torch.tensor([0.8])} if attends else {}
        state[f"{cell}linear1.weight"] = random(A, D)
        state[f"{cell}linear2.weight"] = 2 * random(2 * A if attends else 3 * D, A)
        state |= {f"{cell}linear3.weight": random(3 * D, A)} if attends else {}
        if norm:
            state |= {f"{cell}layer_norm.weight": 1 + random(A), f"{cell}layer_norm.bias": random(A)}
    if kind == "bytes":
        state["embedding_layer.weight"] = random(len(BYTES), D)
        state |= {"output_layer.weight": random(len(BYTES), D), "output_layer.bias": random(len(BYTES))}
        return state
    for band, words in enumerate(BANDS[kind]):
        rows, dim = words + (len(BANDS[kind]) - 1 if band == 0 else 0), 16 // 4**band
        state[f"output_layer.out_layers.{band}.weight"] = random(rows, dim)
        state[f"output_layer.out_layers.{band}.bias"] = random(rows)
        state[f"output_layer.out_projs.{band}"] = random(D, dim)
        tied = state[f"output_layer.out_projs.{band}"].clone()
        state[f"embedding_layer.emb_projs.{band}"] = tied if kind == "wiki" else random(D, dim)
    return state


def reference(state, words, window, heads=1):
    """Log-probabilities (L, V) of the word after each of words (L,), in fp64."""
    state = {name: tensor.double() for name, tensor in state.items()}
    x = reference_embeddings(state, words)
    for i in range(LAYERS):
        cell = {name.split(".", 3)[3]: t for name, t in state.items() if name.startswith(f"rnn.rnn_lst.{i}.")}
        layer = {name.removeprefix("transform_module."): t for name, t in cell.items()}
        x = reference_recurrence(x, reference_gates(x, layer, window, heads), layer["weight_c"], layer["bias"])
    if "output_layer.weight" in state:
        return F.log_softmax(x @ state["output_layer.weight"].t() + state["output_layer.bias"], -1)
    scores, band = [], 0
    while f"output_layer.out_projs.{band}" in state:
        layer = f"output_layer.out_layers.{band}."
        projected = x @ state[f"output_layer.out_projs.{band}"]
        scores.append(F.log_softmax(projected @ state[f"{layer}weight"].t() + state[f"{layer}bias"], -1))
        band += 1
    head = scores[0]
    return torch.cat([head[:, : 1 - band]] + [head[:, [-i]] + scores[i] for i in range(1, band)], -1)


def reference_embeddings(state, words):
    if "embedding_layer.weight" in state:
        return state["embedding_layer.weight"][words]
    table, band = [], 0
    while f"embedding_layer.emb_projs.{band}" in state:
        table.append(state[f"output_layer.out_layers.{band}.weight"] @ state[f"embedding_layer.emb_projs.{band}"].t())
        band += 1
    table[0] = table[0][: 1 - band]  # without the rows of the tails
    return torch.cat(table)[words]


def reference_gates(x, layer, window, heads):
    """(L, d, 3)."""
    z = q = x @ layer["linear1.weight"].t()
    if "alpha" in layer:
        keys, values = (q @ layer["linear2.weight"].t()).chunk(2, -1)
        attended = []
        for t in range(len(x)):
            seen = slice(max(0, t - window), t + 1)
            for query, k, v in zip(q[t].chunk(heads), keys[seen].chunk(heads, -1), values[seen].chunk(heads, -1)):
                attended.append(F.softmax(k @ query / len(query) ** 0.5, 0) @ v)
        z = q + layer["alpha"] * torch.cat(attended).view_as(q)
    if "layer_norm.weight" in layer:
        z = F.layer_norm(z, z.shape[-1:], layer["layer_norm.weight"], layer["layer_norm.bias"])
    return (z @ layer["linear3.weight" if "alpha" in layer else "linear2.weight"].t()).unflatten(-1, (-1, 3))


def reference_recurrence(x, gates, weight_c, bias):
    """Forget gate first, then the gate of the highway: both in v and in b."""
    (v_f, v_r), (b_f, b_r) = weight_c.chunk(2), bias.chunk(2)
    c, out = torch.zeros_like(x[0]), []
    for x_t, gate in zip(x, gates):
        f, r = torch.sigmoid(gate[:, 1] + v_f * c + b_f), torch.sigmoid(gate[:, 2] + v_r * c + b_r)
        c = f * c + (1 - f) * gate[:, 0]
        out.append(r * c + (1 - r) * x_t)
    return torch.stack(out)


def import_(*words):
    parser = argparse.ArgumentParser()
    import_checkpoint.add_arguments(parser)
    return import_checkpoint.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def files(tmp_path):
    """A function that writes a state dict and its vocabulary and returns the options that name them."""

    def write(kind, state):
        torch.save(state, tmp_path / "his.pt")
        (tmp_path / "bytes").write_bytes(TEXT)
        for name, words in {"wiki": WIKI, "lm1b": LM1B}.items():
            (tmp_path / name).write_text("\n".join(words) + "\n")
        vocabulary = ["--text" if kind == "bytes" else "--vocab", tmp_path / kind]
        return ["--checkpoint", tmp_path / "his.pt", *vocabulary, "--destdir", tmp_path / "out"]

    return write


def symbol(word):
    """Of ours, for a byte or word of the author's."""
    if isinstance(word, int):
        return chr(word) if 0x21 <= word <= 0x7E else f"<0x{word:02X}>"
    return {"<eos>": "</s>", "<S>": "</s>", "<UNK>": "<unk>"}.get(word, word)


def loaded(folder):
    """The model, in fp64, and its dictionary."""
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(folder / "checkpoint.pt")])
    return model.double().eval(), task.dictionary


VOCABULARY = {"bytes": BYTES, "wiki": WIKI, "lm1b": LM1B}


def log_probs(model, tokens, segment):
    """(L, V), in fp64."""
    net_output = model(tokens[None], stream=("test", 1, segment))
    if model.decoder.adaptive_softmax is None:  # fairseq would make fp32 of them
        return F.log_softmax(net_output[0][0], -1)
    return model.get_normalized_probs(net_output, log_probs=True)[0]


@pytest.mark.parametrize("every, heads", [(1, 2), (2, 1)])
@pytest.mark.parametrize("kind", VOCABULARY)
def test_agreement(files, tmp_path, kind, every, heads):
    """Every log-probability, over segments, with attention that reaches back further than a segment."""
    state = author_state(kind, every)
    import_(*files(kind, state), "--mem-len", WINDOW, "--attention-heads", heads)
    model, dictionary = loaded(tmp_path / "out")
    ours = torch.tensor([dictionary.symbols.index(symbol(word)) for word in VOCABULARY[kind]])
    words = torch.randperm(3 * len(ours), generator=torch.Generator().manual_seed(2)) % len(ours)
    with torch.no_grad():
        found = torch.cat([log_probs(model, ours[segment], i) for i, segment in enumerate(words.split(4))])
    expected = reference(state, words, WINDOW, heads)
    torch.testing.assert_close(found[:, ours], expected, rtol=0, atol=1e-9)
    others = [i for i in range(len(dictionary)) if i not in ours]
    assert len(others) == (4 if kind == "bytes" else 2) and (found[:, others] < -9e3).all()


@pytest.mark.parametrize("change", [dict(norm=False), dict(every=5)])
def test_variants(files, tmp_path, change):
    state = author_state("bytes", **change)
    import_(*files("bytes", state), "--mem-len", WINDOW)
    model, dictionary = loaded(tmp_path / "out")
    ours = torch.tensor([dictionary.symbols.index(symbol(byte)) for byte in BYTES])
    words = torch.arange(len(BYTES))
    with torch.no_grad():
        found = log_probs(model, ours, 0)[:, ours]
    torch.testing.assert_close(found, reference(state, words, WINDOW), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind, window, cutoffs", [("bytes", 3072, None), ("wiki", 2560, "11,17"), ("lm1b", 96, "10,14")])
def test_what_the_checkpoint_says(files, tmp_path, kind, window, cutoffs):
    import_(*files(kind, author_state(kind, every=2)))
    cfg = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["cfg"]["model"]
    assert (cfg["hidden_size"], cfg["attention_dim"], cfg["layers"]) == (D, A, LAYERS)
    assert (cfg["attention_layers"], cfg["mem_len"]) == ("2,4", window)
    assert cfg["adaptive_softmax_cutoff"] == cutoffs and cfg["tie_adaptive_proj"] == (kind == "wiki")


def test_half_precision_is_finite(files, tmp_path):
    import_(*files("wiki", author_state("wiki")))
    model, dictionary = loaded(tmp_path / "out")
    net_output = model.half()(torch.arange(len(dictionary))[None], stream=("test", 1, 0))
    assert net_output[0].dtype == torch.half
    assert model.get_normalized_probs(net_output, log_probs=True).isfinite().all()


def evaluated(data, checkpoint, *arguments):
    """Loss of fairseq-eval-lm, in bits per token."""
    words = [data, "--task", "streaming_language_modeling", "--cpu", "--path", checkpoint, *arguments]
    args = options.parse_args_and_arch(options.get_eval_lm_parser(), [str(word) for word in words])
    return float(eval_lm.main(convert_namespace_to_omegaconf(args))["loss"])


def bits(state, words):
    found = reference(state, words[:-1], WINDOW).gather(1, words[1:, None])
    return -found.mean().item() / math.log(2)


def test_bytes_in_fairseq_eval_lm(files, tmp_path):
    state, out = author_state("bytes"), tmp_path / "out"
    import_(*files("bytes", state), "--mem-len", WINDOW)
    parser = argparse.ArgumentParser()
    prepare_bytes.add_arguments(parser)
    words = ["--test", tmp_path / "bytes", "--dict", out / "dict.txt", "--destdir", tmp_path / "data"]
    prepare_bytes.run(parser.parse_args([str(word) for word in words]))
    found = evaluated(tmp_path / "data", out / "checkpoint.pt", "--tokens-per-sample", 7)
    assert found == pytest.approx(bits(state, torch.tensor([BYTES.index(b) for b in TEXT])), abs=1e-4)


@pytest.fixture
def word_data(files, tmp_path):
    """The imported WikiText model, its state dict, and a text in its words: fairseq data and the author's indices."""
    state = author_state("wiki")
    import_(*files("wiki", state), "--mem-len", WINDOW)
    lines = ["the w25 , unheard w3", "", "<unk> of w11 the w7", *(f"w{i} the w{i * 7 % 26}" for i in range(26))]
    (tmp_path / "text").write_text("\n".join(lines) + "\n")
    words = ["--only-source", "--srcdict", tmp_path / "out" / "dict.txt", "--destdir", tmp_path / "data"]
    words += [word for split in ("train", "valid", "test") for word in (f"--{split}pref", tmp_path / "text")]
    preprocess.main(options.get_preprocessing_parser().parse_args([str(word) for word in words]))
    index = {word: i for i, word in enumerate(WIKI)}
    text = [word for line in lines for word in [*line.split(), "<eos>"]]
    return state, torch.tensor([index.get(word, index["<unk>"]) for word in text])


def test_words_in_fairseq_eval_lm(word_data, tmp_path):
    state, words = word_data
    found = evaluated(tmp_path / "data", tmp_path / "out" / "checkpoint.pt", "--tokens-per-sample", 7)
    assert found == pytest.approx(bits(state, words), abs=1e-4)


def test_printed_options_train_further(word_data, tmp_path, capsys):
    torch.save(author_state("wiki"), tmp_path / "his.pt")
    import_("--checkpoint", tmp_path / "his.pt", "--vocab", tmp_path / "wiki", "--destdir", tmp_path / "out")
    printed = re.search(r"  (--finetune-from-model .*)\n", capsys.readouterr().out)[1].split()
    words = [tmp_path / "data", *printed, "--cpu", "--optimizer", "radam", "--lr", 1e-9, "--max-update", 1]
    words += ["--tokens-per-sample", 8, "--batch-size", 2, "--save-dir", tmp_path / "run", "--disable-validation"]
    args = options.parse_args_and_arch(options.get_training_parser(), [str(word) for word in words])
    vars(checkpoint_utils.save_checkpoint).pop("best", None)  # fairseq keeps it from one run to the next
    train.main(convert_namespace_to_omegaconf(args))
    paths = tmp_path / "out" / "checkpoint.pt", tmp_path / "run" / "checkpoint_last.pt"
    before, after = (torch.load(path, weights_only=True)["model"] for path in paths)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_from_pretrained(files, tmp_path):
    import_(*files("lm1b", author_state("lm1b")))
    hub = SRUppLanguageModel.from_pretrained(str(tmp_path / "out"), "checkpoint.pt")
    assert hub.models[0].decoder.mem_len == 96 and len(hub.task.dictionary) == len(LM1B) + 2


def fairseq_checkpoint(state):
    return {"model": state, "args": None, "cfg": {}}


BAD_STATES = {
    "checkpoint of fairseq already": fairseq_checkpoint,
    "holds more than tensors by name": lambda state: {"epoch": 3, **state},
    "no state dict": lambda state: list(state.values()),
    "no matrix rnn.rnn_lst.0.transform_module.linear1.weight": lambda state: {"weight": torch.ones(2, 2)},
    "no matrix output_layer.weight": lambda state: {n: t for n, t in state.items() if n != "output_layer.weight"},
    "rnn.rnn_lst.1.bias is missing": lambda state: {n: t for n, t in state.items() if n != "rnn.rnn_lst.1.bias"},
    r"output_layer.bias is \(3,\), expected \(19,\)": lambda state: {**state, "output_layer.bias": torch.ones(3)},
    "nothing like its rnn.rnn_lst.0.layer_norm.bias": lambda state: {
        **state,
        "rnn.rnn_lst.0.layer_norm.bias": torch.ones(D),
    },
    "rescaled": lambda state: {**state, "rnn.rnn_lst.2.scale_x": torch.tensor([1.2])},
}


@pytest.mark.parametrize(
    "tensor, message",
    [
        (torch.zeros(1).expand(10**9, D), "it declares tensors of 48,000,0"),
        (torch.zeros(0, 10**12), "no matrix output_layer.weight"),
        (torch.ones(19, D).to_sparse(), "without plain data"),
        (torch.ones(19, D, device="meta"), "without plain data"),
        (torch.ones(19, D, dtype=torch.long), "is of torch.int64, expected floating-point numbers"),
        (torch.ones(19, D) * 1j, "is of torch.complex64, expected floating-point numbers"),
    ],
    ids=["expanded", "empty", "sparse", "meta", "whole numbers", "complex"],
)
def test_odd_tensors_are_one_line(tensor, message, files, tmp_path):
    with pytest.raises(UserError, match=f"his.pt.*{message}"):
        import_(*files("bytes", {**author_state("bytes"), "output_layer.weight": tensor}))
    assert not (tmp_path / "out").exists()


def test_names_that_are_no_text_are_one_line(files):
    with pytest.raises(UserError, match="holds more than tensors by name"):
        import_(*files("bytes", {**author_state("bytes"), 7: torch.ones(1)}))


@pytest.mark.parametrize("message", BAD_STATES)
def test_what_is_no_model_of_the_author(files, tmp_path, message):
    with pytest.raises(UserError, match=message) as refusal:
        import_(*files("bytes", BAD_STATES[message](author_state("bytes"))))
    assert str(refusal.value).startswith("fairseq_srupp import-checkpoint: ") and "his.pt" in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_bands_that_do_not_shrink_evenly(files):
    state = author_state("wiki")
    for name in ("output_layer.out_layers.2.weight", "output_layer.out_projs.2", "embedding_layer.emb_projs.2"):
        state[name] = torch.ones(len(state[name]), 3)
    with pytest.raises(UserError, match="16, 4, 3 dimensions do not shrink by one whole factor"):
        import_(*files("wiki", state))


class RunsCode:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return exec, (f"open({self.path!r}, 'w').close()",)


def test_a_file_that_runs_code(files, tmp_path):
    with pytest.raises(UserError, match="his.pt.*exec"):
        import_(*files("bytes", {**author_state("bytes"), "x": RunsCode(tmp_path / "harm")}))
    assert not (tmp_path / "harm").exists() and not (tmp_path / "out").exists()


def test_truncated_and_missing_files(files, tmp_path):
    words = files("bytes", author_state("bytes"))
    whole = (tmp_path / "his.pt").read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 50):
        (tmp_path / "his.pt").write_bytes(whole[:size])
        with pytest.raises(UserError, match="his.pt is damaged: |cannot read .*his.pt: "):
            import_(*words)
    (tmp_path / "his.pt").unlink()
    with pytest.raises(UserError, match="cannot read .*his.pt: No such file"):
        import_(*words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--attention-heads", 3], "--attention-heads 3 must divide"),
        (["--attention-heads", 0], "--attention-heads 0"),
        (["--mem-len", -1], "--mem-len must be at least 0"),
        (["--text", "nowhere"], "nowhere: No such file"),
        (["--text", os.curdir], "Is a directory"),
    ],
)
def test_bad_options(files, tmp_path, extra, message):
    words = files("bytes", author_state("bytes"))
    with pytest.raises(UserError, match=message):
        import_(*words, *extra)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["--checkpoint", "x", "--destdir", "y"], ["--vocab", "x", "--text", "y"]])
def test_missing_options(words, capsys):
    with pytest.raises(SystemExit):
        import_(*words)
    assert "--vocab" in capsys.readouterr().err


def test_a_vocabulary_of_another_size(files, tmp_path):
    words = files("wiki", author_state("wiki"))
    (tmp_path / "wiki").write_text("\n".join(WIKI[:-1]))
    with pytest.raises(UserError, match="wiki has 30 words, the checkpoint 31"):
        import_(*words)


def test_a_dictionary_of_other_data_stays(files, tmp_path):
    words = files("bytes", author_state("bytes"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dict.txt").write_text("a 1\n")
    with pytest.raises(UserError, match="dict.txt is another vocabulary"):
        import_(*words)
    assert os.listdir(tmp_path / "out") == ["dict.txt"]


def test_nothing_is_left_when_writing_fails(files, tmp_path):
    words = files("bytes", author_state("bytes"))
    full = OSError(28, "No space left on device")
    with mock.patch("fairseq_srupp.compat.files.saving.torch.save", side_effect=full):
        with pytest.raises(UserError, match="No space left"):
            import_(*words)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot write to --destdir"):
        import_(*words)


def test_as_a_user_calls_it(files, tmp_path):
    words = [str(word) for word in files("bytes", author_state("bytes"))]
    command = [sys.executable, "-m", "fairseq_srupp", "import-checkpoint", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONWARNINGS"] = "ignore:`torch.jit:FutureWarning"  # of fairseq's, from torch 2.15 on
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"a model of {len(BYTES)} bytes" in done.stdout
