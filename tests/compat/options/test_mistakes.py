"""Mistakes that users make, through the commands: each ends in one line that names the option or the file."""

import random
import sys
from types import SimpleNamespace

import pytest

from fairseq_srupp.compat.errors import UserError

STREAM = (
    "--task streaming_language_modeling --arch srupp_lm --hidden-size 8 --attention-dim 4 --layers 1 --optimizer radam "
    "--lr 0.01 --tokens-per-sample 16 --batch-size 2 --num-workers 0 --no-progress-bar --cpu"
)
TRANSLATE = (
    "--arch srupp_transformer --hidden-size 8 --attention-dim 4 --encoder-layers 1 --decoder-layers 1 --optimizer adam "
    "--lr 0.01 --batch-size 8 --num-workers 0 --no-progress-bar --cpu"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory, text, fairseq_cli):
    """`made.lm`, `made.pairs`: data; `made.stream`, `made.translator`: checkpoints of one update."""
    import fairseq_srupp.models.srupp_lm
    import fairseq_srupp.models.srupp_transformer
    import fairseq_srupp.tasks.streaming_language_modeling  # noqa: F401

    folder = tmp_path_factory.mktemp("mistakes")
    words = random.Random(0)
    lines = [" ".join(words.choices("abcdefghij", k=words.randint(3, 9))) + "\n" for _ in range(20)]
    for lang in ("de", "en"):
        (folder / f"text.{lang}").write_text("".join(lines))
    splits = " ".join(f"--{split}pref {folder}/text" for split in ("train", "valid", "test"))
    pairs = folder / "pairs"
    languages = "--source-lang de --target-lang en --joined-dictionary"
    fairseq_cli("preprocess", languages, splits, "--destdir", pairs)
    fairseq_cli("train", text.data, STREAM, "--max-update 1 --save-dir", folder / "stream")
    fairseq_cli("train", pairs, TRANSLATE, "--max-update 1 --save-dir", folder / "translator")
    return SimpleNamespace(
        lm=text.data,
        pairs=pairs,
        stream=folder / "stream" / "checkpoint_last.pt",
        translator=folder / "translator" / "checkpoint_last.pt",
    )


def told(words, fairseq_cli, capfd):
    """The line in which the command ends; nothing else is on stderr."""
    capfd.readouterr()
    with pytest.raises(UserError) as error:
        fairseq_cli(*words)
    line = error.value.code
    assert line.startswith("fairseq_srupp: ") and "\n" not in line and len(line) < 600
    assert capfd.readouterr().err == ""
    return line


@pytest.mark.parametrize(
    "options, line",
    [
        ("--beam 0", "--beam must be at least 1, not 0"),
        ("--beam 4 --nbest 7", "--nbest 7 is more than --beam 4"),
        ("--nbest 0", "--nbest must be at least 1"),
        ("--temperature 0", "--temperature must be greater than 0"),
        ("--temperature nan", "--temperature must be a finite number, not nan"),
        ("--sampling --beam 1 --sampling-topk 99", "--sampling-topk 99 is more than the dictionary has: 16 symbols"),
        ("--sampling --beam 1 --sampling-topp 2", "--sampling-topp must be at most 1"),
        ("--sampling-topk 3", "--sampling-topk requires --sampling"),
        ("--beam 4 --diverse-beam-groups 3", "--beam to be divisible by the number of groups"),
        ("--unkpen nan", "--unkpen must be a finite number"),
        ("--lenpen inf", "--lenpen must be a finite number"),
        ("--max-len-a inf", "--max-len-a must be a finite number"),
        ("--max-len-b 0", "min_len cannot be larger than max_len"),
        ("--batch-size 0", "--batch-size must be at least 1"),
        ("--num-workers -1", "--num-workers must be at least 0"),
        ("--seed -1", "--seed must be between 0 and 4294967295"),
        ("--required-batch-size-multiple 0", "--required-batch-size-multiple must be at least 1"),
        ("--gen-subset nowhere", "Dataset not found: nowhere"),
        ("--remove-bpe nothing", "Unknown post_process option: nothing"),
        ("--constraints", "--constraints: only fairseq-interactive"),
        ("--dataset-impl lazy", "Make sure that --dataset-impl is configured properly"),
        ("--max-source-positions 3", "skip such examples with --skip-invalid-size-inputs-valid-test"),
        ("--bpe subword_nmt", "Missing mandatory value: bpe_codes"),
        ("--model-overrides {'dropout':nan}", "--model-overrides {'dropout':nan}: expected a dictionary"),
        ("--model-overrides {'dropout':1e999}", "--model-overrides dropout must be a finite number"),
        ("--model-overrides {'dropout':'x'}", "'x' of type 'str' could not be converted to Float full_key: dropout"),
        ("--model-overrides {'no_such':1}", "--model-overrides: {translator} has no option no_such"),
        ("--model-overrides [1]", "--model-overrides [1]: expected a dictionary"),
        ("--model-overrides {", "--model-overrides {: expected a dictionary"),
        ("--tokenizer moses", "tokenizer.source_lang=null: field 'tokenizer.source_lang' is not Optional"),
        ("--user-dir /nowhere", "no such folder: --user-dir /nowhere"),
        ("--lm-path /nowhere.pt", "/nowhere.pt"),
    ],
)
def test_translating(options, line, made, fairseq_cli, capfd):
    words = ("generate", made.pairs, "--cpu --max-len-b 5 --path", made.translator, options)
    assert line.replace("{translator}", str(made.translator)) in told(words, fairseq_cli, capfd)


