"""Which fairseq is accepted, and what is said about others."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from fairseq_srupp.compat import family
from fairseq_srupp.compat.user_dir import PACKAGE_DIR

INSTALL = "pip install --no-build-isolation '"


def run(script, *folders, cwd):
    """A process that finds modules in `folders` before all others."""
    path = os.pathsep.join(map(str, [*folders, os.path.dirname(PACKAGE_DIR)]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, env=environment, cwd=cwd, timeout=200)


def refusal(script, *folders, cwd):
    """The line with which the process ended."""
    done = run(script, *folders, cwd=cwd)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("fairseq_srupp: fairseq is ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.fixture
def without_fairseq(tmp_path):
    """A folder that hides the fairseq of this environment."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "def others(name, path=None, target=None):\n"
        "    return None if name.split('.')[0] in ('fairseq', 'fairseq_cli') else find(name, path, target)\n"
        "PathFinder.find_spec = others\n"
    )
    return tmp_path / "hidden"


@pytest.fixture
def package(tmp_path):
    """A function: package("fairseq-light", {"__init__.py": ""}) installs such a `fairseq` into a folder."""

    def install(distribution, files, module="fairseq"):
        folder = tmp_path / "site"
        for name, text in files.items():
            (folder / module / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / module / name).write_text(text)
        if distribution:
            facts = folder / f"{distribution.replace('-', '_')}-0.2.0.dist-info"
            facts.mkdir()
            (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.2.0\n")
            (facts / "top_level.txt").write_text(f"{module}\n")
        return folder

    return install


def test_the_fairseq_of_this_environment_will_do():
    family.require()
    name, folder, fault = family.find()
    import fairseq

    assert folder == os.path.dirname(fairseq.__file__) and fault is None
    assert name.split()[1][0].isdigit() and str(family.find()) == f"{name} in {folder}"


def test_all_that_the_package_imports_and_replaces_is_asked_for():
    """Or a tree that lacks it would be accepted, and fail with a traceback. Found here by another way."""
    asked, seen = set(family.needed()), 0
    for path in pathlib.Path(PACKAGE_DIR).rglob("*.py"):
        imported = {}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fairseq":
                imported.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "wrap":
                owner, name = map(ast.unparse, node.args)
                first, _, rest = owner.partition(".")
                if first in imported and name[0] in "'\"":
                    imported[node] = ".".join(filter(None, [imported[first], rest, ast.literal_eval(name)]))
        assert asked.issuperset(imported.values()), path
        seen += len(imported)
    assert seen > 50


def test_without_fairseq(without_fairseq, tmp_path):
    """Every way in ends in the same line."""
    ways = (
        "import fairseq_srupp.models.srupp_lm",
        "from fairseq_srupp.tasks import streaming_language_modeling",
        "main(['average-checkpoints', '--inputs', 'a.pt', '--output', 'b.pt'])",
        "main(['import-checkpoint', '--checkpoint', 'a', '--text', 'b', '--destdir', 'c'])",
    )
    script = (
        "import sys\n"
        "from fairseq_srupp.cli import main\n"
        f"for way in {ways}:\n"
        "    try: exec(way)\n"
        "    except SystemExit as end: print(end.code)\n"
        "import fairseq_srupp.models\n"
    )
    line = refusal(script, without_fairseq, cwd=tmp_path)
    assert line.startswith(f"fairseq_srupp: fairseq is not installed: {INSTALL}")
    assert run(script, without_fairseq, cwd=tmp_path).stdout == len(ways) * line


def test_what_needs_no_fairseq_works_without(without_fairseq, tmp_path):
    (tmp_path / "text").write_text("to be or not to be")
    script = (
        "import torch, sys\n"
        "from fairseq_srupp.modules import SRUppStack\n"
        "from fairseq_srupp.ops import sru_recurrence\n"
        "from fairseq_srupp.optim import FusedRAdam\n"
        "stack = SRUppStack(hidden_size=8, attention_dim=4, layers=2)\n"
        "stack(torch.randn(3, 2, 8)).sum().backward()\n"
        "FusedRAdam(stack.parameters()).step()\n"
        "from fairseq_srupp.cli import main\n"
        "main(['prepare-bytes', '--train', 'text', '--valid', 'text', '--destdir', 'data'])\n"
        "main(['info'])\n"
        "assert 'fairseq' not in sys.modules\n"
    )
    done = run(script, without_fairseq, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "  fairseq        not installed\n" in done.stdout
    assert (tmp_path / "data" / "train.bin").exists()


def test_another_architecture_of_a_similar_name(package, without_fairseq, tmp_path):
    folder = package("fairseq2", {"__init__.py": ""}, module="fairseq2")
    line = refusal("import fairseq_srupp.models", folder, without_fairseq, cwd=tmp_path)
    assert "fairseq is not installed (fairseq2 0.2.0 is another package): pip install" in line


def test_a_part_of_fairseq(package, tmp_path):
    folder = package("fairseq-light", {"__init__.py": "import fairseq.models", "models/__init__.py": ""})
    line = refusal("import fairseq_srupp.models", folder, cwd=tmp_path)
    unsuitable = f"not a suitable one: fairseq-light 0.2.0 in {folder}/fairseq: it has no fairseq.checkpoint_utils"
    assert f"fairseq is {unsuitable}; to have another: pip uninstall fairseq-light; {INSTALL}" in line
    done = run("from fairseq_srupp.cli import main; main(['info'])", folder, cwd=tmp_path)
    assert f"  fairseq        {unsuitable}\n" in done.stdout, done.stderr


def test_a_function_that_is_missing(package, tmp_path):
    folder = package(None, {"__init__.py": "", "version.txt": "1.0.0a0\n", "checkpoint_utils.py": "def load_checkpoint(): pass"})
    line = refusal("import fairseq_srupp.models", folder, cwd=tmp_path)
    assert re.search(rf"fairseq 1.0.0a0 in {re.escape(str(folder))}/fairseq: it has no fairseq\.checkpoint_utils\.\w+;", line)
    assert "uninstall" not in line


def test_a_fairseq_that_cannot_be_imported(package, tmp_path):
    folder = package(None, {"__init__.py": "raise ValueError('mutable\\ndefault')", "version.txt": "0.12.2"})
    line = refusal("import fairseq_srupp.models", folder, cwd=tmp_path)
    assert "/fairseq: it cannot be imported: ValueError: mutable default;" in line
    folder = package(None, {"__init__.py": "import no_such_module"})
    line = refusal("import fairseq_srupp.models", folder, cwd=tmp_path)
    assert "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'" in line


def test_a_developed_tree_is_named_by_its_distribution(package, tmp_path):
    folder = package("fairseq", {"__init__.py": ""})
    (folder / "fairseq-0.2.0.dist-info" / "direct_url.json").write_text(
        json.dumps({"url": f"file://{tmp_path}/tree", "dir_info": {"editable": True}})
    )
    (tmp_path / "tree").mkdir()
    (folder / "fairseq").rename(tmp_path / "tree" / "fairseq")
    line = refusal("import fairseq_srupp.models", tmp_path / "tree", folder, cwd=tmp_path)
    assert f"fairseq 0.2.0 in {tmp_path}/tree/fairseq: it has no" in line and "pip uninstall fairseq;" in line


def test_the_package_requires_no_fairseq_and_its_extra_one():
    tomllib = pytest.importorskip("tomllib")
    from packaging.requirements import Requirement

    file = pathlib.Path(PACKAGE_DIR).parent / "pyproject.toml"
    if not file.exists():
        pytest.skip("this is no clone")
    project = tomllib.loads(file.read_text())["project"]
    assert not any("fairseq" in name for name in project["dependencies"] + project["optional-dependencies"]["test"])
    extra = [Requirement(text) for text in project["optional-dependencies"]["fairseq"]]
    for python, system, machine, expected in (
        ("3.10", "linux", "x86_64", "fairseq-fixed"),
        ("3.11", "linux", "x86_64", "ve-fairseq"),
        ("3.12", "linux", "x86_64", "ve-fairseq"),
        ("3.12", "linux", "aarch64", "fairseq-fixed"),
        ("3.13", "linux", "x86_64", "fairseq-fixed"),
        ("3.11", "darwin", "arm64", "fairseq-fixed"),
    ):
        here = {"python_version": python, "sys_platform": system, "platform_machine": machine}
        here["implementation_name"] = "cpython"
        assert [one.name for one in extra if one.marker.evaluate(here)] == [expected]
