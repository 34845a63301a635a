"""`python -m fairseq_srupp plot RUN...`: training curves from fairseq's logs, several runs in one picture."""

import argparse
import io
import json
import math
import os
import re
from dataclasses import dataclass, field
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Tuple

from ..compat.errors import UserError

_NAME = "plot"
_FORMATS = ("png", "svg")
_TAGS = ("train_inner", "train", "valid")
_AXES = {
    "updates": "updates",
    "tokens": "tokens (targets) trained on",
    "hours": "hours",
    "minutes": "minutes",
}
# bits: what one target costs. With label smoothing it is nll_loss, without it the loss itself.
_BITS = ("nll_loss", "loss")
_LABELS = {"loss": "loss", "ppl": "perplexity", "bits": "bits per token", "bpc": "bits per byte"}

Stats = Dict[str, float]
Curve = Tuple[str, bool, List[float], List[float]]
"""Label, whether it is of validation, x, y."""


@dataclass
class Run:
    """What a log tells: points of training, in order of updates, and of each validation set by its name."""

    label: str
    train: List[Stats] = field(default_factory=list)
    valid: Dict[str, List[Stats]] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="fairseq's log (--log-format simple or json), or a folder with train.log",
    )
    parser.add_argument(
        "--metric",
        default="loss",
        help="loss, ppl, bits (per target token), bpc (per byte) or any other name in the log (default: loss)",
    )
    parser.add_argument("--x", choices=sorted(_AXES), default="updates", help="what to draw it against")
    parser.add_argument("--label", action="append", default=[], help="name of a run in the legend, once a run")
    parser.add_argument("--valid-only", action="store_true", help="leave the curves of training out")
    parser.add_argument("--output", metavar="FILE", required=True, help="picture to write, .png or .svg")


def run(args: argparse.Namespace) -> int:
    """Draw the picture.

    Raises:
        UserError: a file that is missing or no log, a metric that a log lacks, an unwritable output.
    """
    kind = os.path.splitext(args.output)[1].lstrip(".").lower()
    if kind not in _FORMATS:
        _fail(f"--output {args.output}: the name must end in .png or .svg")
    if args.label and len(args.label) != len(args.runs):
        _fail(f"{len(args.label)} --label for {len(args.runs)} run(s)")
    paths = [_log_of(path) for path in args.runs]
    runs = [read_run(path, label) for path, label in zip(paths, args.label or _labels(paths))]
    curves = []
    for path, run in zip(paths, runs):
        found = curves_of(run, path, args.metric, args.x)
        if args.valid_only and not (found := [curve for curve in found if curve[1]]):
            _fail(f"{path}: no {args.metric} of a validation set in it")
        curves += found
    picture = _draw(curves, args.metric, args.x, kind)
    try:
        with open(args.output, "wb") as file:
            file.write(picture)
    except OSError as error:
        _fail(f"{args.output}: {error.strerror}")
    print(f"{args.output}: {args.metric} of {len(runs)} run(s)")
    return 0


def parse_line(line: str) -> Optional[Tuple[str, str, Stats]]:
    """The statistics in one line of a fairseq log, of either format.

    Returns:
        (tag, subset, stats) with tag train_inner, train or valid and the validation set's name ("" where the
        line does not tell it), or None for any other line. Names in stats lack the json format's prefix.
    """
    parts = [part.strip() for part in line.split("|")]
    tag = next((part for part in parts[:4] if part in _TAGS), None)
    if tag is None:
        return None
    brace = line.find("{")
    if brace >= 0:
        try:
            found = json.loads(line[brace:])
        except ValueError:
            return None
        if not isinstance(found, dict):
            return None
        pairs: Iterable[Tuple[str, object]] = ((name.removeprefix(f"{tag}_"), value) for name, value in found.items())
    else:
        pairs = re.findall(r"([A-Za-z_]\w*)[= ]([^\s,|]+)", " | ".join(parts[parts.index(tag) + 1 :]))
    subset = re.search(r"valid on '([^']*)' subset", line)
    stats = dict(_numbers(pairs))
    return (tag, subset.group(1) if subset else "", stats) if "num_updates" in stats else None


def read_run(path: str, label: str) -> Run:
    """Read a log. Where a resumed run went back, what it did again counts; its clock goes on ("hours").

    Raises:
        UserError: the file cannot be read or holds no statistics of training.
    """
    inner: Dict[float, Stats] = {}
    epochs: Dict[float, Stats] = {}
    valid: Dict[str, Dict[float, Stats]] = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for tag, subset, stats in filter(None, map(parse_line, lines)):
                points = valid.setdefault(subset, {}) if tag == "valid" else inner if tag == "train_inner" else epochs
                if tag != "valid":
                    _add_hours(stats, points)
                points[stats["num_updates"]] = stats
    except OSError as error:
        _fail(f"{path}: {error.strerror}")
    train = _in_order(inner or epochs)
    if not train and not valid:
        _fail(f"{path}: no statistics of a fairseq training in it")
    return Run(label, train, {subset: _in_order(points) for subset, points in sorted(valid.items())})


