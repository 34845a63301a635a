"""What a model's options make. They are the attributes of any object: of fairseq's configuration (models/config.py), or of
that of transformers (hf/config.py)."""

from typing import Any, Dict, List, Optional

from .attention_layers import attention_layer_indices
from .stack import SRUppStack


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