@pytest.mark.parametrize(
    "options, line",
    [
        ("--lr-scheduler cosine", "Either --max_update or --lr-period-updates must be set"),
        ("--lr-scheduler tri_stage", "please specify steps or phase_ratio"),
        ("--lr-scheduler polynomial_decay", "lr_scheduler.total_num_update"),
        ("--lr-scheduler inverse_sqrt --warmup-updates 0", "inverse_sqrt needs --warmup-updates of at least 1"),
        ("--update-freq 0", "--update-freq must be at least 1"),
        ("--lr []", "--lr is empty"),
        ("--lr 1e999", "--lr must be a finite number, not inf"),
        ("--lr 0.1,-0.1", "--lr must be at least 0, not -0.1"),
        ("--fp16 --bf16", "--fp16 and --bf16 exclude each other"),
        ("--adam-betas 0.9", "--adam-betas is 0.9: expected two numbers from 0 to below 1"),
        ("--adam-betas (2,3)", "--adam-betas is (2, 3): expected two numbers from 0 to below 1"),
        ("--optimizer adamax --adamax-betas (0.9,)", "--adamax-betas is (0.9,): expected two numbers"),
        ("--max-update -1", "--max-update must be at least 0"),
        ("--log-interval 0", "--log-interval must be at least 1"),
        ("--save-interval 0", "--save-interval must be at least 1"),
        ("--weight-decay nan", "--weight-decay must be a finite number"),
        ("--dropout 2", "--dropout must be between 0 and 1"),
        ("--alpha-init nan", "--alpha-init must be a finite number"),
        ("--batch-size-valid 0", "--batch-size-valid must be at least 1"),
        ("--criterion adaptive_loss", "--ddp-backend=legacy_ddp"),
        ("--ddp-backend fully_sharded", "pip install fairscale"),
        ("--eval-bleu --eval-bleu-args {", "--eval-bleu-args {: expected JSON"),
        ('--eval-bleu --eval-bleu-args {"beam":0}', "--eval-bleu-args beam must be at least 1"),
        ('--eval-bleu --eval-bleu-args {"lenpen":NaN}', "--eval-bleu-args lenpen must be a finite number"),
        ('--eval-bleu --eval-bleu-args {"beams":2}', "--eval-bleu-args: fairseq-generate has no option beams"),
        ("--eval-bleu --eval-bleu-detok nothing", "--eval-bleu-detok nothing is not known"),
        ("--valid-subset nowhere", "Dataset not found: nowhere"),
        ("--source-lang de --target-lang zz", "dict.zz.txt"),
        ("--skip-remainder-batch --update-freq 100", "--skip-remainder-batch leaves out all"),
    ],
)
def test_training_a_translator(options, line, made, fairseq_cli, capfd):
    words = ("train", made.pairs, TRANSLATE, "--max-epoch 1 --no-save", options)
    assert line in told(words, fairseq_cli, capfd)


@pytest.mark.parametrize(
    "heads, line",
    [(3, "embed_dim must be divisible by num_heads"), (0, "--encoder-attention-heads must be at least 1")],
)
def test_training_a_model_of_fairseq(heads, line, made, fairseq_cli, capfd):
    options = f"--arch transformer_tiny --cpu --optimizer adam --batch-size 8 --encoder-attention-heads {heads}"
    assert line in told(("train", made.pairs, "--no-save", options), fairseq_cli, capfd)


