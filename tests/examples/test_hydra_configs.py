"""The YAML files of the examples train both models through fairseq-hydra-train."""

import subprocess
import sys
from pathlib import Path

from fairseq_srupp.compat.user_dir import PACKAGE_DIR

ROOT = Path(__file__).parents[2]
TINY = [
    "model.hidden_size=16",
    "model.attention_dim=8",
    "common.cpu=true",
    "optimization.max_update=3",
    "optimization.lr=[0.001]",
]


def train(folder: str, name: str, data: Path, out: Path, *more: str) -> str:
    command = [sys.executable, "-m", "fairseq_cli.hydra_train", "--config-dir", str(ROOT / "examples" / folder)]
    command += ["--config-name", name, f"common.user_dir={PACKAGE_DIR}", f"task.data={data}"]
    command += [f"checkpoint.save_dir={out}", f"hydra.run.dir={out}", "common.log_interval=1", *TINY, *more]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    assert (out / "checkpoint_last.pt").exists()
    return run.stdout + run.stderr


def test_language_model(tmp_path):
    text = "".join(f"{n} is followed by {n + 1}.\n" for n in range(400))
    for split in ("train", "valid", "test"):
        (tmp_path / split).write_text(text)
    prepare = [sys.executable, "-m", "fairseq_srupp", "prepare-bytes", "--destdir", str(tmp_path / "data")]
    prepare += [word for split in ("train", "valid", "test") for word in (f"--{split}", str(tmp_path / split))]
    subprocess.run(prepare, check=True, capture_output=True, cwd=ROOT)
    log = train("novels", "srupp_lm", tmp_path / "data", tmp_path / "out", "task.tokens_per_sample=16")
    assert "num_updates 3" in log
    options = ["task.tokens_per_sample=16", "lr_scheduler._name=cosine_annealing", "lr_scheduler.warmup_updates=2"]
    log = train("novels", "srupp_lm", tmp_path / "data", tmp_path / "annealed", *options)
    assert "num_updates 3 | lr 0 |" in log, "the cosine ends with the last update"


def test_translation(tmp_path):
    for split in ("train", "valid"):
        for lang in ("de", "en"):
            (tmp_path / f"{split}.{lang}").write_text("".join(f"{lang}{n % 7} {lang}{n % 5} .\n" for n in range(80)))
    preprocess = [sys.executable, "-m", "fairseq_cli.preprocess", "--source-lang", "de", "--target-lang", "en"]
    preprocess += ["--trainpref", str(tmp_path / "train"), "--validpref", str(tmp_path / "valid")]
    preprocess += ["--joined-dictionary", "--destdir", str(tmp_path / "data")]
    subprocess.run(preprocess, check=True, capture_output=True, cwd=ROOT)
    log = train("translation", "srupp_transformer", tmp_path / "data", tmp_path / "out", "dataset.max_tokens=64")
    assert "num_updates 3" in log
