"""What fairseq's configurations have beside the options of modules/options.py."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from ..modules.options import ModelOptions
from ..modules.transform import ATTENTION_NORMS


def same(options: type, name: str) -> Any:
    """The field `name` of these options, for a type of its own: fairseq's of a choice."""
    plain = options.__dataclass_fields__[name]
    return field(default=plain.default, metadata=plain.metadata)


@dataclass
class SRUppConfig(ModelOptions, FairseqDataclass):
    """Stack, embedding and dropout of an SRU++ model, and how it is run."""

    attention_norm: ChoiceEnum(ATTENTION_NORMS) = same(ModelOptions, "attention_norm")
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "compute activations again in the backward pass, to save memory"}
    )
    int8: bool = field(
        default=False,
        metadata={"help": "generation and evaluation in int8, on a CPU; give it as --model-overrides \"{'int8': True}\""},
    )
    compile: bool = field(
        default=False, metadata={"help": "train with layers that torch.compile has compiled, which takes minutes at first"}
    )
