"""Options that language model and encoder-decoder share; the names are the command line's with underscores."""

from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from ..compat.errors import user_errors
from ..modules import SRUppStack, options
from ..modules.transform import ATTENTION_NORMS


@dataclass
class SRUppConfig(FairseqDataclass):
    """Stack, embedding and dropout of an SRU++ model."""

    hidden_size: int = field(default=1024, metadata={"help": "d: size of each layer's input, output and state"})
    attention_dim: int = field(default=256, metadata={"help": "d': size of query, key and value"})
    attention_heads: int = field(default=1, metadata={"help": "attention heads; must divide --attention-dim"})
    attention_every_n_layers: int = field(default=1, metadata={"help": "k: layers k, 2k, 3k, ... attend"})
    attention_layers: Optional[str] = field(
        default=None, metadata={"help": "the layers that attend, 1-based, e.g. 6,7,8,9,10; instead of every k-th"}
    )
    no_attention: bool = field(default=False, metadata={"help": "no layer attends"})
    no_projection: bool = field(default=False, metadata={"help": "plain SRU, U = X W (figure 2 a); no layer attends"})
    attention_norm: ChoiceEnum(ATTENTION_NORMS) = field(
        default="post", metadata={"help": "layer norm after the attention's residual, before attention, or none"}
    )
    query_key_norm: bool = field(
        default=False,
        metadata={"help": "RMS norm of queries and keys, each head's by itself (not in the paper; see examples/translation)"},
    )
    independent_query: bool = field(
        default=False, metadata={"help": "a third d' by d' matrix: query, key and value over X' = X W"}
    )
    alpha_init: float = field(
        default=0.0, metadata={"help": "alpha at the start: attention has to grow from 0 (the paper), 1 has it at once"}
    )
    embed_dim: Optional[int] = field(default=None, metadata={"help": "size of the embeddings (default: --hidden-size)"})
    embed_scale: float = field(
        default=1.0,
        metadata={"help": "factor of the embeddings (fairseq's transformer has the root of their size; not in the paper)"},
    )
    output_norm: bool = field(
        default=False,
        metadata={"help": "layer norm of what the (decoder's) last layer gives to the output layer (not in the paper)"},
    )
    dropout: float = field(default=0.1, metadata={"help": "dropout within layers and of the stack's output"})
    attention_dropout: Optional[float] = field(
        default=None, metadata={"help": "dropout of attention probabilities (default: --dropout)"}
    )
    embed_dropout: Optional[float] = field(
        default=None, metadata={"help": "dropout of the embeddings (default: --dropout)"}
    )
    share_decoder_input_output_embed: bool = field(
        default=False, metadata={"help": "the (decoder's) output layer uses its input embeddings"}
    )
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


def build_stack(cfg: SRUppConfig, layers: int, **kwargs: Any) -> SRUppStack:
    """A stack of `layers` layers as the options say; kwargs as of SRUppStack.

    Raises:
        UserError: options that do not fit together.
    """
    with user_errors(ValueError):
        return options.build_stack(
            cfg, layers, checkpoint_activations=cfg.checkpoint_activations, compiled=cfg.compile, **kwargs
        )


def check_options(cfg: SRUppConfig, *layers: int) -> None:
    """Sizes and rates, and the numbers of layers, before anything is built of them.

    Raises:
        UserError: one that is out of range.
    """
    with user_errors(ValueError):
        options.check_options(cfg, *layers)
