"""examples/benchmarks/gpu.py: what it does with steps that fail, hang or find no time, and that all of its steps run."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fairseq.data import Dictionary
from fairseq_cli import preprocess

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"
WRITES = """
import json, sys
path = sys.argv[sys.argv.index("--json") + 1]
json.dump({"summary": {"rows": "1 of 2"}}, open(path, "w"))
"""


@pytest.fixture
def benchmarks(monkeypatch):
    """The folder of the benchmarks, from which their modules are imported."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return FOLDER


@pytest.fixture
def gpu(benchmarks):
    import gpu

    return gpu


@pytest.fixture
def step(gpu, tmp_path):
    """Makes a step of a program, which gets --json FILE."""

    def make(name, program, *options, limit=60.0):
        script = tmp_path / f"{name}.py"
        script.write_text(program)
        return gpu.Step(1, name, [str(script), *options], limit)

    return make


def measure(gpu, steps, folder, minutes=8):
    folder.mkdir(parents=True, exist_ok=True)
    report = gpu.measure(steps, minutes, folder, {})
    assert json.loads((folder / "gpu.json").read_text()) == report
    return report["steps"]


def test_a_step_that_fails_says_why_and_the_next_one_runs(gpu, step, tmp_path):
    failing = step("failing", WRITES + 'print("a\\nb", file=sys.stderr); sys.exit(3)')
    first, second = measure(gpu, [failing, step("good", WRITES)], tmp_path / "out")
    assert first["outcome"] == "failed, status 3" and first["why"] == ["a", "b"]
    assert first["result"]["summary"] == {"rows": "1 of 2"}
    assert second["outcome"] == "done" and "why" not in second
    shown = gpu.table({"steps": [first, second]})
    assert "failing: failed, status 3" in shown and "! b" in shown and shown.count("1 of 2") == 2


def test_a_step_that_hangs_is_stopped_with_what_it_started_and_keeps_what_it_wrote(gpu, step, tmp_path):
    beats = "import sys, time\nwhile True: print(time.time(), file=open(sys.argv[1], 'w')), time.sleep(0.05)"
    child = f"import subprocess, time\nsubprocess.Popen([sys.executable, '-c', {beats!r}, path + '.beats'])\n"
    program = WRITES + child + "print('busy', file=sys.stderr, flush=True); time.sleep(600)"
    begin = time.monotonic()
    (done,) = measure(gpu, [step("hanging", program, limit=6.0)], tmp_path / "out")
    assert time.monotonic() - begin < 30
    assert done["outcome"] == "stopped at its time limit" and done["why"] == ["busy"]
    assert done["result"]["summary"] == {"rows": "1 of 2"}
    last = (tmp_path / "out" / "hanging.json.beats").read_text()
    time.sleep(1)
    assert (tmp_path / "out" / "hanging.json.beats").read_text() == last


def test_what_comes_when_the_time_is_over_is_left_out(gpu, step, tmp_path):
    hanging = step("hanging", "import time; time.sleep(600)", limit=600.0)
    first, second = measure(gpu, [hanging, step("late", WRITES)], tmp_path / "out", minutes=0.1)
    assert first["outcome"] == "stopped at its time limit" and first["limit"] == pytest.approx(6, abs=0.5)
    assert second["outcome"] == "left out: no time left" and second["result"] is None


def test_limits_grow_with_the_budget_and_are_told_to_those_who_ask(gpu, step, tmp_path):
    tells = step("tells", WRITES.replace('"1 of 2"', "sys.argv[1]"), gpu.SECONDS, limit=20.0)
    (done,) = measure(gpu, [tells], tmp_path / "out", minutes=16)
    assert done["limit"] == 40 and done["result"]["summary"] == {"rows": "37"}


def test_time_is_reserved_for_what_comes_last(gpu, step, tmp_path):
    hanging = step("hanging", "import time; time.sleep(600)", limit=600.0)
    first, last = measure(gpu, [hanging, step("last", WRITES)._replace(reserved=400.0)], tmp_path / "out", minutes=0.8)
    assert first["limit"] == pytest.approx(8, abs=0.5) and last["outcome"] == "done"


@pytest.mark.parametrize(
    "options, message",
    [("--minutes nan", "nan: expected a number of minutes"), ("--minutes 0", "0: expected"), ("--text none", "there is no none"),
     ("--device cpu --tiny --out /dev/null/out", "--out: ")],
)  # fmt: skip
def test_wrong_options_are_told_in_one_line(options, message, tmp_path):
    done = subprocess.run([sys.executable, FOLDER / "gpu.py", *options.split()], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]


def test_an_old_result_is_not_taken_for_a_new_one(gpu, step, tmp_path):
    measure(gpu, [step("one", WRITES)], tmp_path / "out")
    (done,) = measure(gpu, [step("one", "raise SystemExit('no')")], tmp_path / "out")
    assert done["result"] is None and done["why"] == ["no"]


