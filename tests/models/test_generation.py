"""Translation by fairseq's search: what it finds is what the model says, however the rows of a batch come and go."""

import contextlib
import importlib
import io
import logging
import random
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from fairseq import search
from fairseq.data import data_utils
from fairseq.sequence_generator import SequenceGenerator
from translation_task import Task

from fairseq_srupp.compat.user_dir import PACKAGE_DIR
from fairseq_srupp.models.srupp_transformer import SRUppTransformer, SRUppTransformerConfig

TARGET = Task.target_dictionary
PAD, EOS = TARGET.pad(), TARGET.eos()


def model_of(awake, seed=1, **options):
    sizes = {"hidden_size": 12, "attention_dim": 8, "embed_dim": 6, "encoder_layers": 2, "decoder_layers": 2}
    torch.manual_seed(seed)
    cfg = SRUppTransformerConfig(**{**sizes, "dropout": 0.0, **options})
    return awake(SRUppTransformer.build_model(cfg, Task), seed).eval()


def decided(model):
    """The same with clear preferences, in which the source has a part: its translations end at different times."""
    model.encoder.embed_tokens.weight.data.mul_(3)
    model.decoder.output.linear.weight.data.mul_(5)
    model.decoder.output.linear.bias.data[EOS] += 1
    return model


def sentences(seed=2, lengths=(9, 1, 4, 13, 6)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.cat((torch.randint(4, 24, (n,), generator=generator), torch.tensor([EOS]))) for n in lengths]


def translate(models, source, prefix=None, **options):
    generator = SequenceGenerator(models, TARGET, max_len_a=0, max_len_b=20, **options)
    tokens = data_utils.collate_tokens(source, PAD, left_pad=True)
    sample = {"net_input": {"src_tokens": tokens, "src_lengths": tokens.ne(PAD).sum(1)}}
    return generator.generate(models, sample, prefix_tokens=prefix)


def assert_scored_like_the_full_pass(models, source, hypothesis):
    tokens = hypothesis["tokens"]
    previous = torch.cat((tokens[-1:], tokens[:-1]))  # fairseq begins with the end of sentence
    with torch.no_grad():
        each = [model(source[None], None, previous[None])[0][0].softmax(-1) for model in models]
    expected = torch.stack(each).mean(0).log().gather(1, tokens[:, None]).squeeze(1)
    torch.testing.assert_close(hypothesis["positional_scores"], expected, rtol=0, atol=1e-4)


def random_model(awake, seed):
    choose = random.Random(seed)
    heads, forward_only = choose.choice([1, 2, 3]), choose.random() < 0.5
    model = model_of(
        awake,
        seed,
        attention_norm=("post", "pre", "none")[seed % 3],
        attention_heads=heads,
        attention_dim=heads * choose.choice([1, 3, 5]),
        hidden_size=choose.choice([7, 13, 19]) if forward_only else choose.choice([6, 10, 22]),
        encoder_unidirectional=forward_only,
        embed_dim=choose.choice([3, 5, 11]),
        encoder_layers=choose.randint(2, 3),
        decoder_layers=choose.randint(2, 4),
        attention_every_n_layers=choose.choice([1, 1, 2]),
        independent_query=choose.random() < 0.5,
    )
    for name, parameter in model.named_parameters():
        if name.endswith("alpha"):
            parameter.data.fill_(choose.choice([-1, 1]) * choose.uniform(0.5, 2))
    return model, choose


