"""Embedding and output layer of a language model, plain or adaptive, as its options say."""

from typing import Any, List, Optional, Tuple

from torch import nn

from .adaptive import AdaptiveInput, AdaptiveSoftmax, Bands, band_dims, band_embeddings, band_projections
from .embedding import OutputLayer, build_embedding
from .options import check_options, embed_dim


def build_embeddings(
    cfg: Any, words: int, outputs: Optional[int] = None, *, padding_idx: int = 1, special: int = 4
) -> Tuple[nn.Module, int, nn.Module]:
    """What maps words to embeddings, the embeddings' size, and what maps features to scores.

    Args:
        cfg: options, see options.py.
        words: how many there are.
        outputs: how many of them, the first ones, have scores (default: all).
        padding_idx: the word that is padding.
        special: how many words, the first ones, are none of the data.

    Raises:
        ValueError: options out of range or that do not fit together, or cut-offs beyond the dictionary.
    """
    outputs = words if outputs is None else outputs
    check_options(cfg, cfg.layers)
    _check(cfg)
    _check_sizes(cfg, words, outputs, special)
    size = cfg.hidden_size
    output, embed_tokens, input_size = None, None, size
    # V is the data's symbols, 205 bytes of enwik8: fairseq's special ones are none of the author's.
    variance = 1 / max(1, outputs - special) if str(cfg.embed_init) == "vocabulary" else None
    softmax_bands = _bands(cfg.adaptive_softmax_cutoff, outputs, special, "--adaptive-softmax-cutoff")
    if softmax_bands is not None:
        dims = _dims(cfg, softmax_bands, cfg.adaptive_softmax_factor)
        embeddings = band_embeddings(softmax_bands, dims, size, clusters=True)
        output = AdaptiveSoftmax(
            softmax_bands, embeddings, band_projections(dims, size), dropout=_dropout(cfg, cfg.adaptive_softmax_dropout)
        )
    if cfg.adaptive_input:
        cutoff = cfg.adaptive_input_cutoff or cfg.adaptive_softmax_cutoff
        bands = _bands(cutoff, words, special, "--adaptive-input-cutoff")
        dims = _dims(cfg, bands, cfg.adaptive_input_factor)
        tied = cfg.tie_adaptive_weights or cfg.share_decoder_input_output_embed
        if tied and (bands.ends != softmax_bands.ends or cfg.adaptive_input_factor != cfg.adaptive_softmax_factor):
            raise ValueError("--tie-adaptive-weights needs the same cut-offs and factor for input and softmax")
        embed_tokens = AdaptiveInput(
            bands,
            output.embeddings if tied else band_embeddings(bands, dims, size),
            output.projections if cfg.tie_adaptive_proj else band_projections(dims, size),
            padding_idx=padding_idx,
            dropout=_dropout(cfg, cfg.adaptive_input_dropout),
        )
    else:
        input_size = embed_dim(cfg)
        embed_tokens = build_embedding(words, input_size, padding_idx, variance=variance)
    if output is None:
        shared = embed_tokens if cfg.share_decoder_input_output_embed else None
        output = OutputLayer(size, symbols=outputs, embedding=shared, variance=variance)
    return embed_tokens, input_size, output


def _check(cfg: Any) -> None:
    if str(cfg.embed_init) != "dimension" and (cfg.adaptive_input or cfg.adaptive_softmax_cutoff):
        raise ValueError(f"--embed-init {cfg.embed_init} is of plain embeddings: not with adaptive input or softmax")
    if cfg.adaptive_input and not (cfg.adaptive_input_cutoff or cfg.adaptive_softmax_cutoff):
        raise ValueError("--adaptive-input needs --adaptive-input-cutoff")
    both = cfg.adaptive_input and cfg.adaptive_softmax_cutoff
    if (cfg.tie_adaptive_weights or cfg.tie_adaptive_proj) and not both:
        raise ValueError("--tie-adaptive-weights and --tie-adaptive-proj need --adaptive-input and --adaptive-softmax-cutoff")
    if cfg.tie_adaptive_proj and not (cfg.tie_adaptive_weights or cfg.share_decoder_input_output_embed):
        raise ValueError("--tie-adaptive-proj needs --tie-adaptive-weights")
    if cfg.share_decoder_input_output_embed and bool(cfg.adaptive_input) != bool(cfg.adaptive_softmax_cutoff):
        raise ValueError("--share-decoder-input-output-embed needs input and output both adaptive, or both plain")
    for name in ("adaptive_input_factor", "adaptive_softmax_factor"):
        if not 1 <= getattr(cfg, name) < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(cfg, name)}")
    for name in ("adaptive_input_dropout", "adaptive_softmax_dropout"):
        if not 0 <= _dropout(cfg, getattr(cfg, name)) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 0 and below 1, not {getattr(cfg, name)}")


def _check_sizes(cfg: Any, words: int, outputs: int, special: int) -> None:
    if outputs == words:
        return
    if outputs < special:
        raise ValueError(f"--output-dictionary-size {outputs} is less than the {special} special symbols, which stand first")
    for name in ("share_decoder_input_output_embed", "tie_adaptive_weights"):
        if getattr(cfg, name):
            raise ValueError(
                f"--{name.replace('_', '-')} needs one dictionary for input and output, but they have {words} and "
                f"{outputs} symbols (--output-dictionary-size)"
            )


def _bands(cutoff: Optional[str], words: int, special: int, option: str) -> Optional[Bands]:
    if not cutoff:
        return None
    try:
        bands = Bands(words, [int(end) for end in str(cutoff).split(",")])
        if bands.ends[0] < special:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{option} {cutoff}: expected increasing numbers, from the {special} special symbols, which "
            f"stand first, to the {words} symbols of the dictionary (is it the model's own?)"
        ) from None
    return bands


def _dropout(cfg: Any, own: Optional[float]) -> float:
    return cfg.dropout if own is None else own


def _dims(cfg: Any, bands: Bands, factor: float) -> List[int]:
    return band_dims(bands, embed_dim(cfg), factor)
