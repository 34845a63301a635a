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
from ..modules.options import LanguageModelOptions
from .config import SRUppConfig, same
from .decoder import Extras, StackDecoder, padding_mask
from .running import RunAsAsked
from .stream_states import SegmentKey, StreamStates


@dataclass
class SRUppLanguageModelConfig(SRUppConfig, LanguageModelOptions):
    """Options of --arch srupp_lm."""

    mem_len: int = field(
        default=II("task.tokens_per_sample"),
        metadata={
            "help": "M: how many positions before the segment training sees, and in evaluation each position before "
            "itself (default: the training --tokens-per-sample; 0: no memory at all, in evaluation a position then "
            "attends to itself alone); of streams, with --task language_modeling a position always sees all before it"
        },
    )
    embed_init: ChoiceEnum(["dimension", "vocabulary"]) = same(LanguageModelOptions, "embed_init")


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
        words = input_dictionary or dictionary
        with user_errors(ValueError):
            parts = build_embeddings(cfg, len(words), len(dictionary), padding_idx=words.pad(), special=words.nspecial)
            super().__init__(cfg, dictionary, cfg.layers, parts)
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
