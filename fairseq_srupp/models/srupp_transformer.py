"""SRU++ encoder-decoder: each decoder layer attends over concatenated source and target states (appendix B)."""

from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

import torch
from fairseq.data import Dictionary
from fairseq.models import (
    FairseqEncoder,
    FairseqEncoderDecoderModel,
    register_model,
    register_model_architecture,
)
from torch import Tensor, nn

from ..compat.errors import UserError, user_errors
from ..modules import DecodingState
from ..modules.embedding import build_target_embeddings
from ..modules.encoder_decoder import Encoder
from ..modules.options import EncoderDecoderOptions
from .config import SRUppConfig
from .decoder import NO_LIMIT, Extras, StackDecoder, padding_mask
from .running import RunAsAsked

EncoderOut = Dict[str, List[Tensor]]


@dataclass
class SRUppTransformerConfig(SRUppConfig, EncoderDecoderOptions):
    """Options of --arch srupp_transformer."""


class RetainsDropout(nn.Module):
    """With --retain-dropout, a module goes on dropping out when it is told to evaluate."""

    retain_dropout = False

    def make_generation_fast_(self, retain_dropout: bool = False, retain_dropout_modules=None, **kwargs) -> None:
        """fairseq calls this before generation, with the options of these names."""
        meant = retain_dropout_modules is None or type(self).__name__ in retain_dropout_modules
        self.retain_dropout = bool(retain_dropout) and meant

    def train(self, mode: bool = True):
        return super().train(mode or self.retain_dropout)


class SRUppEncoder(RetainsDropout, Encoder, FairseqEncoder):
    """Embedding and a stack that attends in full.

    Args:
        cfg: options.
        dictionary: of the source.
    """

    def __init__(self, cfg: SRUppTransformerConfig, dictionary: Dictionary):
        super().__init__(cfg, len(dictionary), dictionary.pad(), dictionary)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        return_all_hiddens: bool = False,
        token_embeddings: Optional[Tensor] = None,
        src_lang_id: Optional[Tensor] = None,
    ) -> EncoderOut:
        """Encode a batch.

        Args:
            src_tokens: (B, S), padded on either side.
            src_lengths, src_lang_id: not used; fairseq passes them.
            return_all_hiddens: also return all of "encoder_states".
            token_embeddings: (B, S, e), to use instead of those of src_tokens; --embed-scale is for them too.

        Returns:
            As of fairseq's transformer: "encoder_out": [(S, B, d)], "encoder_padding_mask": [bool (B, S), True at padding],
            "encoder_embedding": [(B, S, e)], "encoder_states": the input of the first layer and the output of each,
            (S, B, d), or [], "src_tokens": [], "src_lengths": [int32 (B, 1)]. Besides, "source_padding": [bool (S, B)] of the
            mask, or [] where nothing is known to be padded, and "rows": [], or after `reorder_encoder_out` [int64 (B',)],
            the sentence of each row.
        """
        padding = padding_mask(src_tokens, self.padding_idx)
        if token_embeddings is None:
            # Looked up in the stack's order: dropout draws in the order of memory, and the layers want it contiguous.
            token_embeddings = self.embed_tokens(src_tokens.t()).transpose(0, 1)
        token_embeddings = self.scaled(token_embeddings)
        states: List[Tensor] = []
        inner_states: Optional[List[Tensor]] = None
        if return_all_hiddens:
            inner_states = states
        x = self.encode(token_embeddings.transpose(0, 1), padding, inner_states)
        mask = src_tokens.eq(self.padding_idx)  # tasks of fairseq expect it, padding or not
        source_padding: List[Tensor] = []
        if padding is not None:
            source_padding.append(padding)
        lengths = (~mask).sum(1, keepdim=True, dtype=torch.int32)
        return {
            "encoder_out": [x],
            "encoder_padding_mask": [mask],
            "encoder_embedding": [token_embeddings],
            "encoder_states": states,
            "src_tokens": [],
            "src_lengths": [lengths],
            "source_padding": source_padding,
            "rows": [],
        }

    def max_positions(self) -> int:
        return NO_LIMIT

    def reorder_encoder_out(self, encoder_out: EncoderOut, new_order: Tensor) -> EncoderOut:
        """The rows `new_order` (B',) of an encoded batch: no state is copied, "rows" says which sentence is whose."""
        rows = encoder_out["rows"]
        reordered: EncoderOut = {}
        for name, value in encoder_out.items():
            reordered[name] = value
        reordered["rows"] = [rows[0].index_select(0, new_order) if len(rows) > 0 else new_order]
        return reordered


