"""Translation: srupp_transformer against fairseq's transformer_iwslt_de_en: same parameters and batches, in turns.

    python examples/benchmarks/translation.py [--json FILE] [--data DIR] [--models transformer srupp] [--profile]
    python examples/benchmarks/translation.py --data DIR --checkpoints OURS THEIRS

Training: whole updates (forward, label smoothing, backward, clipping, fairseq's adam). Decoding: fairseq's own
SequenceGenerator, sentences in fairseq-generate's order. The weights are untrained, so each hypothesis is made to end
at its reference's length, its words being the beam's own choice; if one has another length there are no figures. Both
models have 6 + 6 layers, embeddings of 512 and tied decoder embeddings; d of srupp_transformer (d' = d / 4) is the one
that comes nearest to the transformer's number of parameters. Without --data: random sentences of 25 pieces on average,
10,000 words. With --checkpoints: decoding alone, of trained models, which end their sentences themselves.
"""

import argparse
import bisect
import shlex
import statistics
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fairseq import checkpoint_utils, utils
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer.transformer_legacy import transformer_iwslt_de_en
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from fairseq.search import BeamSearch
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from language_models import parameters_of
from machine import environment, save, synchronize
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from fairseq_srupp.models.srupp_transformer import SRUppTransformer, SRUppTransformerConfig


class Size(NamedTuple):
    """Of the embeddings, of the stacks, and of the vocabulary of random sentences."""

    embed_dim: int = 512
    layers: int = 6
    words: int = 10_000

    @property
    def hidden_sizes(self):
        """Those that d is taken from: d' is then a multiple of 8, as half precision wants it on a GPU."""
        return range(self.embed_dim, 8 * self.embed_dim, 32)


TINY = Size(32, 1, 60)


def random_task(pairs: int, words: int, mean: float = 25.0, spread: float = 0.5):
    """Source lengths are log-normal (EOS included; spread: of their logarithm), targets follow them; the same every time."""
    rng, dictionary = np.random.default_rng(0), Dictionary()
    for word in range(words - len(dictionary)):
        dictionary.add_symbol(str(word))
    source = np.clip(np.rint(rng.lognormal(np.log(mean) - spread**2 / 2, spread, pairs)), 3, 100)
    target = np.clip(np.rint(source * rng.lognormal(0, 0.2, pairs)), 3, 120)
    sides = []
    for lengths in (source.astype(int), target.astype(int)):
        sentences = [torch.from_numpy(rng.integers(dictionary.nspecial, words, length)) for length in lengths]
        for sentence in sentences:
            sentence[-1] = dictionary.eos()
        sides += [sentences, lengths, dictionary]
    pairs = LanguagePairDataset(*sides, shuffle=False)
    return Namespace(source_dictionary=dictionary, target_dictionary=dictionary), pairs, pairs


def prepared_task(args):
    """What fairseq-preprocess wrote: the task, and the pairs of training and of --gen-subset."""
    cfg = TranslationConfig(
        data=args.data, source_lang=args.source_lang, target_lang=args.target_lang,
        train_subset="train", dataset_impl=None, required_seq_len_multiple=1,
    )  # fmt: skip
    task = TranslationTask.setup_task(cfg)
    training = None if args.checkpoints else task.load_dataset("train") or task.dataset("train")
    task.load_dataset(args.gen_subset)
    return task, training, task.dataset(args.gen_subset)


def batches_of(pairs, device: str, *, first=None, shuffle=False, **limits):
    """Batches like fairseq's own, of pairs of similar length; of the `first` pairs."""
    indices = pairs.ordered_indices()
    if first is not None:
        indices = indices[indices < first]
    batches = list(pairs.batch_by_size(indices, **limits))
    if shuffle:
        np.random.default_rng(0).shuffle(batches)
    for batch in batches:
        sample = pairs.collater([pairs[int(i)] for i in batch])
        yield sample if device == "cpu" else utils.move_to_cuda(sample)


def transformer_options(size: Size) -> Namespace:
    """Of transformer_iwslt_de_en: of its size by default."""
    cfg = Namespace(share_decoder_input_output_embed=True)
    for side in ("encoder", "decoder"):
        sizes = {"embed_dim": size.embed_dim, "ffn_embed_dim": 2 * size.embed_dim, "layers": size.layers}
        vars(cfg).update({f"{side}_{name}": value for name, value in sizes.items()})
    transformer_iwslt_de_en(cfg)
    return cfg


