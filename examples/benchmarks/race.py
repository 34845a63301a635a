"""Real training for a fixed time: validation loss against seconds, srupp_lm and transformer_lm of 42M parameters on bytes.

    python examples/benchmarks/race.py [--seconds 120] [--text FILE] [--parallel-text DIR] [--device cuda] [--json FILE]

srupp_lm has the sizes of the paper's small enwik8 model, 24 rows of 512 bytes, 512 of memory, RAdam; transformer_lm, pre-norm,
as many parameters, 12 rows of 1024 bytes, AdamW. Both: bf16 autocast, gradients clipped at 1, a learning rate that rises
for a twentieth of the time and then falls to 0 like a cosine, by the clock. The clock stands still while the validation
text is scored, the same bytes by both: by srupp_lm each with the 512 bytes before it in its window, by transformer_lm with
512 to 1023. Text by default: the Python sources of torch; else FILE (.xz too), whose last 100,000 bytes or twentieth
validate.

With a folder that fairseq-preprocess wrote, also srupp_transformer and fairseq's transformer, as in translation.py: bits of
a target token.
"""

import argparse
import lzma
import math
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import translation
from fairseq.optim import FairseqOptimizer
from language_models import (
    Batch,
    batch_of,
    equal_transformer_lm,
    make_update,
    mean_loss,
    parameters_of,
    preset,
    srupp_lm,
    task_of,
)
from machine import ROOT, environment, save, synchronize
from recurrence import usable_device

from fairseq_srupp.optim.radam import FairseqRAdam, FairseqRAdamConfig

sys.path.append(str(ROOT / "examples" / "quickstart"))
import stdlib_text  # noqa: E402

FIRST = 4  # symbol of byte 0: fairseq's own symbols stand before
SYMBOLS = FIRST + 256
POINTS = 12  # validations of a run
TINY_POINTS, TINY_VALID = 2, 600
VALID_ROWS = 8


