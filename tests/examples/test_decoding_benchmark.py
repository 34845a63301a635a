"""examples/benchmarks/decoding.py: that all of its models run, and what its profile adds up to."""

import json
import os
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import sacrebleu
import torch
from exported import TRANSLATION, checkpoint, write_dictionaries
from fairseq_cli import preprocess

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"
OURS = [("fairseq_srupp", precision) for precision in ("fp32", "bf16", "int8")]


@pytest.fixture
def benchmarks(monkeypatch):
    """The folder of the benchmarks, from which their modules are imported."""
    monkeypatch.syspath_prepend(str(FOLDER))


def measure(folder, *options):
    """The result, and how the process ended. What is in `folder` is imported before all else."""
    path = folder / "result.json"
    command = [sys.executable, FOLDER / "decoding.py", "--tiny", "--json", path, *options]
    modules = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": modules})
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text()), done


def check(rows, expected):
    """That the models of each setting are the expected ones, and their ratios those of their rates."""
    settings = {(row["part"], row["threads"], row["batch"]) for row in rows}
    for setting in settings:
        some = [row for row in rows if (row["part"], row["threads"], row["batch"]) == setting]
        assert [(row["by"], row["precision"]) for row in some] == expected[setting[0]]
        for row in some:
            assert row["median"] > 0 and len(row["rounds"]) == 1
            assert row["to fairseq"] == pytest.approx(row["median"] / some[0]["median"])
            same = [other for other in some if (other["by"], other["precision"]) == ("CTranslate2", row["precision"])]
            assert row.get("to CTranslate2") == (pytest.approx(row["median"] / same[0]["median"]) if same else None)
        assert len({row["parameters"] for row in some if row["by"] == "fairseq_srupp"}) == 1  # of the model before int8
    return settings


def test_without_ctranslate2_one_line_says_how_to_get_it_and_the_rest_runs(tmp_path):
    (tmp_path / "ctranslate2.py").write_text("raise ImportError('not here')")
    result, done = measure(tmp_path, "--threads", "1", "2", "--batch", "3", "--profile")
    assert done.stderr.count("pip install ctranslate2") == 1 and result["ctranslate2"] is None
    theirs = [("fairseq", "fp32")]
    settings = check(result["rows"], {"translation": theirs + OURS, "text": theirs + OURS})
    assert settings == {("translation", n, 2) for n in (1, 2)} | {("text", n, 3) for n in (1, 2)}
    for row in result["rows"]:
        assert ("profile" in row) == (row["threads"] == 1)
        if row["threads"] == 1:
            regions = row["profile"]["regions"]
            assert sum(regions["all"].values()) == pytest.approx(1)
            assert sum(regions["decoder"].values()) > 0 and sum(regions["search"].values()) > 0
            assert (sum(regions["encoder"].values()) > 0.01) == (row["part"] == "translation")
            assert (regions["decoder"]["own kernels"] > 0) == (row["by"] == "fairseq_srupp")
            products = {op["name"] for op in row["profile"]["operators"]} & {"quantized::linear_dynamic", "aten::mm"}
            work = regions["decoder"]["matrix products"] + regions["decoder"]["own kernels"]  # of few rows all is in the latter
            assert work > 0 and ("aten::mm" not in products or row["precision"] != "int8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Data of 6 pairs, and checkpoints of srupp_transformer and of fairseq's transformer, which need no training here."""
    folder = tmp_path_factory.mktemp("data")
    write_dictionaries(folder)
    for language, seed in (("de", 0), ("en", 1)):
        rng = random.Random(seed)
        lines = [" ".join(f"w{rng.randrange(26)}" for _ in range(rng.randrange(2, 9))) for _ in range(6)]
        (folder / f"text.{language}").write_text("\n".join(lines) + "\n")
    command = ["--source-lang", "de", "--target-lang", "en", "--testpref", f"{folder}/text", "--destdir", f"{folder}"]
    command += ["--srcdict", f"{folder}/dict.de.txt", "--tgtdict", f"{folder}/dict.en.txt"]
    preprocess.main(preprocess.options.get_preprocessing_parser().parse_args(command))
    transformer = "--source-lang de --target-lang en --arch transformer --dropout 0 --encoder-layers 2 --decoder-layers 2"
    for size in ("encoder-embed-dim", "decoder-embed-dim", "encoder-ffn-embed-dim", "decoder-ffn-embed-dim"):
        transformer += f" --{size} 16"
    for name, options in (("ours", TRANSLATION), ("theirs", transformer.split())):
        os.replace(checkpoint(folder, awake, options)[2], folder / f"{name}.pt")
    return folder


def awake(model):
    """With scores that differ."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return model


def test_trained_models(trained, tmp_path):
    options = ["--checkpoints", trained / "ours.pt", trained / "theirs.pt", "--data", trained, "--threads", "1"]
    result, done = measure(tmp_path, *options)
    deployed = [("CTranslate2", "fp32"), ("CTranslate2", "int8")] if find_spec("ctranslate2") else []
    check(result["rows"], {"translation": [("fairseq", "fp32"), *deployed, *OURS]})
    assert [row["same"] for row in result["rows"] if row["by"] == "CTranslate2"][:1] == [1.0] * bool(deployed)
    assert all(1 < row["tokens"] <= 25 and 0 <= row["bleu"] < 100 for row in result["rows"])
    assert done.stdout.count("BLEU") == len(result["rows"]) == 4 + len(deployed)


def test_what_ctranslate2_translates_otherwise_gives_no_figures(benchmarks):
    import decoding

    def case(by, *found):
        about = {"by": by, "precision": "fp32"}
        run = SimpleNamespace(words=lambda: {number: line.split() for number, line in enumerate(found)})
        return decoding.Case("translation", 1, 2, about, None, run)

    args = SimpleNamespace(checkpoints=["ours", "theirs"], post_process="sentencepiece")
    references = dict(enumerate(["▁a b ▁c ▁d ▁e".split(), "▁f ▁g ▁h ▁i ▁j".split()]))
    good = [case("fairseq", "▁a b ▁c ▁d ▁e", "▁f"), case("CTranslate2", "▁a b ▁c ▁d ▁e", "▁f")]
    decoding.judge(good, references, args)
    assert good[1].more["same"] == 1 and "same" not in good[0].more
    bleu = sacrebleu.corpus_bleu(["ab c d e", "f"], [["ab c d e", "f g h i j"]]).score
    assert [one.more["bleu"] for one in good] == [bleu, bleu] and 0 < bleu < 100
    assert good[0].more["tokens"] == 4
    with pytest.raises(SystemExit, match="only 50.0% of fairseq's"):
        decoding.judge([good[0], case("CTranslate2", "▁a b ▁c ▁d ▁e", "▁g")], references, args)


def test_time_belongs_to_the_region_and_the_kind_of_its_operator(benchmarks):
    from machine import time_by_region

    class Model:
        def products(self):
            return left @ left

        def sums(self):
            return [left.sum() for _ in range(200)]

    def work():
        model.products()
        model.sums()
        left.sort()

    left, model, unused = torch.randn(400, 400), Model(), Model.products
    times = time_by_region(work, {"first": [(Model, "products")], "second": [(Model, "sums")]})
    of = times["regions"]
    assert Model.products is unused
    assert of["first"]["matrix products"] == of["all"]["matrix products"] > 0
    assert of["second"]["other operators"] > 0 and of["second"]["matrix products"] == 0
    assert of["rest"]["other operators"] > 0 and all(share["own kernels"] == 0 for share in of.values())
    assert {op["name"]: op["calls"] for op in times["operators"]}["aten::sum"] == 200
