"""Trains, evaluates and uses a language model and a translation model on text that needs no download.

    python demo.py [--out DIR] [--lm-minutes 3.3] [--mt-minutes 2.5] [--quick]

Run it with the Python that fairseq_srupp is installed in. It starts over each time: what an earlier demo left in
--out is removed first.
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

from runner import Runner, StepFailed

HERE = Path(os.path.relpath(Path(__file__).parent))
MARKER = ".fairseq_srupp-demo"
PROMPTS = ("def main(", "class Error(", "import os", "for i in range(")

LM_MODEL = {"--arch": "srupp_lm", "--hidden-size": "384", "--attention-dim": "96", "--layers": "6", "--dropout": "0.0",
            "--share-decoder-input-output-embed": None}
# Small batches: in a few minutes the number of updates counts for more than what each of them sees.
LM_TEXT = {"--task": "streaming_language_modeling", "--tokens-per-sample": "128", "--batch-size": "4"}
LM_OPTIMIZER = {"--optimizer": "radam", "--adam-betas": "(0.9, 0.98)", "--lr": "0.004", "--clip-norm": "1.0"}
MT_MODEL = {"--arch": "srupp_transformer", "--hidden-size": "256", "--attention-dim": "64", "--encoder-layers": "2",
            "--decoder-layers": "2", "--dropout": "0.05", "--share-all-embeddings": None}
MT_TEXT = {"--source-lang": "de", "--target-lang": "en", "--max-tokens": "500"}
MT_OPTIMIZER = {"--optimizer": "radam", "--adam-betas": "(0.9, 0.98)", "--lr": "0.004", "--clip-norm": "1.0",
                "--criterion": "label_smoothed_cross_entropy", "--label-smoothing": "0.1"}


@dataclass
class Result:
    """What a task took and gave."""

    task: str
    parameters: str
    training: str
    speed: str
    score: str


def language_model(runner: Runner, out: Path, seconds: float, quick: bool) -> Result:
    """Bytes of the standard library: train, score, write."""
    text, data, checkpoints = out / "text", out / "data", out / "checkpoints"
    sizes = ["--valid-bytes", "2000", "--test-bytes", "2000", "--max-train-bytes", "100000"] if quick else []
    runner.run("text: the Python standard library of this machine",
               ["python", f"{HERE / 'stdlib_text.py'}", "--output", f"{text}", *sizes], out / "text.log")
    files = [word for split in ("train", "valid", "test") for word in (f"--{split}", f"{text / split}.txt")]
    runner.run("data: one token a byte", ["python", "-m", "fairseq_srupp", "prepare-bytes", *files, "--destdir", f"{data}"],
               out / "prepare.log")
    model = LM_MODEL | ({"--hidden-size": "64", "--attention-dim": "32", "--layers": "2"} if quick else {})
    options = [f"{data}", *user_dir(), *words(LM_TEXT | model | LM_OPTIMIZER)]
    result = train(runner, "language model", options, out, seconds, quick)
    output = runner.run("score: bits per byte of the test text",
                        ["fairseq-eval-lm", f"{data}", *user_dir(), "--path", f"{checkpoints / 'checkpoint_best.pt'}",
                         *words(LM_TEXT | {"--tokens-per-sample": "512", "--batch-size": "8"})], out / "eval.log")
    result.score = f"{float(found(r'Loss [(]base 2[)]: ([0-9.]+)', output, out / 'eval.log')):.3f} bits per byte"
    (out / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    output = runner.run("write: continue prompts",
                        ["fairseq-interactive", f"{data}", *user_dir(), "--task", "streaming_language_modeling",
                         "--path", f"{checkpoints / 'checkpoint_best.pt'}", "--bpe", "raw_bytes", "--beam", "1", "--nbest", "1",
                         "--sampling", "--sampling-topp", "0.9", "--temperature", "0.8", "--max-len-b", "20" if quick else "400", "--seed", "1",
                         "--batch-size", str(len(PROMPTS)), "--buffer-size", str(len(PROMPTS)),
                         "--input", f"{out / 'prompts.txt'}"], out / "sample.log")
    samples = re.findall(r"^D-\d+\t\S+\t(.*?)\n(?=P-\d+\t)", output, re.DOTALL | re.MULTILINE)
    (out / "sample.txt").write_text(f"\n{'-' * 80}\n".join(samples) + "\n", encoding="utf-8")
    print("\n".join("    > " + line for line in (samples or ["nothing"])[0].splitlines()[:6]))
    return result


def translation(runner: Runner, out: Path, seconds: float, quick: bool) -> Result:
    """German to English: write the corpus, train, translate, score."""
    corpus, data, checkpoints = out / "corpus", out / "data", out / "checkpoints"
    sizes = ["--train", "600", "--valid", "30", "--test", "30"] if quick else []
    runner.run("text: German-English sentences from a small grammar",
               ["python", f"{HERE / 'corpus.py'}", "--output", f"{corpus}", *sizes], out / "corpus.log")
    prepare = Path(os.path.relpath(HERE.parent / "translation" / "prepare.sh"))
    runner.run("data: joint byte-pair encoding, one dictionary",
               ["bash", f"{prepare}", "de", "en", *(f"{corpus / split}" for split in ("train", "valid", "test")), f"{data}",
                "500" if quick else "2000"], out / "prepare.log")
    model = MT_MODEL | ({"--hidden-size": "64", "--attention-dim": "32"} if quick else {})
    options = [f"{data}", *user_dir(), *words(MT_TEXT | model | MT_OPTIMIZER)]
    result = train(runner, "translation", options, out, seconds, quick)
    output = runner.run("translate the test sentences",
                        ["fairseq-generate", f"{data}", *user_dir(), "--path", f"{checkpoints / 'checkpoint_best.pt'}",
                         "--source-lang", "de", "--target-lang", "en", "--beam", "1" if quick else "5", "--batch-size", "100",
                         "--max-len-a", "1.2", "--max-len-b", "10", "--remove-bpe", "sentencepiece"], out / "generate.log")
    lines = sorted((int(number), text) for number, text in re.findall(r"^H-(\d+)\t\S+\t(.*)$", output, re.MULTILINE))
    hypotheses = [text for _, text in lines]
    (out / "translation.en").write_text("".join(line + "\n" for line in hypotheses), encoding="utf-8")
    output = runner.run("score: detokenised BLEU", ["sacrebleu", f"{corpus / 'test.en'}", "-i", f"{out / 'translation.en'}"],
                        out / "bleu.log")
    bleu = json.loads(found(r"(?s)(\{.*\})", output, out / "bleu.log"))
    result.score = f"{bleu['score']:.1f} BLEU"
    for german, hypothesis in list(zip((corpus / "test.de").read_text(encoding="utf-8").splitlines(), hypotheses))[:4]:
        print(f"    {german}  ->  {hypothesis}")
    print(f"    signature: {bleu['signature']}")
    return result


def train(runner: Runner, task: str, options: list[str], out: Path, seconds: float, quick: bool) -> Result:
    """Trains for about `seconds` with a learning rate that falls to nothing at the end of that time."""
    checkpoints, log = out / "checkpoints", out / "train.log"
    every = 2 if quick else timed_updates(runner, task, options, out, seconds) // 5
    updates = 5 * every  # so that the last validation is at the end
    schedule = {"--lr-scheduler": "cosine", "--warmup-updates": str(max(1, min(100, updates // 10))),
                "--max-update": str(updates), "--stop-time-hours": f"{1.25 * seconds / 3600 + 0.01:.3f}",
                "--validate-interval-updates": str(every), "--save-interval-updates": str(every),
                "--keep-interval-updates": "1", "--no-epoch-checkpoints": None, "--save-dir": f"{checkpoints}",
                "--log-format": "json", "--log-interval": str(max(1, updates // 60))}
    speeds: list[float] = []
    output = runner.run(f"train: {task}, {updates:,} updates", ["fairseq-train", *options, *words(schedule)], log,
                        Progress(updates, speeds))
    minutes = float(found(r"done training in ([0-9.]+) seconds", output, log)) / 60
    parameters = found(r"num\. shared model params: ([0-9,]+)", output, log)
    if not (checkpoints / "checkpoint_best.pt").exists():
        raise StepFailed(f"demo: the training left no {checkpoints / 'checkpoint_best.pt'}; its output: {log}")
    # The median: some intervals hold a validation.
    return Result(task, parameters, f"{minutes:.1f} min", f"{statistics.median(speeds):,.0f}", "")


def timed_updates(runner: Runner, task: str, options: list[str], out: Path, seconds: float) -> int:
    """How many updates this machine makes in `seconds`: the learning rate has to know where the training ends."""
    output = runner.run(f"time: a few updates of the {task}",
                        ["fairseq-train", *options, "--max-update", "60", "--no-save", "--disable-validation",
                         "--log-format", "json", "--log-interval", "30"], out / "timing.log")
    log = [parsed for parsed in map(parse_line, output.splitlines()) if parsed and parsed[0] == "train_inner"]
    if not log or log[-1][2].get("ups", 0) <= 0:
        raise StepFailed(f"demo: no speed to be found in {out / 'timing.log'}")
    return max(20, int(log[-1][2]["ups"] * seconds))


class Progress:
    """Turns lines of fairseq-train's log into one line for the eye, and collects tokens per second in `speeds`."""

    def __init__(self, updates: int, speeds: list[float]):
        self.updates, self.speeds, self.valid = updates, speeds, ""

    def __call__(self, line: str) -> str | None:
        tag, _, stats = parse_line(line) or ("", "", {})
        bits = stats.get("nll_loss", stats.get("loss"))
        if tag == "valid":
            self.valid = f" | valid {bits:.3f} bits"
        elif tag != "train_inner":
            return None
        else:
            self.speeds.append(stats["wps"])
            return (f"update {stats['num_updates']:,.0f} of {self.updates:,} | {bits:.3f} bits per token"
                    f"{self.valid} | {stats['wps']:,.0f} tokens/s")
        return None


