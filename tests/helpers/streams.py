"""Training and evaluation of tiny models on streams, within the test's process."""

from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import eval_lm, train

import fairseq_srupp.models.srupp_lm  # noqa: F401 (registers the architecture)
from fairseq_srupp.tasks.streaming_language_modeling import (
    StreamingLanguageModelingConfig,
    StreamingLanguageModelingTask,
)

TASK = ["--task", "streaming_language_modeling", "--cpu", "--log-format", "simple"]
SIZES = {"train": 3001, "valid": 302, "test": 1001}
SRUPP = ["--arch", "srupp_lm", "--layers", "2", "--hidden-size", "16", "--attention-dim", "8"]


def run_train(corpus, save_dir, *arguments):
    vars(checkpoint_utils.save_checkpoint).pop("best", None)  # fairseq keeps it from one run to the next
    arguments = [*TASK, "--save-dir", str(save_dir), "--optimizer", "radam", "--lr", "0.01", *arguments]
    args = options.parse_args_and_arch(options.get_training_parser(), [corpus, *map(str, arguments)])
    train.main(convert_namespace_to_omegaconf(args))


def run_eval_lm(corpus, checkpoint, *arguments):
    """Loss in bits per token."""
    words = [corpus, *TASK, "--path", str(checkpoint), "--gen-subset", "test", *map(str, arguments)]
    args = options.parse_args_and_arch(options.get_eval_lm_parser(), words)
    return float(eval_lm.main(convert_namespace_to_omegaconf(args))["loss"])


def make_task(data, **config):
    config = StreamingLanguageModelingConfig(data=str(data), dataset_impl=None, **config)
    return StreamingLanguageModelingTask.setup_task(config)