def transformer(task, size: Size) -> nn.Module:
    return TransformerModel.build_model(transformer_options(size), task)


def srupp(task, size: Size, hidden_size: int, every_n: int) -> nn.Module:
    cfg = SRUppTransformerConfig(
        hidden_size=hidden_size, attention_dim=hidden_size // 4, embed_dim=size.embed_dim, attention_every_n_layers=every_n,
        encoder_layers=size.layers, decoder_layers=size.layers, share_decoder_input_output_embed=True,
        alpha_init=1.0, attention_dropout=0.0,
    )  # fmt: skip
    return SRUppTransformer.build_model(cfg, task)


def build(name: str, task, size: Size = Size()):
    """A model and what to call it. name: transformer, srupp, or srupp-kN, with attention in every N-th layer."""
    if name == "transformer":
        return transformer(task, size), "transformer_iwslt_de_en"
    every_n = int(name[len("srupp-k") :] or 1)
    with torch.device("meta"):
        wanted, sizes = parameters_of(transformer(task, size)), size.hidden_sizes
        above = bisect.bisect(sizes, wanted, key=lambda d: parameters_of(srupp(task, size, d, every_n)))
        nearest = sizes[max(above - 1, 0) : above + 1]
        best = min(nearest, key=lambda d: abs(parameters_of(srupp(task, size, d, every_n)) - wanted))
    label = f"srupp_transformer, d = {best}" + (f", k = {every_n}" if every_n > 1 else "")
    return srupp(task, size, best, every_n), label


class ForcedLengths(BeamSearch):
    """fairseq's beam search, in which every hypothesis of pair i ends at lengths[i] tokens, EOS included."""

    def __init__(self, dictionary: Dictionary, lengths: Tensor, beam: int):
        super().__init__(dictionary)
        self.lengths, self.own, self.moved, self.rows = lengths, torch.arange(beam, device=lengths.device), 0, 0

    def step(self, step, lprobs, scores, prev_output_tokens=None, original_batch_idxs=None):
        ends = self.lengths[original_batch_idxs] == step + 1
        of_eos = lprobs[:, :, self.eos].masked_fill(~ends.unsqueeze(1), -torch.inf)
        lprobs[ends] = -torch.inf
        lprobs[:, :, self.eos] = of_eos
        scores, words, beams = super().step(step, lprobs, scores, prev_output_tokens, original_batch_idxs)
        if step > 0:  # rows that go on from another row's past
            self.moved = self.moved + (beams[:, : len(self.own)] != self.own).sum()
            self.rows += beams.size(0) * len(self.own)
        return scores, words, beams


