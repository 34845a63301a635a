"""Trains, evaluates and uses a language model and a translation model on text that needs no download.

    python demo.py [--out DIR] [--lm-minutes 3.3] [--mt-minutes 2.5] [--quick]

Run it with the Python that fairseq_srupp is installed in. It starts over each time: what an earlier demo left
in --out is removed first.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from runner import Runner, StepFailed

HERE = Path(os.path.relpath(Path(__file__).parent))
MARKER = ".fairseq_srupp-demo"
PROMPTS = ("def main(", "class Error(", "import os", "for i in range(")

# Small batches: in a few minutes the number of updates counts for more than what each of them sees.
OPTIMIZER = "--optimizer radam --adam-betas '(0.9, 0.98)' --lr 0.004 --clip-norm 1.0"
LM_MODEL = "--arch srupp_lm --hidden-size 384 --attention-dim 96 --layers 6"
LM_OPTIONS = "--dropout 0.0 --share-decoder-input-output-embed --tokens-per-sample 128 --batch-size 4"
MT_MODEL = "--arch srupp_transformer --hidden-size 256 --attention-dim 64 --encoder-layers 2 --decoder-layers 2"
MT_OPTIONS = (
    "--dropout 0.05 --share-all-embeddings --max-tokens 500 --criterion label_smoothed_cross_entropy --label-smoothing 0.1"
)
QUICK_LM_MODEL = "--arch srupp_lm --hidden-size 64 --attention-dim 32 --layers 2"
QUICK_MT_MODEL = "--arch srupp_transformer --hidden-size 64 --attention-dim 32 --encoder-layers 1 --decoder-layers 1"


@dataclass
class Result:
    """What a task took and gave."""

    task: str
    parameters: str
    training: str
    speed: str
    score: str = ""


def language_model(runner: Runner, out: Path, seconds: float, quick: bool) -> Result:
    """Bytes of the standard library: train, score, write."""
    folder = quote(str(out))
    sizes = " --valid-bytes 10000 --test-bytes 10000 --max-train-bytes 100000" if quick else ""
    runner.run(
        "text: the Python standard library of this machine",
        f"python {quote(str(HERE / 'stdlib_text.py'))} --output {folder}/text{sizes}",
        out / "text.log",
    )
    files = " ".join(f"--{split} {folder}/text/{split}.txt" for split in ("train", "valid", "test"))
    runner.run(
        "data: one token a byte",
        f"python -m fairseq_srupp prepare-bytes {files} --destdir {folder}/data",
        out / "prepare.log",
    )
    task = f"{folder}/data {user_dir()} --task streaming_language_modeling"
    options = f"{task} {QUICK_LM_MODEL if quick else LM_MODEL} {LM_OPTIONS} {OPTIMIZER}"
    result = train(runner, "language model", options, out, seconds, quick)

    model = f"{task} --path {folder}/checkpoints/checkpoint_best.pt"
    log = out / "eval.log"
    output = runner.run(
        "score: bits per byte of the test text",
        f"fairseq-eval-lm {model} --tokens-per-sample 512 --batch-size 8",
        log,
    )
    result.score = f"{float(found(r'Loss [(]base 2[)]: ([0-9.]+)', output, log)):.3f} bits per byte"

    (out / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    output = runner.run(
        "write: continue prompts",
        f"fairseq-interactive {model} --bpe raw_bytes --input {folder}/prompts.txt "
        f"--buffer-size {len(PROMPTS)} --batch-size {len(PROMPTS)} --beam 1 --nbest 1 --sampling "
        f"--sampling-topp 0.9 --temperature 0.8 --max-len-b {20 if quick else 400} --seed 1",
        out / "sample.log",
    )
    samples = re.findall(r"^D-\d+\t\S+\t(.*?)\n(?=P-\d+\t)", output, re.DOTALL | re.MULTILINE)
    (out / "sample.txt").write_text(f"\n{'-' * 80}\n".join(samples) + "\n", encoding="utf-8")
    print("\n".join("    > " + line for line in (samples or ["nothing"])[0].splitlines()[:6]))
    return result


def translation(runner: Runner, out: Path, seconds: float, quick: bool) -> Result:
    """German to English: write the corpus, train, translate, score."""
    folder = quote(str(out))
    sizes = " --train 600 --valid 30 --test 30" if quick else ""
    runner.run(
        "text: German-English sentences from a small grammar",
        f"python {quote(str(HERE / 'corpus.py'))} --output {folder}/corpus{sizes}",
        out / "corpus.log",
    )
    prepare = os.path.relpath(HERE.parent / "translation" / "prepare.sh")
    splits = " ".join(f"{folder}/corpus/{split}" for split in ("train", "valid", "test"))
    runner.run(
        "data: joint byte-pair encoding, one dictionary",
        f"bash {quote(prepare)} de en {splits} {folder}/data {500 if quick else 2000}",
        out / "prepare.log",
    )
    task = f"{folder}/data {user_dir()} --source-lang de --target-lang en"
    options = f"{task} {QUICK_MT_MODEL if quick else MT_MODEL} {MT_OPTIONS} {OPTIMIZER}"
    result = train(runner, "translation", options, out, seconds, quick)

    output = runner.run(
        "translate the test sentences",
        f"fairseq-generate {task} --path {folder}/checkpoints/checkpoint_best.pt --beam 5 --batch-size 100 "
        "--max-len-a 1.2 --max-len-b 10 --remove-bpe sentencepiece",
        out / "generate.log",
    )
    lines = re.findall(r"^H-(\d+)\t\S+\t(.*)$", output, re.MULTILINE)
    hypotheses = [text for _, text in sorted((int(number), text) for number, text in lines)]
    (out / "translation.en").write_text("".join(line + "\n" for line in hypotheses), encoding="utf-8")

    log = out / "bleu.log"
    output = runner.run("score: detokenised BLEU", f"sacrebleu {folder}/corpus/test.en -i {folder}/translation.en", log)
    bleu = json.loads(found(r"(?s)(\{.*\})", output, log))
    result.score = f"{bleu['score']:.1f} BLEU"
    sources = (out / "corpus" / "test.de").read_text(encoding="utf-8").splitlines()
    for german, english in list(zip(sources, hypotheses))[:4]:
        print(f"    {german}  ->  {english}")
    print(f"    signature: {bleu['signature']}")
    return result


def train(runner: Runner, task: str, options: str, out: Path, seconds: float, quick: bool) -> Result:
    """Trains for about `seconds` with a learning rate that falls to nothing at the end of that time."""
    every = 2 if quick else timed_updates(runner, task, options, out, seconds) // 5
    updates = 5 * every  # so that the last validation is at the end
    log, speeds = out / "train.log", []
    output = runner.run(
        f"train: {task}, {updates:,} updates",
        f"fairseq-train {options} --lr-scheduler cosine --warmup-updates {min(200, every // 2)} "
        f"--max-update {updates} --stop-time-hours {1.25 * seconds / 3600 + 0.01:.3f} "
        f"--validate-interval-updates {every} --save-interval-updates {every} --keep-interval-updates 1 "
        f"--no-epoch-checkpoints --save-dir {quote(str(out / 'checkpoints'))} "
        f"--log-format json --log-interval {max(1, updates // 100)}",
        log,
        Progress(updates, speeds),
    )
    if not speeds or not (out / "checkpoints" / "checkpoint_best.pt").exists():
        raise StepFailed(f"demo: the training left no statistics or no checkpoint; its output: {log}")
    parameters = found(r"num\. shared model params: ([0-9,]+)", output, log)
    minutes = float(found(r"done training in ([0-9.]+) seconds", output, log)) / 60
    # The median: some intervals hold a validation.
    return Result(task, parameters, f"{minutes:.1f} min", f"{statistics.median(speeds):,.0f}")


def timed_updates(runner: Runner, task: str, options: str, out: Path, seconds: float) -> int:
    """How many updates this machine makes in `seconds`: the learning rate has to know where training ends."""
    log = out / "timing.log"
    output = runner.run(
        f"time: a few updates of the {task}",
        f"fairseq-train {options} --max-update 60 --no-save --disable-validation --log-format json --log-interval 30",
        log,
    )
    stats = [parsed[2] for parsed in map(parse_line, output.splitlines()) if parsed and parsed[0] == "train_inner"]
    if not stats or stats[-1].get("ups", 0) <= 0:
        raise StepFailed(f"demo: no speed to be found in {log}")
    return max(20, int(stats[-1]["ups"] * seconds))


class Progress:
    """Turns lines of fairseq-train's log into one for the eye; collects tokens per second in `speeds`."""

    def __init__(self, updates: int, speeds: list[float]):
        self.updates, self.speeds, self.valid = updates, speeds, ""

    def __call__(self, line: str) -> str | None:
        tag, _, stats = parse_line(line) or ("", "", {})
        bits = stats.get("nll_loss", stats.get("loss"))
        if tag == "valid":
            self.valid = f" | valid {bits:.3f} bits"
        elif tag == "train_inner":
            self.speeds.append(stats["wps"])
            return (
                f"update {stats['num_updates']:,.0f} of {self.updates:,} | {bits:.3f} bits per token"
                f"{self.valid} | {stats['wps']:,.0f} tokens/s"
            )
        return None


