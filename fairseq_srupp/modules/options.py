"""The options of models, and what they make. Functions take any object with these attributes: fairseq's configurations
(models/config.py) and those of transformers (hf/config.py) inherit from them."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from .attention_layers import attention_layer_indices
from .stack import SRUppStack


@dataclass
class ModelOptions:
    """Of language model and encoder-decoder: what makes another model of them. The names are the command line's with
    underscores."""

    hidden_size: int = field(default=1024, metadata={"help": "d: size of each layer's input, output and state"})
    attention_dim: int = field(default=256, metadata={"help": "d': size of query, key and value"})
    attention_heads: int = field(default=1, metadata={"help": "attention heads; must divide --attention-dim"})
    attention_every_n_layers: int = field(default=1, metadata={"help": "k: layers k, 2k, 3k, ... attend"})
    attention_layers: Optional[str] = field(
        default=None, metadata={"help": "the layers that attend, 1-based, e.g. 6,7,8,9,10; instead of every k-th"}
    )
    no_attention: bool = field(default=False, metadata={"help": "no layer attends"})
    no_projection: bool = field(default=False, metadata={"help": "plain SRU, U = X W (figure 2 a); no layer attends"})
    attention_norm: str = field(
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
    embed_dropout: Optional[float] = field(default=None, metadata={"help": "dropout of the embeddings (default: --dropout)"})
    share_decoder_input_output_embed: bool = field(
        default=False, metadata={"help": "the (decoder's) output layer uses its input embeddings"}
    )


@dataclass
class LanguageModelOptions(ModelOptions):
    """Of a language model."""

    layers: int = field(default=10, metadata={"help": "number of layers"})
    embed_init: str = field(
        default="dimension",
        metadata={
            "help": "from what embeddings and output start: U(+-sqrt(3/d)), or U(+-sqrt(3/V)), V the symbols of the "
            "dictionary but for fairseq's four, as the author's script for the small model of enwik8 does"
        },
    )
    adaptive_input: bool = field(
        default=False, metadata={"help": "embeddings that are narrower for rarer words, --embed-dim for the first band"}
    )
    adaptive_input_cutoff: Optional[str] = field(
        default=None,
        metadata={"help": "where the bands end, e.g. 20000,60000 (default: --adaptive-softmax-cutoff)"},
    )
    adaptive_input_factor: float = field(default=4, metadata={"help": "by which each band is narrower than the one before"})
    adaptive_input_dropout: Optional[float] = field(
        default=None, metadata={"help": "dropout of adaptive embeddings, before their projection (default: --dropout)"}
    )
    adaptive_softmax_cutoff: Optional[str] = field(
        default=None, metadata={"help": "adaptive softmax with these bands; needs --criterion adaptive_loss"}
    )
    adaptive_softmax_factor: float = field(default=4, metadata={"help": "by which each band is narrower than the one before"})
    adaptive_softmax_dropout: Optional[float] = field(
        default=None, metadata={"help": "dropout within the adaptive softmax, after its projections (default: --dropout)"}
    )
    tie_adaptive_weights: bool = field(default=False, metadata={"help": "adaptive input and softmax share embeddings"})
    tie_adaptive_proj: bool = field(default=False, metadata={"help": "adaptive input and softmax share projections"})


@dataclass
class EncoderDecoderOptions(ModelOptions):
    """Of an encoder-decoder."""

    encoder_layers: int = field(default=6, metadata={"help": "number of encoder layers"})
    decoder_layers: int = field(default=6, metadata={"help": "number of decoder layers"})
    encoder_unidirectional: bool = field(
        default=False, metadata={"help": "the encoder's recurrence runs forward only (default: half of d each way)"}
    )
    share_all_embeddings: bool = field(
        default=False, metadata={"help": "one embedding for source, target and output; needs a joined dictionary"}
    )


def embed_dim(cfg: Any) -> int:
    return cfg.hidden_size if cfg.embed_dim is None else cfg.embed_dim


def embed_dropout(cfg: Any) -> float:
    return cfg.dropout if cfg.embed_dropout is None else cfg.embed_dropout


def _attention_layers(cfg: Any, layers: int) -> List[int]:
    if cfg.no_attention or cfg.no_projection:
        if cfg.attention_layers is not None:
            option = "--no-attention" if cfg.no_attention else "--no-projection"
            raise ValueError(f"{option} and --attention-layers {cfg.attention_layers} contradict each other")
        return []
    if cfg.attention_layers is None:
        return attention_layer_indices(layers, cfg.attention_every_n_layers)
    try:
        explicit = [int(i) for i in str(cfg.attention_layers).split(",")]
    except ValueError:
        raise ValueError(f"--attention-layers {cfg.attention_layers}: expected layer numbers such as 6,7,8") from None
    return attention_layer_indices(layers, explicit=explicit)


def build_stack(cfg: Any, layers: int, **kwargs: Any) -> SRUppStack:
    """A stack of `layers` layers as the options say; kwargs as of SRUppStack.

    Raises:
        ValueError: options that do not fit together.
    """
    return SRUppStack(
        cfg.hidden_size,
        cfg.attention_dim,
        layers,
        attention_layers=_attention_layers(cfg, layers),
        heads=cfg.attention_heads,
        dropout=cfg.dropout,
        attention_dropout=cfg.dropout if cfg.attention_dropout is None else cfg.attention_dropout,
        attention_norm=str(cfg.attention_norm),
        query_key_norm=cfg.query_key_norm,
        independent_query=cfg.independent_query,
        alpha_init=cfg.alpha_init,
        projection=not cfg.no_projection,
        checkpoint_activations=getattr(cfg, "checkpoint_activations", False),
        compiled=getattr(cfg, "compile", False),
        **kwargs,
    )


def check_options(cfg: Any, *layers: int) -> None:
    """Sizes and rates, and the numbers of layers, before anything is built of them.

    Raises:
        ValueError: one that is out of range.
    """
    sizes: Dict[str, Optional[int]] = {
        "--hidden-size": cfg.hidden_size,
        "--attention-dim": cfg.attention_dim,
        "--attention-heads": cfg.attention_heads,
        "--embed-dim": cfg.embed_dim,
        "number of layers": min(layers),
    }
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")
    if not 0 < cfg.embed_scale < float("inf"):
        raise ValueError(f"--embed-scale must be above 0, not {cfg.embed_scale}")
    for name in ("dropout", "attention_dropout", "embed_dropout"):
        p = getattr(cfg, name)
        if p is not None and not 0 <= p < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 0 and below 1, not {p}")
