"""What is tried. The suite tries the same with the same functions of tests/helpers, in smaller numbers.

Each kind takes a folder for its files, its first seed and a count, and yields what it tried: a name and, if it did not
hold, why.
"""

import functools
import itertools
import random
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, NamedTuple, Optional, Tuple

import damage
import malicious
import op_calls
from stopped_runs import environment, run_with_kills

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files import weights_only
from fairseq_srupp.compat.user_dir import PACKAGE_DIR

HELPERS = Path(__file__).parents[1] / "helpers"
KILLS_A_RUN = 5
UPDATES = 120
OPTIONS = (
    f"--user-dir {PACKAGE_DIR} --cpu --optimizer radam --lr 0.01 --dropout 0.1 --num-workers 0 --no-progress-bar "
    "--no-epoch-checkpoints --save-interval 1000 --save-interval-updates 2 --keep-interval-updates 2 --seed 5 "
    f"--disable-validation --max-update {UPDATES} --distributed-backend gloo "
)
MODELS = {
    "srupp_lm": "{}/text --task streaming_language_modeling --arch srupp_lm --layers 2 --hidden-size 16 "
    "--attention-dim 8 --tokens-per-sample 8 --batch-size 4",
    "srupp_transformer": "{}/pairs --task translation --arch srupp_transformer --encoder-layers 1 --decoder-layers 1 "
    "--hidden-size 16 --attention-dim 8 --embed-dim 8 --alpha-init 0.5 --max-tokens 60",
}
RUNS = [(model, processes) for model in MODELS for processes in (1, 2)]


class Tried(NamedTuple):
    name: str
    fault: Optional[str] = None
    times: int = 1


def calls(folder: Path, seed: int, count: int) -> Iterator[Tried]:
    """Random calls of the CPU kernels against the reference, in the same dtype and in fp64; their derivatives."""
    run = functools.partial(op_calls.by_autograd, backend="cpu")
    for number in range(seed, seed + count):
        call = op_calls.random_call(number)
        found = op_calls.faults(call, run) + op_calls.derivative_faults(number)
        yield Tried(f"call {number}", f"{found}: {call.description}" if found else None)


def flips(folder: Path, seed: int, count: int) -> Iterator[Tried]:
    """One flipped bit in a checkpoint of either model or in a stream state: refused in one line, or nothing changes."""
    sources = []
    for model in MODELS:
        train(folder, model, 1, folder / f"flips-{model}", updates=4)
        sources += sorted((folder / f"flips-{model}").rglob("*.pt"))
    whole = {path: weights_only.load(str(path)) for path in sources}
    for number in range(seed, seed + count):
        path = random.Random(number).choice(sources)
        copy = folder / "flipped.pt"
        place = damage.flip_bit(path, copy, number)
        yield Tried(f"{path.name}, byte {place}, seed {number}", of_damage(copy, whole[path]))


def of_damage(path: Path, expected: object) -> Optional[str]:
    try:
        loaded = weights_only.load(str(path))
    except UserError as error:
        return None if str(path) in str(error) and "\n" not in str(error) else f"told as {error}"
    return None if damage.equal(loaded, expected) else "loaded as something else"


def malice(folder: Path, seed: int, count: int) -> Iterator[Tried]:
    """Files that call what they may name with arguments and states of all kinds, each loaded by a process."""
    marker = folder / "code-ran"
    programs = dict(list(itertools.chain(code(marker), malicious.crafted()))[:count])
    programs.update((f"seed {seed + i}", malicious.mutated(seed + i)) for i in range(count - len(programs)))
    for at, program in enumerate(programs.values()):
        malicious.write(folder / f"malicious-{at}.pt", program)
    paths = [folder / f"malicious-{at}.pt" for at in range(len(programs))]
    names, done = list(programs), 0
    while done < len(paths):  # a process goes on until one ends it
        command = [sys.executable, str(HELPERS / "load_all.py"), *map(str, paths[done:])]
        ended = subprocess.run(command, capture_output=True, text=True, env=environment())
        for line in ended.stdout.splitlines():
            good = line == "loaded" or line.startswith("fairseq_srupp: ")
            yield Tried(names[done], None if good and not marker.exists() else line)
            done += 1
        if done < len(paths):
            yield Tried(names[done], f"ended with status {ended.returncode}: {ended.stderr[-300:]}")
            done += 1