def test_parts_are_numbers_or_names(gpu):
    assert gpu.parts("2,3,generation") == {"2", "3", "generation"}
    for wrong in ("", "2,", "0", "2,7"):
        with pytest.raises(gpu.argparse.ArgumentTypeError, match="expected numbers from 1 to 6 or names of steps"):
            gpu.parts(wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(benchmarks, tmp_path):
    done = subprocess.run([sys.executable, FOLDER / "gpu.py", "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 2 and "torch finds no GPU here" in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize("ended", [True, False])
def test_the_outcomes_of_tests_are_counted(benchmarks, ended):
    import check

    lines = ["tests/a.py::one PASSED [ 50%]", "tests/a.py::two[x - y] FAILED [100%]", "tests/a.py::three "]
    lines += ["[gw1] [ 66%] PASSED tests/a.py::four ", "[gw0] [100%] ERROR tests/a.py::five "]
    if ended:
        lines += ["FAILED tests/a.py::two[x - y] - assert 1 == 2", "ERROR tests/a.py::five - OSError: no", "ERROR tests/b.py"]
    failures = ["tests/a.py::five", "tests/a.py::two[x - y]"] + ["tests/b.py"] * ended
    counted = check.counted("\n".join(lines))
    assert counted == {"passed": 2, "failed": len(failures), "skipped": 0, "failures": failures}


@pytest.mark.parametrize("arch", ["srupp_lm_enwik8_small", "srupp_lm_wiki103_base", "srupp_lm_lm1b_base"])
def test_the_transformer_has_as_many_parameters(benchmarks, arch):
    from language_models import equal_transformer_lm, parameters_of, preset, srupp_lm, task_of, training

    how, options = training(arch), preset(arch)
    with torch.device("meta"):
        task = task_of(how.symbols)
        wanted = parameters_of(srupp_lm(task, **options, mem_len=how.segment))
        found = parameters_of(equal_transformer_lm(task, how.segment, wanted, options))
    assert abs(found - wanted) < 0.002 * wanted


@pytest.mark.parametrize("words", [{}, {"embed_dim": 16, "adaptive_input": True, "adaptive_softmax_cutoff": "12,20"}])
def test_the_operations_of_an_update_are_those_of_its_products(benchmarks, words):
    """As torch counts them in a real update, but for attention, of which the formula counts what is not masked."""
    from language_models import batch_of, mean_loss, srupp_lm, task_of, update_operations
    from torch.utils.flop_counter import FlopCounterMode

    rows, length, d, projected, symbols = 3, 8, 20, 12, 30
    options = {"hidden_size": d, "attention_dim": projected, "layers": 2, "dropout": 0.0, "attention_layers": "2", **words}
    model = srupp_lm(task_of(symbols), **options, mem_len=length).train()
    batch = batch_of(torch.randint(4, symbols, (rows, length + 1)), "cpu")
    mean_loss(model, batch, stream=("train", 1, 0)).backward()
    with FlopCounterMode(display=False) as counter:
        model.set_num_updates(1)
        mean_loss(model, batch, stream=("train", 1, 1)).backward()
    products = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    attention = 12 * projected * rows * (length * length + length * (length + 1) / 2)
    linear = sum(count for op, count in products.items() if op in ("aten.mm", "aten.addmm"))
    assert update_operations(model, batch, length) == linear + attention


@pytest.fixture
def parallel_text(tmp_path):
    """A folder of fairseq-preprocess."""
    for split, count in (("train", 30), ("valid", 6)):
        for side in ("de", "en"):
            lines = [" ".join(f"{side}{(i * k) % 11}" for k in range(1, 3 + i % 5)) for i in range(count)]
            (tmp_path / f"{split}.{side}").write_text("\n".join(lines) + "\n")
    words = ["--source-lang", "de", "--target-lang", "en", "--trainpref", str(tmp_path / "train")]
    words += ["--validpref", str(tmp_path / "valid"), "--destdir", str(tmp_path / "data"), "--workers", "1"]
    args = preprocess.options.get_preprocessing_parser().parse_args(words)
    preprocess.main(args)
    assert len(Dictionary.load(str(tmp_path / "data" / "dict.de.txt"))) > 4
    return tmp_path / "data"


def test_every_part_runs_without_a_gpu(parallel_text, tmp_path):
    command = [sys.executable, str(FOLDER / "gpu.py"), "--device", "cpu", "--tiny", "--minutes", "30"]
    command += ["--out", str(tmp_path / "out"), "--parallel-text", str(parallel_text)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 180, "two cores in 90 seconds"
    report = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert {step["name"]: step["outcome"] for step in report["steps"]} == dict.fromkeys(
        [*"check recurrence attention training-enwik8_base training-wiki103_base translation generation race".split()], "done"
    ), done.stdout
    assert done.returncode == 0 and all(step["result"]["summary"] for step in report["steps"])
    names = {"srupp_lm", "transformer_lm", "transformer_iwslt_de_en"}
    assert names < set(report["steps"][-1]["result"]["summary"])