def charts(runner: Runner, out: Path) -> list[Path]:
    """The training curves of both tasks, one picture each."""
    pictures = [out / "lm.png", out / "translation.png"]
    for picture in pictures:
        log = quote(str(out / picture.stem / "train.log"))
        runner.run(
            f"draw: {picture}",
            f"python -m fairseq_srupp plot {log} --metric bits --label {picture.stem} --output {quote(str(picture))}",
            out / picture.stem / "plot.log",
        )
    return pictures


def table(results: list[Result]) -> str:
    """The results, a line each."""
    rows = [("task", "parameters", "training", "tokens/s", "test score")]
    rows += [(r.task, r.parameters, r.training, r.speed, r.score) for r in results]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def user_dir() -> str:
    folder = Path(importlib.util.find_spec("fairseq_srupp").origin).parent
    near = os.path.relpath(folder)
    return "--user-dir " + quote(str(folder) if near.startswith("..") else near)


def found(pattern: str, text: str, log: Path) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise StepFailed(f"demo: what was looked for is not in the output: {log}")
    return match.group(1)


def fresh_folder(out: Path) -> None:
    """Makes `out`, or empties it of an earlier demo; a folder of anything else is left alone.

    Raises:
        StepFailed: `out` holds something else or cannot be written.
    """
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir()) and not (out / MARKER).exists()):
            raise StepFailed(f"demo: {out} holds something else; name another folder with --out")
        for name in ("lm", "translation"):
            if (out / name).exists():
                shutil.rmtree(out / name)
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).touch()
        (out / ".gitignore").write_text("*\n")
    except OSError as error:
        raise StepFailed(f"demo: {error.filename}: {error.strerror}") from error


