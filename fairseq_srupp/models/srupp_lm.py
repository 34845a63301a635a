"""SRU++ language models: embedding, stack, output (section 4), with memory carried across segments of a stream."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

from fairseq.data import Dictionary
from fairseq.dataclass import ChoiceEnum
from fairseq.models import FairseqLanguageModel, register_model
from omegaconf import II
from torch import Tensor

from ..compat.errors import UserError, user_errors
from ..modules.lm_embedding import build_embeddings
from .config import SRUppConfig, check_options
from .decoder import Extras, StackDecoder, padding_mask
from .running import RunAsAsked
from .stream_states import SegmentKey, StreamStates


@dataclass
class SRUppLanguageModelConfig(SRUppConfig):
    """Options of --arch srupp_lm."""

    layers: int = field(default=10, metadata={"help": "number of layers"})
    mem_len: int = field(
        default=II("task.tokens_per_sample"),
        metadata={
            "help": "M: how many positions before the segment training sees, and in evaluation each position before "
            "itself (default: the training --tokens-per-sample; 0: no memory at all, in evaluation a position then "
            "attends to itself alone); of streams, with --task language_modeling a position always sees all before it"
        },
    )
    embed_init: ChoiceEnum(["dimension", "vocabulary"]) = field(
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
    adaptive_input_factor: float = field(
        default=4, metadata={"help": "by which each band is narrower than the one before"}
    )
    adaptive_input_dropout: Optional[float] = field(
        default=None, metadata={"help": "dropout of adaptive embeddings, before their projection (default: --dropout)"}
    )
    adaptive_softmax_cutoff: Optional[str] = field(
        default=None, metadata={"help": "adaptive softmax with these bands; needs --criterion adaptive_loss"}
    )
    adaptive_softmax_factor: float = field(
        default=4, metadata={"help": "by which each band is narrower than the one before"}
    )
    adaptive_softmax_dropout: Optional[float] = field(
        default=None, metadata={"help": "dropout within the adaptive softmax, after its projections (default: --dropout)"}
    )
    tie_adaptive_weights: bool = field(
        default=False, metadata={"help": "adaptive input and softmax share embeddings"}
    )
    tie_adaptive_proj: bool = field(default=False, metadata={"help": "adaptive input and softmax share projections"})


class SRUppLanguageModelDecoder(StackDecoder):
    """The stack of a language model and the streams it reads.

    Args:
        cfg: options.
        dictionary: of the output, and of the input unless that has one of its own.
        input_dictionary: begins with the words of `dictionary` (fairseq's --output-dictionary-size).
        decoding_window: how many positions before itself a position sees in step-by-step decoding; None: all, as in the
            full pass over a text that is no stream.
    """

    def __init__(
        self,
        cfg: SRUppLanguageModelConfig,
        dictionary: Dictionary,
        input_dictionary: Optional[Dictionary] = None,
        decoding_window: Optional[int] = None,
    ):
        if not isinstance(cfg.mem_len, int) or cfg.mem_len < 0:
            raise UserError(f"--mem-len must be a whole number, at least 0, not {cfg.mem_len}")
        check_options(cfg, cfg.layers)
        words = input_dictionary or dictionary
        with user_errors(ValueError):
            embed_tokens, input_size, output = build_embeddings(
                cfg, len(words), len(dictionary), padding_idx=words.pad(), special=words.nspecial
            )
        super().__init__(
            cfg, dictionary, cfg.layers, embed_tokens=embed_tokens, input_size=input_size, output=output
        )
        self.mem_len = cfg.mem_len
        self.decoding_window = decoding_window
        memories = [layer.attention and cfg.mem_len > 0 for layer in self.stack.layers]
        self.stream_states = StreamStates(cfg.hidden_size, memories)
        self.beam = 1

    def make_generation_fast_(self, beamable_mm_beam_size: Optional[int] = None, **kwargs) -> None:
        """fairseq calls this before generation and tells --beam. Rows that are no such beam are as right, and slower."""
        self.beam = beamable_mm_beam_size or 1

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Any = None,
        incremental_state: Optional[Dict] = None,
        src_lengths: Optional[Tensor] = None,
        stream: Optional[SegmentKey] = None,
        features_only: bool = False,
        return_all_hiddens: bool = False,
    ) -> Tuple[Tensor, Extras]:
        """Scores of the next token at each position.

        Args:
            prev_output_tokens: (B, L).
            encoder_out, src_lengths: not used; fairseq passes them.
            incremental_state: for step-by-step decoding: only the tokens not yet seen are run, so the output has
                their positions alone.
            stream: (split, epoch, segment): these tokens continue the segment before in the same split and epoch.
                Without it the model sees these tokens alone, each position all before it.
            features_only: return the stack's output instead of scores.
            return_all_hiddens: also return "inner_states" among the extras: the input of the first layer and the output
                of each, (L, B, d).

        Returns:
            Scores (B, L, V), or features (B, L, d), and a dict of extras.
        """
        inner_states: Optional[List[Tensor]] = [] if return_all_hiddens else None
        if incremental_state is not None:
            rows = prev_output_tokens.size(0)
            beam = self.beam if rows % self.beam == 0 else 1
            features = self.run_decoding(
                prev_output_tokens,
                incremental_state,
                lambda: self.stack.begin_decoding(rows // beam, beam),
                window=self.decoding_window,
                inner_states=inner_states,
            )
        else:
            x, padding = self.embed(prev_output_tokens), padding_mask(prev_output_tokens, self.padding_idx)
            kwargs = {"padding_mask": padding, "inner_states": inner_states}
            features = self._segment(x, stream, **kwargs) if stream else self.stack(x, **kwargs)
        return self.scores(features, features_only, inner_states)

    def _segment(self, x: Tensor, stream: SegmentKey, **kwargs: Any) -> Tensor:
        split, epoch, segment = stream
        state = self.stream_states.entry((split, epoch, segment), training=self.training)
        if self.training:
            features, state = self.stack.forward_segment(x, state, mem_len=self.mem_len, **kwargs)
        else:
            features, state = self.stack.forward_cached(x, state, window=self.mem_len, **kwargs)
        self.stream_states.keep((split, epoch, segment + 1), state)
        return features


@register_model("srupp_lm", dataclass=SRUppLanguageModelConfig)
class SRUppLanguageModel(RunAsAsked, FairseqLanguageModel):
    """SRU++ language model (--arch srupp_lm)."""

    @classmethod
    def build_model(cls, cfg: SRUppLanguageModelConfig, task) -> "SRUppLanguageModel":
        source, target = getattr(task, "source_dictionary", None), task.target_dictionary
        if source is not None and source != target:  # not the same words, of which the target may be the first
            source = None
        window = cfg.mem_len if getattr(task, "reads_streams", False) else None
        model = cls(SRUppLanguageModelDecoder(cfg, target, source, window))
        model.int8 = cfg.int8
        return model

    @property
    def stream_states(self) -> StreamStates:
        """The states of the streams that this model has read."""
        return self.decoder.stream_states

    def set_num_updates(self, num_updates: int) -> None:
        super().set_num_updates(num_updates)
        self.stream_states.set_num_updates(num_updates)

    def max_memory(self) -> int:
        """M: how many positions before a segment training sees."""
        return self.decoder.mem_len
