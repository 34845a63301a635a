"""Decoding on a CPU, in turns: what srupp_transformer and srupp_lm cost whom they serve, beside what is deployed otherwise.

    python examples/benchmarks/decoding.py [--part translation text] [--threads 1 2] [--profile] [--json FILE]
    python examples/benchmarks/decoding.py --checkpoints OURS THEIRS --data DIR

Translation, sentences a second: fairseq's transformer_iwslt_de_en by fairseq (fp32) and, if it is installed (pip install
ctranslate2), by CTranslate2 (fp32, int8; converted from the same checkpoint); srupp_transformer of as many parameters by
fairseq (fp32, bf16, int8), with attention in each layer and, as the recipe of examples/translation, in every second one. 6 + 6
layers, 39.5M parameters, beam 5, the same batches of 32 sentences for all, which are as long as multi30k's. The weights are
untrained, and CTranslate2 can force one length on a batch alone: every hypothesis has 20 tokens, the last of which is the end
of the sentence, with CTranslate2 another word. All of them take 20 steps with the whole beam. CTranslate2 reads sentences as
lists of words, fairseq as tensors; both are prepared before. With --checkpoints: trained models, real sentences that end where
the model ends them, the same beam and length penalty for all, and BLEU. "as fairseq" tells how many of CTranslate2's
translations are fairseq's (of forced ones, whose last word differs, the first half); without 95 % of a trained model in fp32
there are no figures.

Text, tokens a second: fairseq's transformer_lm (fp32) and srupp_lm (fp32, bf16, int8) of 4.8M parameters, sampled by fairseq
from the 10 most likely symbols, 1 and 16 texts at once, 256 tokens each.

Ours is in int8 and bf16 as fairseq-generate has it with --model-overrides "{'int8': True}" and --bf16.
"""

import argparse
import copy
import itertools
import shlex
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Callable

import sacrebleu
import torch
from ctranslated import TYPES, CTranslate2, convert, version
from fairseq import checkpoint_utils
from fairseq.data.data_utils import post_process
from generation import REGIONS, generate
from language_models import SMALL, SMALL_TRANSFORMER, parameters_of, srupp_lm, task_of, transformer_lm
from machine import environment, save, show_regions, time_by_region
from translation import TINY, Decoding, Size, batches_of, build, prepared_task, random_task

WORDS = 7776  # of each side: 39.5M parameters
MULTI30K = {"mean": 15.0, "spread": 0.32}  # lengths of source sentences of its test set in 8,000 pieces
FORCED = 20
UNITS = {"translation": "sentences", "text": "tokens"}


class Case:
    """One model in one setting. work(some) decodes some of it or everything, and returns how many sentences or tokens."""

    def __init__(self, part: str, threads: int, batch: int, about: dict, work: "Callable[[bool], int]", run=None):
        self.setting, self.about, self.work, self.run = {"part": part, "threads": threads, "batch": batch}, about, work, run
        self.rates, self.more = [], {}

    def timed(self, some: bool) -> float:
        """Sentences or tokens a second."""
        torch.set_num_threads(self.setting["threads"])
        time.sleep(0.02)  # threads of the one before wait actively for a while
        begin = time.perf_counter()
        return self.work(some) / (time.perf_counter() - begin)

    def profile(self) -> None:
        torch.set_num_threads(self.setting["threads"])
        self.more["profile"] = time_by_region(lambda: self.work(True), REGIONS)


def in_precision(model, precision: str):
    """A copy, for evaluation."""
    model = copy.deepcopy(model)
    if precision == "int8":
        model.int8 = True
    return (model.bfloat16() if precision == "bf16" else model).eval()


class Fairseq(Decoding):
    """fairseq's or our model in translation by fairseq, started."""

    def __init__(self, label: str, model, precision: str, pairs, task, args):
        super().__init__(label, in_precision(model, precision), task, args)
        self.start_decoding(None if args.checkpoints else torch.full((len(pairs),), args.length))

    def words(self) -> "dict[int, list[str]]":
        """The best hypothesis of each pair, by its index."""
        return {i: words_of(tokens, self.dictionary) for i, tokens in self.found.items()}


def words_of(tokens, dictionary) -> "list[str]":
    return [dictionary[i] for i in tokens.tolist() if i != dictionary.eos()]