def test_a_tokenizer_that_is_not_installed(made, fairseq_cli, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    words = ("train", made.pairs, TRANSLATE, "--max-epoch 1 --no-save --eval-bleu --eval-bleu-detok moses")
    assert "pip install sacremoses" in told(words, fairseq_cli, capfd)


@pytest.mark.parametrize(
    "options, line",
    [
        ("--model-overrides {'mem_len':nan}", "--model-overrides {'mem_len':nan}: expected a dictionary"),
        ("--model-overrides {'mem_length':3}", "--model-overrides: {stream} has no option mem_length"),
        ("--model-overrides {'mem_len':-3}", "--mem-len must be a whole number, at least 0, not -3"),
        ("--gen-subset nowhere", "nowhere"),
        ("--tokens-per-sample 0", "--tokens-per-sample must be at least 1"),
        ("--context-window 99", "--context-window 99 must be smaller than --tokens-per-sample 16"),
    ],
)
def test_scoring_a_text(options, line, made, fairseq_cli, capfd):
    words = ("eval-lm", made.lm, "--cpu --task streaming_language_modeling --gen-subset valid --tokens-per-sample 16")
    words = (*words, "--batch-size 2 --path", made.stream, options)
    assert line.replace("{stream}", str(made.stream)) in told(words, fairseq_cli, capfd)


@pytest.mark.parametrize("options, line", [("nan", "--mem-len must be a number"), ("-1", "--mem-len must be a whole")])
def test_training_a_language_model(options, line, made, fairseq_cli, capfd):
    words = ("train", made.lm, STREAM, "--max-update 1 --no-save --mem-len", options)
    assert line in told(words, fairseq_cli, capfd)


@pytest.mark.parametrize(
    "options",
    [
        "--max-update 0 --max-epoch 1",
        "--clip-norm inf",
        "--clip-norm 0",
        "--lr 0",
        "--lr 0.01,0.005",
        "--patience -1",
        "--save-interval-updates -1 --validate-interval-updates -1",
        "--optimizer adam --adam-betas (0,0.99)",
        "--stop-time-hours inf",
        '--eval-bleu --eval-bleu-args {"beam":2,"max_len_a":1.2,"max_len_b":5}',
    ],
)
def test_what_means_something_is_accepted(options, made, fairseq_cli):
    fairseq_cli("train", made.pairs, TRANSLATE, "--max-update 1 --no-save", options)


@pytest.mark.parametrize("options", ["--unkpen inf", "--model-overrides {'dropout':0.5,'data':'x'}"])
def test_what_means_something_in_decoding(options, made, fairseq_cli, capsys):
    fairseq_cli("generate", made.pairs, "--cpu --max-len-b 5 --path", made.translator, options)
    assert "Generate test with beam=5" in capsys.readouterr().out


def test_the_defaults_of_fairseq_are_possible(fairseq_cli):
    """They are in the configuration of fairseq-hydra-train, which is checked as a whole."""
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_DATACLASS_REGISTRY
    from omegaconf import OmegaConf

    from fairseq_srupp.compat.options import option_values

    groups = [field.default for field in FairseqConfig.__dataclass_fields__.values() if isinstance(field.default, type)]
    for registry in (MODEL_DATACLASS_REGISTRY, TASK_DATACLASS_REGISTRY):
        groups += registry.values()
    for registry in REGISTRIES.values():
        groups += registry["dataclass_registry"].values()
    assert len(groups) > 60
    for group in groups:
        option_values.check(OmegaConf.to_container(OmegaConf.structured(group)), lambda name: f"{group} {name}")


def test_a_fault_of_ours_keeps_its_traceback(made, fairseq_cli, monkeypatch):
    from fairseq_srupp.modules import SRUppStack

    def broken(self, *args, **kwargs):
        raise RuntimeError("a fault with a text")

    monkeypatch.setattr(SRUppStack, "forward", broken)
    with pytest.raises(RuntimeError, match="a fault with a text"):
        fairseq_cli("generate", made.pairs, "--cpu --path", made.translator)


def test_a_fault_of_fairseq_keeps_its_traceback(made, fairseq_cli):
    """The iterations of decoding, which this model has none of, are looked up in vain."""
    with pytest.raises(KeyError, match="history"):
        fairseq_cli("generate", made.pairs, "--cpu --max-len-b 5 --retain-iter-history --path", made.translator)