class Decoding:
    """One model in decoding, by fairseq's SequenceGenerator. found: the best hypothesis (tokens) of each pair, by its index."""

    longest = 200  # tokens besides EOS, or as many as are asked for

    def __init__(self, label: str, model: nn.Module, task, args):
        self.label, self.args, self.dictionary = label, args, task.target_dictionary
        self.model, self.parameters, self.found = model.to(args.device), parameters_of(model), {}

    def start_decoding(self, lengths) -> None:
        """As fairseq-generate starts it. lengths: int64 (pairs,), or None: the model decides."""
        if self.args.fp16:
            self.model.half()
        self.model.prepare_for_inference_(Namespace(generation=Namespace(beam=self.args.beam)))
        forced = lengths is not None
        words, beam = self.dictionary, self.args.beam
        self.search = ForcedLengths(words, lengths, beam) if forced else BeamSearch(words)
        longest = max(self.longest, int(lengths.max())) if forced else self.longest
        self.generator = SequenceGenerator([self.model], words, beam, max_len_b=longest, search_strategy=self.search)

    def decode(self, batches) -> "tuple[int, int]":
        """Returns the sentences, and the tokens of their best hypotheses."""
        sentences = tokens = 0
        for sample in batches:
            with torch.autocast(self.args.device, torch.bfloat16, enabled=self.args.amp and not self.args.fp16):
                found = self.generator.generate([self.model], sample)
            best = [beam[0]["tokens"] for beam in found]
            sentences, tokens = sentences + len(best), tokens + sum(map(len, best))
            self.found.update(zip(sample["id"].tolist(), best))
            if isinstance(self.search, ForcedLengths):
                wanted = self.search.lengths[sample["id"]].tolist()
                if any([len(h["tokens"]) for h in beam] != [n] * self.args.beam for beam, n in zip(found, wanted)):
                    raise SystemExit(f"{self.label}: hypotheses without the length that was asked for: no figures")
        return sentences, tokens

    def moved(self) -> float:
        """The share of rows that went on from another row of their beam, in a search with forced lengths."""
        return int(self.search.moved) / max(self.search.rows, 1)

    def timed(self, work, batches):
        """What work(batches) returns, and its seconds."""
        synchronize(self.args.device)
        begin = time.perf_counter()
        result = work(batches)
        synchronize(self.args.device)
        return result, time.perf_counter() - begin

    def profiled(self, title: str, work, batches) -> None:
        """Prints the operators in which the time of work(batches) is spent, and how fast the matrix products are."""
        cuda = self.args.device == "cuda"
        with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda, with_flops=True) as profiler:
            self.timed(work, batches)
        clock = "self_device_time_total" if cuda else "self_cpu_time_total"
        called = [op for op in profiler.key_averages() if op.device_type == DeviceType.CPU]  # with their kernels' time
        ops = {op.key: (getattr(op, clock), op.count) for op in called}
        total = sum(spent for spent, _ in ops.values())
        print(f"\n{self.label}: {title}, {total / 1e3:,.0f} ms of the {'GPU' if cuda else 'CPU'}")
        for key, (spent, calls) in sorted(ops.items(), key=lambda item: -item[1][0])[:14]:
            print(f"  {spent / total:6.1%} {spent / 1e3:9,.1f} ms {calls:>7,} x {spent / calls:8,.0f} us  {key[:64]}")
        products = [op for op in called if op.key in ("aten::mm", "aten::addmm", "aten::bmm")]
        flops, spent = sum(op.flops for op in products), sum(getattr(op, clock) for op in products)
        print(f"  matrix products: {flops / 1e9:,.0f} GFLOP, {flops / spent / 1e3:,.0f} GFLOP/s")