def random_order(choose, rows, beam):
    """Rows of a search, which stay with their sentence or leave with it; now and then any rows at all."""
    if choose.random() < 0.2 or rows % beam:
        return torch.tensor([choose.randrange(rows) for _ in range(choose.randint(1, rows + 2))])
    stay = sorted(choose.sample(range(rows // beam), max(1, rows // beam - choose.choice([0, 0, 1]))))
    return torch.tensor([sentence * beam + choose.randrange(beam) for sentence in stay for _ in range(beam)])


@pytest.mark.parametrize("seed", range(18))
def test_incremental_equals_full_whatever_the_model_and_the_order(awake, seed):
    model, choose = random_model(awake, seed)
    beam = choose.randint(1, 4)
    source = data_utils.collate_tokens(sentences(seed), PAD, left_pad=True)
    order = torch.arange(len(source)).repeat_interleave(beam)
    with torch.no_grad():
        encoded = model.encoder.reorder_encoder_out(model.encoder(source, None), order)
        source, incremental, seen = source[order], {}, 0
        target = torch.randint(4, 20, (len(source), 16))
        while seen < 12:
            end = seen + choose.choice([1, 1, 3])
            now, _ = model.decoder(target[:, :end], encoder_out=encoded, incremental_state=incremental)
            full, _ = model(source, None, target[:, :end])
            torch.testing.assert_close(now, full[:, seen:], rtol=0, atol=1e-5)
            order, seen = random_order(choose, len(source), beam), end
            model.decoder.reorder_incremental_state_scripting(incremental, order)
            encoded = model.encoder.reorder_encoder_out(encoded, order)
            source, target = source[order], target[order]
            target[:, seen:] = torch.randint(4, 20, (len(source), 16 - seen))


PREFIX = torch.tensor([[5, 7, 9], [6, PAD, PAD], [8, 8, PAD], [4, 19, 4], [11, PAD, PAD]])
SEARCHES = {
    "greedy": lambda: {"beam_size": 1},
    "beam": lambda: {"beam_size": 5},
    "wide": lambda: {"beam_size": 9, "len_penalty": 2.0},
    "unnormalised": lambda: {"beam_size": 3, "normalize_scores": False, "min_len": 4},
    "prefix": lambda: {"beam_size": 4, "prefix": PREFIX},
    "no repetition": lambda: {"beam_size": 3, "no_repeat_ngram_size": 2},
    "diverse": lambda: {"beam_size": 4, "search_strategy": search.DiverseBeamSearch(TARGET, 2, 0.5)},
    "siblings": lambda: {"beam_size": 4, "search_strategy": search.DiverseSiblingsSearch(TARGET, 0.5)},
}
PENALISED = ("diverse", "siblings")  # what these report are not the model's scores alone


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", SEARCHES)
def test_a_batch_is_translated_like_each_sentence_alone(awake, kind, count):
    models = [decided(model_of(awake, seed, attention_heads=seed)) for seed in (1, 2)][:count]
    options, source = SEARCHES[kind](), sentences()
    prefix = options.pop("prefix", None)
    together = translate(models, source, prefix, **options)
    for row, hypotheses in enumerate(together):
        own = None if prefix is None else prefix[row : row + 1, : prefix[row].ne(PAD).sum()]
        (alone,) = translate(models, source[row : row + 1], own, **options)
        assert len(hypotheses) == len(alone) == options["beam_size"]
        for one, other in zip(hypotheses, alone):
            assert one["tokens"].tolist() == other["tokens"].tolist()
            torch.testing.assert_close(one["positional_scores"], other["positional_scores"], rtol=0, atol=1e-4)
            if kind not in PENALISED:
                assert_scored_like_the_full_pass(models, source[row], one)
            if own is not None:
                assert one["tokens"][: own.numel()].tolist() == own[0].tolist()
    assert len({max(hypothesis["tokens"].numel() for hypothesis in hypotheses) for hypotheses in together}) > 1


@pytest.mark.parametrize("limits", [{}, {"sampling_topk": 3}, {"sampling_topp": 0.6}])
def test_samples_are_scored_like_the_full_pass(awake, limits):
    models, source = [decided(model_of(awake))], sentences()
    strategy = search.Sampling(TARGET, **limits)
    first, second = (translate(models, source, beam_size=4, search_strategy=strategy) for _ in range(2))
    for sentence, hypotheses in zip(source, first):
        for hypothesis in hypotheses:
            assert_scored_like_the_full_pass(models, sentence, hypothesis)
    drawn = [[h["tokens"].tolist() for hypotheses in run for h in hypotheses] for run in (first, second)]
    assert drawn[0] != drawn[1]


def test_the_likeliest_sample_is_the_greedy_translation(awake):
    models, source = [decided(model_of(awake))], sentences()
    one = search.Sampling(TARGET, sampling_topk=1)
    sampled = translate(models, source, beam_size=1, search_strategy=one)
    greedy = translate(models, source, beam_size=1)
    assert [h[0]["tokens"].tolist() for h in sampled] == [h[0]["tokens"].tolist() for h in greedy]


@pytest.mark.parametrize(
    "modules, kept", [(None, 2), (["SRUppEncoder"], 1), (["SRUppEncoder", "SRUppTransformerDecoder"], 2), ([], 0)]
)
def test_dropout_is_retained_where_it_is_asked_for(awake, modules, kept):
    model = model_of(awake, dropout=0.5)
    options = SimpleNamespace(beam=1, retain_dropout=True, retain_dropout_modules=modules, print_alignment=None)
    model.prepare_for_inference_(SimpleNamespace(generation=options))
    found = [translate([model], sentences(), beam_size=2) for _ in range(2)]
    assert model.encoder.training + model.decoder.training == kept
    scores = [[h["score"].item() for hypotheses in run for h in hypotheses] for run in found]
    assert (scores[0] != scores[1]) == (kept > 0)


def fairseq(command, *words):
    """What the command prints."""
    argv, root, printed = sys.argv, logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    sys.argv = [f"fairseq-{command}", *map(str, words)]
    try:
        with contextlib.redirect_stdout(printed):
            importlib.import_module(f"fairseq_cli.{command}").cli_main()
    finally:
        sys.argv, root.handlers[:] = argv, handlers
        root.setLevel(level)
    return printed.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two models of two updates, on 1 to 6 words a line; `translate(lines, ...)` gives (line, score, text) of each."""
    folder = tmp_path_factory.mktemp("trained")
    words = random.Random(1)
    for split, lines in (("train", 80), ("valid", 5)):
        for lang in ("de", "en"):
            text = (" ".join(words.choices("abcdefghij", k=words.randint(1, 6))) for _ in range(lines))
            (folder / f"{split}.{lang}").write_text("".join(f"{line}\n" for line in text))
    splits = ["--trainpref", folder / "train", "--validpref", folder / "valid"]
    fairseq("preprocess", "-s", "de", "-t", "en", *splits, "--destdir", folder)
    plugin = [folder, "--user-dir", PACKAGE_DIR, "--cpu"]
    sizes = "--hidden-size 12 --attention-dim 8 --embed-dim 6 --encoder-layers 1 --decoder-layers 2 --alpha-init 1"
    run = "--arch srupp_transformer --optimizer adam --lr 0.01 --max-tokens 300 --max-update 2 --num-workers 0"
    for seed in (1, 2):
        options = ["--seed", seed, "--save-dir", folder / str(seed), "--no-epoch-checkpoints"]
        fairseq("train", *plugin, *run.split(), *sizes.split(), *options)

    def interactive(lines, *options, path=str(folder / "1" / "checkpoint_last.pt")):
        (folder / "input").write_text("".join(f"{line}\n" for line in lines))
        limits = ["--max-len-a", 0, "--max-len-b", 15, "--input", folder / "input", "--path", path]
        printed = fairseq("interactive", *plugin, *limits, *options)
        found = re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", printed, re.MULTILINE)
        return sorted((int(line), float(score), text) for line, score, text in found)

    return SimpleNamespace(translate=interactive, path=lambda seed: folder / str(seed) / "checkpoint_last.pt")


def assert_same(one, other):
    assert [(line, text) for line, _, text in one] == [(line, text) for line, _, text in other]
    assert [score for _, score, _ in one] == pytest.approx([score for _, score, _ in other], abs=1e-4)


def test_any_line_is_translated(trained):
    """Empty, of unknown words, of known ones, and ten times as long as any that the model was trained on."""
    lines = ["a b c", "", "never seen", " ".join("abcdefghij" * 6), "j", ""]
    by_one = trained.translate(lines, "--beam", 4)
    assert [line for line, _, _ in by_one] == list(range(6)) and by_one[1][1:] == by_one[5][1:]
    assert_same(trained.translate(lines, "--beam", 4, "--buffer-size", 6, "--batch-size", 6), by_one)
    best = trained.translate(lines, "--beam", 4, "--nbest", 3)
    assert [line for line, _, _ in best] == [i for i in range(6) for _ in range(3)]
    assert_same([max(best[i : i + 3], key=lambda found: found[1]) for i in range(0, 18, 3)], by_one)


def test_ensembles(trained):
    lines = ["a b c", "d", "e f g h i j"]
    alone = trained.translate(lines)
    assert_same(trained.translate(lines, path=f"{trained.path(1)}:{trained.path(1)}"), alone)
    assert trained.translate(lines, path=f"{trained.path(1)}:{trained.path(2)}") != alone


def test_constraints_are_met(trained):
    lines = ["a b c\tj\ta b", "d\tc", "e f g h i"]
    found = trained.translate(lines, "--constraints", "--beam", 6, "--buffer-size", 3, "--batch-size", 3)
    texts = [f" {text} " for _, _, text in found]
    assert len(texts) == 3 and " j " in texts[0] and " a b " in texts[0] and " c " in texts[1]