class SRUppTransformerDecoder(RetainsDropout, StackDecoder):
    """The stack whose layers attend over source and target states; its recurrence runs over the target alone.

    Args:
        cfg: options.
        dictionary: of the target.
        embed_tokens: the embedding to use instead of one of its own.
    """

    def __init__(self, cfg: SRUppTransformerConfig, dictionary: Dictionary, embed_tokens: Optional[nn.Embedding] = None):
        parts = build_target_embeddings(cfg, len(dictionary), dictionary.pad(), embed_tokens)
        super().__init__(cfg, dictionary, cfg.decoder_layers, parts)
        self.need_alignment = False

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[EncoderOut] = None,
        incremental_state: Optional[Dict[str, Dict[str, Optional[Tensor]]]] = None,
        features_only: bool = False,
        alignment_layer: Optional[int] = None,
        alignment_heads: Optional[int] = None,
        src_lengths: Optional[Tensor] = None,
        return_all_hiddens: bool = False,
    ) -> Tuple[Tensor, Extras]:
        """Scores of the next target token at each position.

        Args:
            prev_output_tokens: (B, L).
            encoder_out: what the encoder returned for the B sentences.
            incremental_state: for step-by-step decoding: only the tokens not yet seen are run, so the output has
                their positions alone; the source's keys and values are computed at the first step. TorchScript runs all
                tokens again instead.
            features_only: return the stack's output instead of scores.
            alignment_layer: whose attention is the alignment, counted from 0 (default: the last layer that attends).
            alignment_heads: how many heads' (default: all).
            src_lengths: not used; fairseq passes it.
            return_all_hiddens: also return "inner_states" among the extras: the input of the first layer and the output
                of each, (L, B, d).

        Returns:
            Scores (B, L, V), or features (B, L, d), and a dict of extras: without incremental_state and where alignments
            are needed (training with --load-alignments; `make_generation_fast_(need_attn=...)`), "attn" is
            [alignment (B, L, S)], see `_alignment`.
        """
        assert encoder_out is not None
        inner_states: Optional[List[Tensor]] = None
        if return_all_hiddens:
            inner_states = []
        if not torch.jit.is_scripting():
            if incremental_state is not None:
                features = self._decode(prev_output_tokens, encoder_out, incremental_state, inner_states)
                return self.scores(features, features_only, inner_states)
        x, padding = self.embed(prev_output_tokens), padding_mask(prev_output_tokens, self.padding_idx)
        source, source_padding = _source_of_rows(encoder_out)
        alignment: Optional[Tensor] = None
        if self.need_alignment:
            features, weights = self.stack.forward_with_weights(
                x,
                padding_mask=padding,
                source=source,
                source_padding_mask=source_padding,
                inner_states=inner_states,
                layer=alignment_layer,
            )
            heads = weights if alignment_heads is None else weights[:, :alignment_heads]
            alignment = _alignment(heads, source.size(0))
        else:
            features = self.stack(
                x,
                padding_mask=padding,
                source=source,
                source_padding_mask=source_padding,
                inner_states=inner_states,
            )
        return self.scores(features, features_only, inner_states, alignment)

    def _decode(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncoderOut,
        incremental_state: Dict,
        inner_states: Optional[List[Tensor]],
    ) -> Tensor:
        return self.run_decoding(
            prev_output_tokens, incremental_state, lambda: self._begin(encoder_out), inner_states=inner_states
        )

    def _begin(self, encoder_out: EncoderOut) -> DecodingState:
        source, rows = encoder_out["encoder_out"][0], encoder_out["rows"]
        sentences = source.size(1)
        beam = 1
        if rows:
            beam, rest = divmod(rows[0].numel(), sentences)
            beams = torch.arange(sentences, device=source.device).repeat_interleave(max(1, beam))
            if rest or not torch.equal(rows[0], beams):  # not what a search begins with
                source, padding = _source_of_rows(encoder_out)
                return self.stack.begin_decoding(source.size(1), source=source, source_padding_mask=padding)
        return self.stack.begin_decoding(sentences, beam, source=source, source_padding_mask=_source_padding(encoder_out))

    def make_generation_fast_(self, need_attn: Optional[str] = None, **kwargs) -> None:
        """Also need_attn: --print-alignment."""
        super().make_generation_fast_(**kwargs)
        self.need_alignment = bool(need_attn)