class Run(Decoding):
    """One model, in training and then in decoding."""

    def __init__(self, label: str, model: nn.Module, task, args):
        super().__init__(label, model, task, args)
        self.model.train()
        self.rates = {"training": [], "decoding": [], "tokens": []}
        self.criterion = LabelSmoothedCrossEntropyCriterion(task, sentence_avg=False, label_smoothing=0.1)
        cfg = FairseqAdamConfig(lr=[1e-4], adam_betas="(0.9, 0.98)", tpu=False)
        self.optimizer = FairseqAdam(cfg, [parameter for parameter in model.parameters() if parameter.requires_grad])

    def train(self, batches) -> int:
        """One update a batch. Returns the target tokens."""
        for sample in batches:
            with torch.autocast(self.args.device, torch.bfloat16, enabled=self.args.amp):
                loss, tokens, _ = self.criterion(self.model, sample)
            self.optimizer.backward(loss / tokens)
            self.optimizer.clip_grad_norm(1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return sum(sample["ntokens"] for sample in batches)


UNITS = {"training": "target tokens", "decoding": "sentences", "tokens": "tokens of the best hypotheses"}


def rows_of(runs, key: str) -> "list[dict]":
    """The median rates, with the ratio to the first model, of the models that have been through a round."""
    rows = []
    for run in runs:
        if run.rates[key]:
            median = statistics.median(run.rates[key])
            row = {"model": run.label, "parameters": run.parameters, "median": median, "rounds": run.rates[key]}
            if key == "decoding" and isinstance(run.search, ForcedLengths):
                row["moved"] = run.moved()
            rows.append({**row, "ratio": median / rows[0]["median"] if rows else 1.0})
    return rows


def show(rows: "list[dict]", key: str) -> None:
    print(f"\n{key}, {UNITS[key]} a second")
    width = max(len(row["model"]) for row in rows)
    for row in rows:
        print(f"{row['model']:{width}} {row['parameters']:>11,} parameters {row['median']:>10,.1f}  x {row['ratio']:.2f}")


def summary(rows: "dict[str, list[dict]]") -> "dict[str, str]":
    return {
        f"{key}, {row['model']}": f"{row['median']:,.1f} {UNITS[key]} a second  x {row['ratio']:.2f}"
        for key in rows
        for row in rows[key]
    }


def measure_training(runs, pairs, args, keep) -> None:
    """keep() is called whenever there are more figures."""
    batches = list(batches_of(pairs, args.device, max_tokens=args.max_tokens, shuffle=True, first=20_000))
    for run in runs:
        run.train(batches[: max(2, args.updates // 4)])
    for round_ in range(args.rounds):
        some = [batches[i % len(batches)] for i in range(round_ * args.updates, (round_ + 1) * args.updates)]
        for run in runs:
            tokens, seconds = run.timed(run.train, some)
            run.rates["training"].append(tokens / seconds)
            keep()
    show(rows_of(runs, "training"), "training")
    for run in runs if args.profile else []:
        run.profiled("2 updates", run.train, batches[:2])


def measure_decoding(runs, pairs, args, keep) -> None:
    batches = list(batches_of(pairs, args.device, max_sentences=args.batch_size, first=args.sentences))
    lengths = None if args.checkpoints else torch.tensor(pairs.tgt_sizes, device=args.device).clamp(min=2)
    for run in runs:
        run.start_decoding(lengths)
        run.decode(batches[len(batches) // 2 :][:1])
    for _ in range(args.rounds):
        for run in runs:
            (sentences, tokens), seconds = run.timed(run.decode, batches)
            run.rates["decoding"].append(sentences / seconds)
            if lengths is None:
                run.rates["tokens"].append(tokens / seconds)
            keep()
    for key in ("decoding", "tokens"):
        if rows := rows_of(runs, key):
            show(rows, key)
    for row in rows_of(runs, "decoding") if lengths is not None else []:
        print(f"{row['model']}: {row['moved']:.0%} of the rows go on from another row of their beam")
    for run in runs if args.profile else []:
        run.profiled("one batch", run.decode, batches[len(batches) // 2 :][:1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["transformer", "srupp", "srupp-k2"], help="srupp-kN: k = N")
    parser.add_argument("--checkpoints", nargs="+", help="trained models instead, decoding only; needs --data")
    parser.add_argument("--data", help="folder that fairseq-preprocess wrote")
    parser.add_argument("--source-lang")
    parser.add_argument("--target-lang")
    parser.add_argument("--gen-subset", default="test", help="what is decoded of --data")
    parser.add_argument("--max-tokens", type=int, default=1024, help="of a training batch")
    parser.add_argument("--updates", type=int, default=12, help="in a round; 0: no training")
    parser.add_argument("--sentences", type=int, default=500, help="to decode; 0: no decoding")
    parser.add_argument("--batch-size", type=int, default=32, help="sentences of a decoding batch")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--amp", action="store_true", help="bf16 autocast")
    parser.add_argument("--fp16", action="store_true", help="decoding with everything in fp16, like fairseq-generate --fp16")
    parser.add_argument("--tiny", action="store_true", help="models that tell nothing")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.checkpoints and not args.data:
        parser.error("--checkpoints needs --data")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    size = TINY if args.tiny else Size()
    task, training, decoding = prepared_task(args) if args.data else random_task(max(4000, args.sentences), size.words)
    if args.checkpoints:
        built = [(checkpoint_utils.load_model_ensemble([path], task=task)[0][0], path) for path in args.checkpoints]
    else:
        built = [build(name, task, size) for name in args.models]
    runs = [Run(label, model, task, args) for model, label in built]
    settings = {k: v for k, v in vars(args).items() if k != "json"}
    about = {**environment(args.device), "command": shlex.join(sys.argv), "settings": settings}

    def keep() -> None:
        rows = {key: rows_of(runs, key) for key in UNITS if runs[0].rates[key]}
        save(args.json, {**about, **rows, "summary": summary(rows)})

    if args.updates and not args.checkpoints:
        measure_training(runs, training, args, keep)
    if args.sentences:
        measure_decoding(runs, decoding, args, keep)


if __name__ == "__main__":
    main()