def read_text(path: "Path | None") -> "tuple[bytes, bytes]":
    """Bytes to train on and to validate with."""
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(torch.__file__).parent
            stdlib_text.write_text(library, Path(folder), valid=100_000, test=100_000, most=100_000_000)
            return tuple((Path(folder) / f"{split}.txt").read_bytes() for split in ("train", "valid"))
    text = lzma.open(path).read() if path.suffix == ".xz" else path.read_bytes()
    valid = min(100_000, len(text) // 20)
    return text[:-valid], text[-valid:]


def adam(parameters, **options) -> FairseqOptimizer:
    """torch's fused AdamW, as fairseq's optimizers are called."""
    optimizer = FairseqOptimizer(None)
    optimizer._optimizer = torch.optim.AdamW(parameters, fused=True, **options)
    return optimizer


def radam(parameters, weight_decay: float, betas: str = "(0.9, 0.999)") -> FairseqOptimizer:
    return FairseqRAdam(FairseqRAdamConfig(lr=[0.0], weight_decay=weight_decay, adam_betas=betas), parameters)


class LanguageModel:
    """One language model and the text that it reads."""

    measure = "bits_per_byte"

    def __init__(self, name: str, text: torch.Tensor, valid: torch.Tensor, args):
        self.name, self.text, self.args, self.lr = name, text, args, args.lr
        self.streaming, self.updates, self.length, self.rows = name == "srupp_lm", 0, 512, 24
        options, task = preset("srupp_lm_enwik8_small"), task_of(SYMBOLS)
        if args.tiny:
            options |= {"hidden_size": 32, "attention_dim": 8, "layers": 2}
            self.length, self.rows = 16, 4
        valid_segments = (len(valid) - 1) // (VALID_ROWS * self.length)
        self.valid = valid[: 1 + valid_segments * VALID_ROWS * self.length]
        with torch.device(args.device):
            model = srupp_lm(task, **options, mem_len=self.length)
            if not self.streaming:
                self.length, self.rows = 2 * self.length, self.rows // 2
                model = equal_transformer_lm(task, self.length, parameters_of(model), options)
        self.model = model.to(args.device).train()
        self.parameters, parameters = parameters_of(model), list(model.parameters())
        self.optimizer = radam(parameters, 0.1) if self.streaming else adam(parameters, betas=(0.9, 0.98), weight_decay=0.1)

    def _segment(self, text: torch.Tensor, rows: int, segment: int) -> Batch:
        return self._at(text, torch.arange(rows) * ((len(text) - 1) // rows) + segment * self.length)

    def _at(self, text: torch.Tensor, starts: torch.Tensor) -> Batch:
        """Rows of L symbols from these places, and what follows them."""
        return batch_of(text[starts.unsqueeze(1) + torch.arange(self.length + 1)].long() + FIRST, self.args.device)

    def _autocast(self):
        return torch.autocast(torch.device(self.args.device).type, dtype=torch.bfloat16)

    def update(self, lr: float) -> int:
        """Returns the tokens."""
        stream = ()
        if self.streaming:
            segments = (len(self.text) - 1) // self.rows // self.length
            epoch, segment = divmod(self.updates, segments)
            batch, stream = self._segment(self.text, self.rows, segment), ("train", epoch, segment)
        else:
            batch = self._at(self.text, torch.randint(len(self.text) - self.length, (self.rows,)))
        self.optimizer.set_lr(lr)
        make_update(self.model, self.optimizer, batch, self.updates, stream=stream)
        self.updates += 1
        return batch.target.numel()

    @torch.no_grad()
    def validate(self) -> float:
        self.model.eval()
        with self._autocast():
            total = self._streamed_loss() if self.streaming else self._block_loss()
        self.model.train()
        return total.item() / (len(self.valid) - 1) / math.log(2)

    def _streamed_loss(self) -> torch.Tensor:
        total = torch.zeros((), device=self.args.device)
        for segment in range((len(self.valid) - 1) // VALID_ROWS // self.length):
            batch = self._segment(self.valid, VALID_ROWS, segment)
            total += mean_loss(self.model, batch, stream=("valid", self.updates, segment)) * batch.target.numel()
        return total

    def _block_loss(self) -> torch.Tensor:
        """Of blocks that overlap by half; but for the first, only the second half counts."""
        half, total = self.length // 2, torch.zeros((), device=self.args.device)
        starts = torch.arange(0, len(self.valid) - self.length, half)
        for number, some in enumerate(starts.split(16)):
            batch = self._at(self.valid, some)
            scores = self.model(batch.inputs)[0].float()
            losses = F.cross_entropy(scores.transpose(1, 2), batch.target, reduction="none")
            total += losses[:, half:].sum() + (losses[0, :half].sum() if number == 0 else 0)
        return total


class Translation:
    """One encoder-decoder; batches are made once, for both."""

    measure = "bits_per_token"

    def __init__(self, name: str, task, batches: list, valid: list, args):
        self.batches, self.valid, self.updates = batches, valid, 0
        model, self.name = translation.build(name, task, translation.TINY if args.tiny else translation.Size())
        self.run = translation.Run(self.name, model, task, Namespace(device=args.device, amp=True, fp16=False))
        self.parameters, parameters = parameters_of(model), [p for p in model.parameters() if p.requires_grad]
        if name == "transformer":
            self.lr, self.run.optimizer = 5e-4, adam(parameters, betas=(0.9, 0.98), weight_decay=1e-4)
        else:
            self.lr, self.run.optimizer = 1e-3, radam(parameters, 0.01, "(0.9, 0.98)")

    def update(self, lr: float) -> int:
        passes, number = divmod(self.updates, len(self.batches))
        if number == 0:
            self.order = np.random.default_rng(passes).permutation(len(self.batches))
        self.run.optimizer.set_lr(lr)
        self.updates += 1
        return self.run.train([self.batches[self.order[number]]])

    @torch.no_grad()
    def validate(self) -> float:
        self.run.model.eval()
        total = tokens = 0
        for sample in self.valid:
            with torch.autocast(self.run.args.device, torch.bfloat16):
                _, count, logged = self.run.criterion(self.run.model, sample)
            total, tokens = total + logged["nll_loss"], tokens + count
        self.run.model.train()
        return float(total) / tokens / math.log(2)


def rate(fraction: float) -> float:
    """The learning rate, of its peak, when a fraction of the time has gone."""
    return min((fraction + 0.001) / 0.05, 0.5 + 0.5 * math.cos(math.pi * min(max(fraction - 0.05, 0) / 0.95, 1)))


def race(runner, seconds: float, count: int, device: str, keep) -> None:
    """Trains for so many seconds of the clock, which stands still in `count` validations; keep(points) after each one."""
    at_once = 1 if device == "cpu" else 10  # updates between two looks at the clock, for which a GPU has to wait
    points, spent, tokens, begin = [], 0.0, 0, time.perf_counter()
    while spent < seconds:
        for _ in range(at_once):
            tokens += runner.update(runner.lr * rate(spent / seconds))
        synchronize(device)
        now = time.perf_counter()
        spent, begin = spent + now - begin, now
        if spent >= min(seconds, seconds / count * (len(points) + 1)):
            loss = runner.validate()
            points.append({"seconds": spent, "updates": runner.updates, "tokens": tokens, runner.measure: loss})
            print(f"{runner.name:28}{spent:8.1f} s {tokens:>13,} tokens {loss:8.4f} {runner.measure}", flush=True)
            keep(points)
            begin = time.perf_counter()


def runners(args):
    """Functions that make those that run, in turn, so that one's memory is free before the next begins."""
    train, valid = (torch.frombuffer(bytearray(text), dtype=torch.uint8) for text in read_text(args.text))
    valid = valid[:TINY_VALID] if args.tiny else valid
    made = [lambda name=name: LanguageModel(name, train, valid, args) for name in ("srupp_lm", "transformer_lm")]
    if args.parallel_text:
        prepared = Namespace(data=str(args.parallel_text), gen_subset="valid", checkpoints=None)
        prepared.source_lang = prepared.target_lang = None
        task, *pairs = translation.prepared_task(prepared)
        batches, valid_batches = (list(translation.batches_of(side, args.device, max_tokens=4096)) for side in pairs)
        names = "srupp", "transformer"
        made += [lambda name=name: Translation(name, task, batches, valid_batches, args) for name in names]
    return made


def summary(runs: "list[dict]") -> "dict[str, str]":
    """Of each run the last loss, and when the first one of its kind had come as far as this one at its end."""
    lines = {}
    for run in (run for run in runs if run["points"]):
        last, measure = run["points"][-1], run["measure"]
        text = f"{last[measure]:.4f} {measure} after {last['seconds']:.0f} s, {last['tokens'] / last['seconds']:,.0f} tokens/s"
        first = next(other for other in runs if other["measure"] == measure)
        as_good = [point["seconds"] for point in first["points"] if point[measure] <= last[measure]]
        if first is not run and as_good:
            text += f"; {first['name']} was there after {as_good[0]:.0f} s"
        lines[run["name"]] = text
    return lines


def main() -> int:
    begin = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="of training, for each model")
    parser.add_argument("--within", type=float, help="seconds for everything; the time of each model gets shorter for it")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak, of the language models")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--parallel-text", type=Path)
    parser.add_argument("--device", type=usable_device, default="cpu")
    parser.add_argument("--tiny", action="store_true", help="sizes that tell nothing, for a second each")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    about, runs = environment(args.device), []
    made = runners(args)
    for number, make in enumerate(made):
        seconds = 0.5 if args.tiny else args.seconds
        if args.within:
            left = args.within - (time.perf_counter() - begin)
            seconds = min(seconds, 0.9 * left / (len(made) - number) - 3)  # building, validation
        if seconds < 0.5:
            print("no time left for all models", file=sys.stderr)
            return 1
        runner = make()
        run = {"name": runner.name, "measure": runner.measure, "parameters": runner.parameters, "lr": runner.lr}
        runs.append({**run, "seconds": seconds, "points": []})

        def keep(points: list) -> None:
            runs[-1]["points"] = points
            save(args.json, {**about, "runs": runs, "summary": summary(runs)})

        race(runner, seconds, TINY_POINTS if args.tiny else POINTS, args.device, keep)
        del runner
    print(*(f"{name}: {text}" for name, text in summary(runs).items()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