def code(marker: Path) -> Iterator[Tuple[str, bytes]]:
    """Pickles that would make a file, by functions of all kinds in places of all kinds."""
    python, value = f"open({str(marker)!r}, 'w').close()", malicious.value
    functions = {
        "os.system": [value(f"touch {marker}")],
        "posix.system": [value(f"touch {marker}")],
        "builtins.exec": [value(python)],
        "builtins.eval": [value(python)],
        "builtins.open": [value(str(marker)), value("w")],
        "subprocess.check_call": [value(["touch", str(marker)])],
        "timeit.timeit": [value("0"), value(python)],
        "torch.save": [value(0), value(str(marker))],
        "hydra.utils.instantiate": [value({"_target_": "os.system", "command": f"touch {marker}"})],
    }
    places = {
        "a value": lambda program: program,
        "a tuple": lambda program: malicious.tuple_of(value(1), program),
        "a Namespace": lambda program: malicious.set_state(
            malicious.new(malicious.name("argparse", "Namespace")), malicious.dict_of(a=program)
        ),
        "a config": lambda program: malicious.config(_content=malicious.dict_of(a=program)),
    }
    for (function, arguments), (place, within) in itertools.product(functions.items(), places.items()):
        program = malicious.call(malicious.name(*function.rsplit(".", 1)), *arguments)
        yield f"{function} in {place}", within(program)


def kills(folder: Path, seed: int, count: int) -> Iterator[Tried]:
    """Both models in one and two processes, killed at random and started again, end in the bits of a whole run."""
    whole: Dict[Tuple[str, int], object] = {}
    number = 0
    while count > 0:
        model, processes = run = RUNS[number % len(RUNS)]
        if run not in whole:
            whole[run] = state_of(train(folder, model, processes, folder / f"whole-{model}-{processes}"))
        save_dir = folder / f"killed-{number}"
        name, number = f"{model}, {processes} processes, seed {seed + number}", number + 1
        wanted = min(count, KILLS_A_RUN)
        try:
            last = train(folder, model, processes, save_dir, wanted, seed + number - 1)
            fault = None if damage.equal(state_of(last), whole[run]) else "ends in other bits"
        except AssertionError as error:
            fault = str(error)
        done = save_dir.with_suffix(".log").read_text().count("Preparing to load checkpoint") - 1
        yield Tried(name, fault, max(1, done))
        count -= max(1, done)


def train(
    folder: Path, model: str, processes: int, save_dir: Path, kills: int = 0, seed: int = 0, updates: int = UPDATES
) -> Path:
    """A run of a model, killed so many times: its last checkpoint."""
    make_data(folder)
    words = f"-m fairseq_cli.train {MODELS[model].format(folder)} {OPTIONS} --save-dir {save_dir} "
    words += f"--max-update {updates} --distributed-world-size {processes}"
    return run_with_kills(words.split(), save_dir, kills, seed=seed, seconds=0.3)


def state_of(path: Path) -> object:
    state = weights_only.load(str(path))
    return state["model"], state["last_optimizer_state"], state["optimizer_history"][-1]["num_updates"]


def make_data(folder: Path) -> None:
    """Made-up text and pairs of sentences, once."""
    for name, sides in (("text", ["a"]), ("pairs", ["a", "b"])):
        if (folder / name).exists():
            continue
        words = random.Random(0)
        for split, sentences in (("train", 60), ("valid", 5)):
            for side in sides:
                lines = [" ".join(words.choices("abcdefghij", k=words.randint(3, 6))) for _ in range(sentences)]
                (folder / f"{name}-{split}.{side}").write_text("\n".join(lines) + "\n")
        ending = "" if len(sides) > 1 else ".a"
        command = f"-m fairseq_cli.preprocess --user-dir {PACKAGE_DIR} --workers 1 --destdir {folder / name} "
        command += f"--trainpref {folder}/{name}-train{ending} --validpref {folder}/{name}-valid{ending} "
        command += "--source-lang a --target-lang b" if len(sides) > 1 else "--only-source"
        subprocess.run([sys.executable, *command.split()], check=True, capture_output=True, env=environment())


COUNTS = {calls: 20_000, flips: 200, malice: 200, kills: 100}
"""How many of each kind there are in 30 minutes."""
