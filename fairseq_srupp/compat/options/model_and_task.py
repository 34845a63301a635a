"""A model of another kind than the task's is refused.

fairseq (0.12) builds it with what the task has: a checkpoint of a translation model in fairseq-eval-lm ends in an
AttributeError, one of a language model in fairseq-generate in no output at all. May go when it compares the two.
"""

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.patch import wrap


def apply() -> None:
    from fairseq import models
    from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY, FairseqEncoderDecoderModel, FairseqLanguageModel
    from fairseq.tasks.language_modeling import LanguageModelingTask
    from fairseq.tasks.translation import TranslationTask

    @wrap(models, "build_model")
    def build_model(original, cfg, task, *args, **kwargs):
        name = getattr(cfg, "_name", None) or getattr(cfg, "arch", None)
        kind = MODEL_REGISTRY.get(name) or ARCH_MODEL_REGISTRY.get(name)
        if isinstance(kind, type):
            if issubclass(kind, FairseqLanguageModel) and isinstance(task, TranslationTask):
                raise UserError(f"{name} is a language model: it needs --task language_modeling, or another of one text")
            if issubclass(kind, FairseqEncoderDecoderModel) and isinstance(task, LanguageModelingTask):
                raise UserError(f"{name} translates: it needs --task translation, or another of two texts")
        return original(cfg, task, *args, **kwargs)