def _add_hours(stats: Stats, points: Dict[float, Stats]) -> None:
    """Set stats["hours"]. A resumed run's "wall" starts again, and its points replace those they repeat."""
    updates, hours = stats["num_updates"], stats.get("wall", 0) / 3600
    last = next(reversed(points.values()), None)
    resumed = last is not None and (updates <= last["num_updates"] or hours < last.get("wall", 0) / 3600)
    if resumed:
        for repeated in [point for point in points if point >= updates]:
            del points[repeated]
        last = next(reversed(points.values()), {})
    if "wall" in stats:
        before = last.get("hours", 0.0) if last else 0.0
        stats["hours"] = before + (hours if resumed or not last else hours - last.get("wall", 0) / 3600)


def _numbers(pairs: Iterable[Tuple[str, object]]) -> Iterator[Tuple[str, float]]:
    for name, value in pairs:
        try:
            yield name, float(value)
        except (TypeError, ValueError):
            pass


def _in_order(points: Dict[float, Stats]) -> List[Stats]:
    return [points[updates] for updates in sorted(points)]


def curves_of(run: Run, path: str, metric: str, x: str) -> List[Curve]:
    """The curves of a run: training, and each validation set.

    Raises:
        UserError: the log at `path` has no such metric, or nothing to tell x from.
    """
    scale = _scale(run.train, x)
    curves = []
    subsets = {f"valid {subset}".strip() if len(run.valid) > 1 else "valid": run.valid[subset] for subset in run.valid}
    for name, points in {"train": run.train, **subsets}.items():
        pairs = [(scale(stats["num_updates"]), _value(stats, metric)) for stats in points] if scale else []
        pairs = [(at, value) for at, value in pairs if value is not None and math.isfinite(value)]
        if pairs:
            curves.append((f"{run.label}, {name}", name != "train", *map(list, zip(*pairs))))
    if not curves and not scale:
        _fail(f"{path}: no training statistics to tell {x} from; draw it against updates")
    if not curves:
        names = sorted({name for points in (run.train, *run.valid.values()) for stats in points for name in stats})
        _fail(f"{path}: no {metric} in it; it has {', '.join(names)}")
    return curves


def _value(stats: Stats, metric: str) -> Optional[float]:
    names = _BITS if metric == "bits" else (metric,)
    return next((stats[name] for name in names if name in stats), None)


def _scale(train: List[Stats], x: str) -> Optional[Callable[[float], float]]:
    """From updates to the x axis, linear between the points of training; None where they do not tell."""
    if x == "updates":
        return float
    at, values = [0.0], [0.0]
    for stats in train:
        if x == "tokens" and "wpb" in stats:
            values.append(values[-1] + stats["wpb"] * (stats["num_updates"] - at[-1]))
        elif x in ("hours", "minutes") and "hours" in stats:
            values.append(stats["hours"] * (60 if x == "minutes" else 1))
        else:
            continue
        at.append(stats["num_updates"])
    if len(at) == 1:
        return None
    import numpy as np

    return lambda updates: float(np.interp(updates, at, values))


def _draw(curves: List[Curve], metric: str, x: str, kind: str) -> bytes:
    try:
        import matplotlib
    except ImportError:
        _fail("matplotlib is not installed; run `pip install matplotlib`")
    # A label is text, "$" in it no formula.
    with matplotlib.rc_context({"svg.fonttype": "none", "text.parse_math": False}), io.BytesIO() as buffer:
        _figure(curves, metric, x).savefig(buffer, format=kind)
        return buffer.getvalue()


def _figure(curves: List[Curve], metric: str, x: str):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    colours, lines, texts = {}, [], []
    for label, validation, at, values in curves:
        colour = colours.setdefault(label.rpartition(", ")[0], f"C{len(colours) % 10}")
        style = {"marker": "o", "markersize": 4, "linewidth": 1.8} if validation else {"linewidth": 1, "alpha": 0.5}
        if len(at) == 1:
            style["marker"] = "o"
        lines += axes.plot(at, values, color=colour, **style)
        texts.append(f"{label} ({values[-1]:.4g} at the end)")
    if metric in _LABELS:
        axes.set_ylim(*_limits([values for _, _, _, values in curves]))
    axes.set_xlabel(_AXES[x])
    axes.set_ylabel(_LABELS.get(metric, metric))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(lines, ["" for _ in texts], frameon=False)
    for shown, text in zip(legend.get_texts(), texts):
        shown.set_text(text)  # a label that starts with "_" would be left out
    return figure


def _limits(curves: List[List[float]]) -> Tuple[float, float]:
    """Room for the end of the curves: how high they start is of no interest, and presses the rest flat."""
    values = sorted(value for values in curves for value in values)
    low, high = values[0], values[-1]
    usual = values[min(len(values) - 1, int(0.9 * len(values)))]
    top = min(high, low + 2.5 * max(usual - low, 0.02 * abs(low), 1e-6))
    margin = 0.05 * max(top - low, 1e-6)
    return low - margin, top + margin


def _log_of(path: str) -> str:
    return os.path.join(path, "train.log") if os.path.isdir(path) else path


def _labels(paths: List[str]) -> List[str]:
    """Short names that differ: the file's, or its folder's where the file's tell nothing."""
    names = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    folders = [os.path.basename(os.path.dirname(os.path.abspath(path))) for path in paths]
    names = [folder if name == "train" else name for name, folder in zip(names, folders)]
    return names if len(set(names)) == len(names) else paths


def _fail(message: str) -> None:
    raise UserError(message, command=_NAME)