def translation(args, folder: str) -> "tuple[list[Case], dict[int, list[str]]]":
    """The cases, and the words of the references by index."""
    size = TINY if args.tiny else Size(words=WORDS)
    task, _, pairs = prepared_task(args) if args.data else random_task(args.sentences, size.words, **MULTI30K)
    if args.checkpoints:
        names = ["/".join(Path(path).parts[-2:]) for path in args.checkpoints]
        models = [checkpoint_utils.load_model_ensemble([path], task=task)[0][0] for path in args.checkpoints]
        *ours, theirs = zip(models, names)
    else:
        names = ("srupp",) if args.tiny else ("srupp", "srupp-k2")
        ours, theirs = [build(name, task, size) for name in names], build("transformer", task, size)
    batches = list(batches_of(pairs, "cpu", max_sentences=args.batch_size, first=args.sentences))
    middle = batches[len(batches) // 2 :][:1]

    def case(threads: int, by: str, model, label: str, precision: str, run) -> Case:
        def work(some: bool) -> int:
            return run.decode(middle if some else batches)[0]

        about = {"model": label, "by": by, "precision": precision, "parameters": parameters_of(model)}
        return Case("translation", threads, args.batch_size, about, work, run)

    wanted = [("fairseq", *theirs, "fp32")]
    wanted += [("fairseq_srupp", *each, precision) for each in ours for precision in ("fp32", "bf16", "int8")]
    first, *others = [(*how, Fairseq(how[2], how[1], how[3], pairs, task, args)) for how in wanted]
    converted, cases = convert(theirs[0].eval(), task, size, args, folder) if version() else None, []
    limits = {"beam": args.beam, "length": None if args.checkpoints else args.length, "longest": Decoding.longest}
    for threads in args.threads:
        cases.append(case(threads, *first))
        for precision in TYPES if converted else ():
            run = CTranslate2(converted, precision, threads, task.source_dictionary, **limits)
            run.prepare(batches)
            cases.append(case(threads, "CTranslate2", *theirs, precision, run))
        cases += [case(threads, *how) for how in others]
    indices = [int(i) for sample in batches for i in sample["id"]]
    return cases, {i: words_of(pairs[i]["target"], task.target_dictionary) for i in indices}


def judge(cases: "list[Case]", references: "dict[int, list[str]]", args) -> None:
    """Adds how many of CTranslate2's translations are fairseq's (of forced ones, the first half), and of trained models BLEU
    and the mean length."""
    expected, compared = cases[0].run.words(), None if args.checkpoints else args.length // 2
    for case in cases:
        found = case.run.words()
        if case.about["by"] == "CTranslate2":
            case.more["same"] = statistics.mean(found[i][:compared] == expected[i][:compared] for i in references)
        if args.checkpoints:
            if case.about["precision"] == "fp32" and case.more.get("same", 1) < 0.95:
                raise SystemExit(f"CTranslate2 has only {case.more['same']:.1%} of fairseq's translations: no figures")
            texts = [[post_process(" ".join(words[i]), args.post_process) for i in references] for words in (found, references)]
            case.more["bleu"] = sacrebleu.corpus_bleu(texts[0], [texts[1]]).score
            case.more["tokens"] = statistics.mean(len(words) + 1 for words in found.values())


def text(args) -> "list[Case]":
    task, small = task_of(209), {"hidden_size": 64, "attention_dim": 16, "layers": 2} if args.tiny else {}
    ours = srupp_lm(task, **{**SMALL, **small}, mem_len=args.tokens)
    theirs = transformer_lm(task, args.tokens + 2, **{**SMALL_TRANSFORMER, "layers": 1 if args.tiny else 6})
    wanted = [("fairseq", "transformer_lm", theirs, "fp32")]
    wanted += [("fairseq_srupp", "srupp_lm", ours, precision) for precision in ("fp32", "bf16", "int8")]
    models = [in_precision(model, precision) for _, _, model, precision in wanted]
    for model in models:
        model.prepare_for_inference_(Namespace(generation=Namespace(beam=1)))

    def case(threads: int, rows: int, model, by: str, label: str, of, precision: str) -> Case:
        def work(some: bool) -> int:
            tokens = min(32, args.tokens) if some else args.tokens
            generate(model, task.target_dictionary, rows, tokens, "cpu")
            return rows * tokens

        about = {"model": label, "by": by, "precision": precision, "parameters": parameters_of(of)}
        return Case("text", threads, rows, about, work)

    settings = itertools.product(args.threads, args.batch, zip(models, wanted))
    return [case(threads, rows, model, *how) for threads, rows, (model, how) in settings]


def rows_of(cases: "list[Case]") -> "list[dict]":
    """With the ratios to fairseq's own model and to CTranslate2 of the same precision."""
    rows = []
    for case in (case for case in cases if case.rates):
        row = {**case.setting, **case.about, "median": statistics.median(case.rates), "rounds": case.rates, **case.more}
        for other in cases:
            by, alike = other.about["by"], other.about["precision"] == row["precision"]
            if other.rates and other.setting == case.setting and (by == "fairseq" or by == "CTranslate2" and alike):
                row[f"to {by}"] = row["median"] / statistics.median(other.rates)
        rows.append(row)
    return rows


def summary(rows: "list[dict]") -> "dict[str, str]":
    lines = {}
    for row in rows:
        setting = f"{row['part']}, threads {row['threads']}, batch {row['batch']}"
        ratios = [f"{row[f'to {by}']:.2f} x {by}" for by in ("fairseq", "CTranslate2") if f"to {by}" in row]
        more = [f"BLEU {row['bleu']:.2f}, {row['tokens']:.1f} tokens"] if "bleu" in row else []
        more += [f"{row['same']:.1%} as fairseq"] if "same" in row else []
        lines[f"{setting}: {row['model']} by {row['by']}, {row['precision']}"] = ", ".join(
            [f"{row['median']:,.1f} {UNITS[row['part']]} a second", *ratios, *more]
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=list(UNITS), default=list(UNITS))
    parser.add_argument("--checkpoints", nargs=2, metavar=("OURS", "THEIRS"), help="trained models, translation only")
    parser.add_argument("--data", help="folder that fairseq-preprocess wrote")
    parser.add_argument("--gen-subset", default="test", help="what is translated of --data")
    parser.add_argument("--post-process", default="sentencepiece", help="fairseq's name of the pieces, for BLEU")
    parser.add_argument("--sentences", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32, help="sentences of a batch")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="texts at once")
    parser.add_argument("--tokens", type=int, default=256, help="of a text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tiny", action="store_true", help="sizes that tell nothing")
    parser.add_argument("--profile", action="store_true", help="where the time goes, with the first number of threads")
    parser.add_argument("--json", type=Path)
    parser.set_defaults(source_lang=None, target_lang=None, device="cpu", amp=False, fp16=False, length=FORCED)
    args = parser.parse_args()
    if bool(args.checkpoints) != bool(args.data):
        parser.error("--checkpoints and --data go together")
    if args.checkpoints:
        args.part = ["translation"]
    if args.tiny:
        args.sentences, args.batch_size, args.rounds, args.length, args.tokens = 4, 2, 1, 4, 4
        Decoding.longest = 24
    if "translation" in args.part and not version():
        print("CTranslate2 is left out, as it is not installed: pip install ctranslate2", file=sys.stderr)
    settings = {name: value for name, value in vars(args).items() if name != "json"}
    about = {**environment("cpu"), "threads": args.threads, "ctranslate2": version()}
    about.update(command=shlex.join(sys.argv), settings=settings)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        cases, references = translation(args, folder) if "translation" in args.part else ([], {})
    cases += text(args) if "text" in args.part else []

    def keep() -> "list[dict]":
        rows = rows_of(cases)
        save(args.json, {**about, "rows": rows, "summary": summary(rows)})
        return rows

    for case in cases:
        case.timed(some=True)
    for _ in range(args.rounds):
        for case in cases:
            case.rates.append(case.timed(some=False))
            keep()
    if references:
        judge([case for case in cases if case.run], references, args)
    print(*(f"{name}: {line}" for name, line in summary(keep()).items()), sep="\n")
    for case in cases if args.profile else []:  # last: a profiler slows down what comes after it
        if case.about["by"] != "CTranslate2" and case.setting["threads"] == args.threads[0]:
            case.profile()
            keep()
            print(f"\n{case.about['model']}, {case.about['precision']}, batch {case.setting['batch']}")
            show_regions(case.more["profile"])


if __name__ == "__main__":
    main()