def report(results: list[Result], out: Path, seconds: float) -> None:
    """The table, on screen and in results.txt, and where everything lies."""
    text = table(results)
    (out / "results.txt").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nafter {seconds / 60:.1f} minutes; in {out}:")
    files = {
        "checkpoints": "*/checkpoints/*_best.pt",
        "training logs": "*/train.log",
        "training curves": "*.png",
        "text it wrote": "lm/sample.txt",
        "translations": "translation/translation.en",
        "this table": "results.txt",
    }
    for what, pattern in files.items():
        print(f"    {what}: " + ", ".join(str(path.relative_to(out)) for path in sorted(out.glob(pattern))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for the results (default: demo-out)")
    for option, task, minutes in (("--lm-minutes", "language", 3.3), ("--mt-minutes", "translation", 2.5)):
        parser.add_argument(option, type=float, default=minutes, help=f"training of the {task} model (default: {minutes})")
    parser.add_argument("--quick", action="store_true", help="tiny models, few updates: only to see that all works")
    args = parser.parse_args()
    if min(args.lm_minutes, args.mt_minutes) <= 0:
        parser.error("minutes must be above 0")
    fresh_folder(args.out)
    started = time.monotonic()
    runner = Runner(12 if args.quick else 14)
    try:
        results = [
            language_model(runner, args.out / "lm", 60 * args.lm_minutes, args.quick),
            translation(runner, args.out / "translation", 60 * args.mt_minutes, args.quick),
        ]
        charts(runner, args.out)
    except KeyboardInterrupt:
        raise SystemExit("\ndemo: stopped") from None
    report(results, args.out, time.monotonic() - started)


if importlib.util.find_spec("fairseq_srupp") is None:
    raise SystemExit(f"demo: {sys.executable} has no fairseq_srupp; run `make setup`, then `make demo`")
from fairseq_srupp.cli.plot import parse_line  # noqa: E402  (only once it is known to be there)

if __name__ == "__main__":
    main()