def _source_padding(encoder_out: EncoderOut) -> Optional[Tensor]:
    """(S, B), True at padding, or None."""
    padding = encoder_out["source_padding"]
    if len(padding) == 0:
        return None
    return padding[0]


def _source_of_rows(encoder_out: EncoderOut) -> Tuple[Tensor, Optional[Tensor]]:
    """Source states (S, B, d) and padding (S, B) or None of each row."""
    source, padding = encoder_out["encoder_out"][0], _source_padding(encoder_out)
    if len(encoder_out["rows"]) > 0:
        rows = encoder_out["rows"][0]
        source = source.index_select(1, rows)
        if padding is not None:
            padding = padding.index_select(1, rows)
    return source, padding


def _alignment(weights: Tensor, source_length: int) -> Tensor:
    """How much each target position looks at each source position (B, L, S): of attention probabilities (B, H, L, S + L)
    the mean over heads, of the source positions alone; 0 where none is seen."""
    of_source = weights.mean(1)[:, :, :source_length]
    return of_source / of_source.sum(-1, keepdim=True).clamp_min(1e-37)  # the gradient of 0 / 0 is NaN


@register_model("srupp_transformer", dataclass=SRUppTransformerConfig)
class SRUppTransformer(RunAsAsked, FairseqEncoderDecoderModel):
    """SRU++ encoder-decoder (--arch srupp_transformer)."""

    full_context_alignment = True
    """fairseq's generator asks for alignments in one pass over each finished translation."""

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor],
        prev_output_tokens: Tensor,
        return_all_hiddens: bool = False,
        features_only: bool = False,
        alignment_layer: Optional[int] = None,
        alignment_heads: Optional[int] = None,
        src_lang_id: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Extras]:
        """Scores of each target token from the source and the target tokens before; see the decoder."""
        return self.decoder(
            prev_output_tokens,
            self.encoder(src_tokens, src_lengths),
            features_only=features_only,
            alignment_layer=alignment_layer,
            alignment_heads=alignment_heads,
            return_all_hiddens=return_all_hiddens,
        )

    @classmethod
    def build_model(cls, cfg: SRUppTransformerConfig, task) -> "SRUppTransformer":
        if cfg.no_attention or cfg.no_projection:
            raise UserError("srupp_transformer cannot do without attention: the decoder sees the source through it alone")
        source, target = task.source_dictionary, task.target_dictionary
        if cfg.share_all_embeddings and source != target:
            raise UserError("--share-all-embeddings needs one dictionary for both sides (--joined-dictionary)")
        with user_errors(ValueError):
            encoder = SRUppEncoder(cfg, source)
            decoder = SRUppTransformerDecoder(cfg, target, encoder.embed_tokens if cfg.share_all_embeddings else None)
        model = cls(encoder, decoder)
        model.int8 = cfg.int8
        options = getattr(task, "cfg", None) or getattr(task, "args", None)  # criteria compare with given alignments
        model.decoder.need_alignment = bool(getattr(options, "load_alignments", False))
        return model


@register_model_architecture("srupp_transformer", "srupp_transformer_iwslt_de_en")
def iwslt_de_en(args) -> None:
    """IWSLT'14 De-En, table 8: 20.4M parameters; with --attention-every-n-layers 2, 19.6M."""
    preset = {
        "hidden_size": 1024,
        "attention_dim": 256,
        "embed_dim": 256,
        "encoder_layers": 6,
        "decoder_layers": 6,
        "share_decoder_input_output_embed": True,
    }
    for name, value in preset.items():
        setattr(args, name, getattr(args, name, value))