def charts(runner: Runner, out: Path) -> list[Path]:
    """The training curves of both tasks, one picture each."""
    pictures = []
    for task in ("lm", "translation"):
        pictures.append(out / f"{task}.png")
        runner.run(f"draw: {pictures[-1]}",
                   ["python", "-m", "fairseq_srupp", "plot", f"{out / task / 'train.log'}", "--metric", "bits",
                    "--label", task, "--output", f"{pictures[-1]}"], out / task / "plot.log")
    return pictures


def table(results: list[Result]) -> str:
    """The results, a line each."""
    rows = [("task", "parameters", "training", "tokens/s", "test score"),
            *((r.task, r.parameters, r.training, r.speed, r.score) for r in results)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def user_dir() -> list[str]:
    folder = Path(importlib.util.find_spec("fairseq_srupp").origin).parent
    near = os.path.relpath(folder)
    return ["--user-dir", str(folder) if near.startswith("..") else near]


def words(options: dict[str, str | None]) -> list[str]:
    return [word for name, value in options.items() for word in ([name] if value is None else [name, value])]


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
            shutil.rmtree(out / name, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).touch()
    except OSError as error:
        raise StepFailed(f"demo: {error.filename}: {error.strerror}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for all results (default: demo-out)")
    parser.add_argument("--lm-minutes", type=float, default=3.3, help="training of the language model (default: 3.3)")
    parser.add_argument("--mt-minutes", type=float, default=2.5, help="training of the translation model (default: 2.5)")
    parser.add_argument("--quick", action="store_true", help="tiny models, a few updates: only to see that all works")
    args = parser.parse_args()
    if min(args.lm_minutes, args.mt_minutes) <= 0:
        parser.error("minutes must be above 0")
    fresh_folder(args.out)
    started = time.monotonic()
    runner = Runner(12 if args.quick else 14)
    try:
        results = [language_model(runner, args.out / "lm", 60 * args.lm_minutes, args.quick),
                   translation(runner, args.out / "translation", 60 * args.mt_minutes, args.quick)]
        pictures = charts(runner, args.out)
    except KeyboardInterrupt:
        raise SystemExit("\ndemo: stopped") from None
    text = table(results)
    (args.out / "results.txt").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nafter {(time.monotonic() - started) / 60:.1f} minutes; in {args.out}:")
    files = {"checkpoints": "*/checkpoints/*_best.pt", "training logs": "*/train.log", "text it wrote": "lm/sample.txt",
             "translations": "translation/translation.en"}
    for what, pattern in files.items():
        print(f"    {what}: " + ", ".join(str(path.relative_to(args.out)) for path in sorted(args.out.glob(pattern))))
    print("    training curves: " + ", ".join(path.name for path in pictures) + "\n    this table: results.txt")


if importlib.util.find_spec("fairseq_srupp") is None:
    raise SystemExit(f"demo: {sys.executable} has no fairseq_srupp; run `make setup`, then .venv/bin/python {HERE / 'demo.py'}")
from fairseq_srupp.cli.plot import parse_line  # noqa: E402  (says what to do where it is missing)

if __name__ == "__main__":
    main()
