"""The models for transformers, of the same parts and with the same names of parameters as those of models/.

Generation is transformers' own: its cache is the state with which `SRUppStack.forward_decoding` goes from step to step.
"""

import dataclasses
import glob
import os
from typing import Any, Dict, List, Optional, Tuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast, Seq2SeqLMOutput
from transformers.utils import can_return_tuple

from ..modules import DecodingState
from ..modules.embedding import build_target_embeddings
from ..modules.encoder_decoder import Decoder, Encoder
from ..modules.int8 import RunsInInt8
from ..modules.lm_embedding import build_embeddings
from .config import SRUppConfig, SRUppLMConfig, SRUppTransformerConfig

# What transformers calls a cache depends on its version.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class SRUppCache(Cache):
    """What a model has read, for B rows; each `beam` of them, of one sentence, share its keys and values."""

    def __init__(self, beam: int = 1):
        super().__init__(layers=[])
        self.beam = beam
        self.state: Optional[DecodingState] = None
        self.seen = 0

    def __len__(self) -> int:
        return 1  # or an empty one would be taken for none

    @property
    def is_linear(self) -> List[bool]:
        return [False]  # of no layer: rows that are given with their past are cut to what is new

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.seen

    def crop(self, *args: Any) -> None:
        raise NotImplementedError("a recurrence cannot go back: its state before is not kept")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i continues what row beam_idx[i] has read."""
        if self.state is not None:
            self.state = self.state.reorder(beam_idx.to(self.state.beams.slots.device, torch.long))


@dataclasses.dataclass
class EncoderOutput(BaseModelOutput):
    """last_hidden_state (B, S, d), and mask (B, S), 0 at padding."""

    mask: Optional[Tensor] = None


class SRUppEncoder(Encoder):
    """The encoder, as transformers' generate calls it."""

    main_input_name = "input_ids"

    def forward(self, input_ids: Tensor, attention_mask: Optional[Tensor] = None, **kwargs: Any) -> EncoderOutput:
        """Encode sentences (B, S), padded on either side where attention_mask (B, S) is 0 (default: at padding)."""
        mask = input_ids.ne(self.padding_idx) if attention_mask is None else attention_mask
        x = self.encode(self.scaled(self.embed_tokens(input_ids.t())), _padding(mask))
        return EncoderOutput(last_hidden_state=x.transpose(0, 1), mask=mask)


class SRUppPreTrainedModel(RunsInInt8, PreTrainedModel):
    """What both models answer transformers."""

    _is_stateful = True  # nothing that was read can be taken back

    def post_init(self) -> None:
        """Also tell transformers which parameters are the same: all names but the first of each."""
        first = {parameter: name for name, parameter in self.named_parameters()}
        every = self.named_parameters(remove_duplicate=False)
        self._tied_weights_keys = {name: first[each] for name, each in every if first[each] != name}
        super().post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Modules initialise themselves when they are built."""

    def _prepare_cache_for_generation(self, generation_config, model_kwargs: Dict, *args: Any, **kwargs: Any) -> None:
        if model_kwargs.get(CACHE) is None and generation_config.use_cache is not False:
            model_kwargs[CACHE] = SRUppCache(generation_config.num_beams or 1)

    def _features(
        self, ids: Tensor, mask: Optional[Tensor], cache: Optional[SRUppCache], source: Optional[EncoderOutput] = None
    ) -> Tensor:
        """Features (B, L, d) of tokens ids (B, L) that follow what the cache has read, which then has read them too.

        mask: (B, any), its last L 0 at padding. source: of the B rows; a cache needs it once.
        """
        stack, x, padding = self.decoder.stack, self.decoder.embed(ids), _padding(mask, ids.size(1))
        window = None if self.training else getattr(self.config, "mem_len", None)
        cache = SRUppCache() if cache is None and window is not None else cache
        beam = 1 if cache is None or len(ids) % cache.beam else cache.beam
        context: Dict[str, Optional[Tensor]] = {}
        if source is not None and (cache is None or cache.state is None):
            context["source"] = source.last_hidden_state[::beam].transpose(0, 1)
            context["source_padding_mask"] = _padding(source.mask, beam=beam)
        if cache is None:
            return self.decoder.features(stack(x, padding, **context))
        if cache.state is None:
            cache.state = stack.begin_decoding(len(ids) // beam, beam, **context)
        h, cache.state = stack.forward_decoding(x, cache.state, window=window, padding_mask=padding)
        cache.seen += ids.size(1)
        return self.decoder.features(h)

    def _logits(self, features: Tensor) -> Tensor:
        """Scores (B, L, V) of features (B, L, d); log-probabilities with an adaptive softmax."""
        output = self.decoder.output
        return self.decoder.log_probs(features) if output is None else output(features)

    @classmethod
    def from_pretrained(
        cls, name: str, *args: Any, config: Any = None, int8: bool = False, **kwargs: Any
    ) -> "SRUppPreTrainedModel":
        """As of PreTrainedModel, from safetensors alone; with int8 for generation and evaluation in int8, on a CPU.

        Raises:
            ValueError: in one line, where the tensors in a folder are damaged, or none of the model of its config.json.
        """
        if os.path.isdir(name) and not kwargs.get("ignore_mismatched_sizes"):
            try:
                known = isinstance(config, cls.config_class)
                cls._check(config if known else cls.config_class.from_pretrained(name), name)
            except (SafetensorError, RuntimeError, TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"{name} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
        model = super().from_pretrained(name, *args, config=config, **{**kwargs, "use_safetensors": True})
        model.int8 = int8
        return model.eval()

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        if self.int8:
            raise ValueError("a model in int8 cannot be saved: it has its weights no more")
        super().save_pretrained(*args, **kwargs)

    @classmethod
    def _check(cls, config: SRUppConfig, folder: str) -> None:
        """Compares names and shapes of a folder's tensors with those of the model, before anything takes memory."""
        shapes: Dict[str, Tuple[int, ...]] = {}
        for path in glob.glob(os.path.join(glob.escape(folder), "model*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    shapes.update({key: tuple(file.get_slice(key).get_shape()) for key in file.keys()})
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{os.path.basename(path)} is damaged ({error})") from error
        if not shapes:
            raise ValueError("there is no model.safetensors")
        if sum(getattr(config, name, 0) for name in ("layers", "encoder_layers", "decoder_layers")) > len(shapes):
            raise ValueError(f"config.json tells of more layers than {len(shapes)} tensors can make")
        with torch.device("meta"):
            model = cls(config)
        expected = {key: tuple(parameter.shape) for key, parameter in model.named_parameters()}
        for key in sorted(expected.keys() | shapes.keys()):
            if shapes.get(key) != expected.get(key):
                there, here = shapes.get(key, "not there"), expected.get(key, "not there")
                raise ValueError(f"{key} is {there} in model.safetensors, and {here} in the model of config.json")


class SRUppForCausalLM(SRUppPreTrainedModel, GenerationMixin):
    """SRU++ language model."""

    config_class = SRUppLMConfig

    def __init__(self, config: SRUppLMConfig):
        super().__init__(config)
        parts = build_embeddings(config, config.vocab_size, config.output_vocab_size, padding_idx=config.pad_token_id)
        self.decoder = Decoder(config, config.layers, parts)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Optional[Tensor] = None,
        cache: Optional[SRUppCache] = None,
        labels: Optional[Tensor] = None,
        use_cache: Optional[bool] = None,
        logits_to_keep: int = 0,
        past_key_values: Optional[SRUppCache] = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Scores of the next token at each position.

        Args:
            input_ids: (B, L).
            attention_mask: (B, any), its last L 0 at padding, which may stand anywhere.
            cache, past_key_values: what was read before; None: the text begins (in training all before is seen).
            labels: (B, L), input_ids or -100: `loss` is the mean of how surprising each is after those before it.
            use_cache: return a cache.
            logits_to_keep: of how many last positions there are scores (default: all).

        Returns:
            loss, logits (B, L, V) and cache.
        """
        cache = cache or past_key_values or (SRUppCache() if use_cache else None)
        logits = self._logits(self._features(input_ids, attention_mask, cache)[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            labels = labels.masked_fill(labels >= logits.size(-1), self.config.unk_token_id)
            loss = self.loss_function(logits, labels, vocab_size=logits.size(-1), **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})

    @torch.no_grad()
    def score(self, input_ids: Tensor, cache: Optional[SRUppCache] = None, segment: int = 512) -> Tuple[Tensor, SRUppCache]:
        """How probable each token of a text is after all before it, whatever its length: it is read in segments.

        Args:
            input_ids: (B, N), N of at least 1. The parts of a text begin with the last token of the part before.
            cache: what was read before the first token; None: nothing.
            segment: how many tokens are read at a time. The result does not depend on it.

        Returns:
            Log-probabilities (B, N - 1), fp32, of input_ids[:, 1:], and the cache, which has read all but the last.
        """
        cache = SRUppCache() if cache is None else cache
        scores = [torch.zeros(input_ids.size(0), 0, device=input_ids.device)]
        words = self.config.output_vocab_size or self.config.vocab_size
        target = input_ids[:, 1:].masked_fill(input_ids[:, 1:] >= words, self.config.unk_token_id)
        for tokens, following in zip(input_ids[:, :-1].split(segment, 1), target.split(segment, 1)):
            scores.append(self.decoder.log_probs(self._features(tokens, None, cache), following))
        return torch.cat(scores, 1), cache


class SRUppForSeq2SeqLM(SRUppPreTrainedModel, GenerationMixin):
    """SRU++ encoder-decoder."""

    config_class = SRUppTransformerConfig

    def __init__(self, config: SRUppTransformerConfig):
        super().__init__(config)
        self.encoder = SRUppEncoder(config, config.source_vocab_size or config.vocab_size, config.pad_token_id)
        shared = self.encoder.embed_tokens if config.share_all_embeddings else None
        parts = build_target_embeddings(config, config.vocab_size, config.pad_token_id, shared)
        self.decoder = Decoder(config, config.decoder_layers, parts)
        self.post_init()

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """The tokens (B, L) before each of labels (B, L), whose -100 are padding."""
        labels = labels.masked_fill(labels == -100, self.config.pad_token_id)
        return torch.cat((torch.full_like(labels[:, :1], self.config.decoder_start_token_id), labels[:, :-1]), 1)

    @can_return_tuple
    def forward(
        self,
        input_ids: Optional[Tensor] = None,
        attention_mask: Optional[Tensor] = None,
        decoder_input_ids: Optional[Tensor] = None,
        decoder_attention_mask: Optional[Tensor] = None,
        encoder_outputs: Optional[BaseModelOutput] = None,
        cache: Optional[SRUppCache] = None,
        labels: Optional[Tensor] = None,
        use_cache: Optional[bool] = None,
        logits_to_keep: int = 0,
        past_key_values: Optional[SRUppCache] = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Scores (B, L, V) of the next target token at each position, as of SRUppForCausalLM.

        Args:
            input_ids, attention_mask: the source (B, S), 0 at padding (default: at padding tokens); or encoder_outputs.
            decoder_input_ids, decoder_attention_mask: the target (B, L) so far, by default made of labels.
            labels: (B, L), -100 at padding.
        """
        cache = cache or past_key_values or (SRUppCache() if use_cache else None)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask)
        elif not isinstance(encoder_outputs, EncoderOutput):
            encoder_outputs = EncoderOutput(last_hidden_state=encoder_outputs[0], mask=attention_mask)
        if decoder_input_ids is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if decoder_attention_mask is None and cache is None:
            decoder_attention_mask = decoder_input_ids.ne(self.config.pad_token_id)
        features = self._features(decoder_input_ids, decoder_attention_mask, cache, encoder_outputs)
        logits = self._logits(features[:, -logits_to_keep:])
        loss = None
        if labels is not None:  # label i is what follows decoder_input_ids up to i
            loss = self.loss_function(logits, None, vocab_size=logits.size(-1), shift_labels=labels, **kwargs)
        return Seq2SeqLMOutput(loss=loss, logits=logits, encoder_last_hidden_state=encoder_outputs[0], **{CACHE: cache})

    def _get_logits_processor(self, generation_config, *args: Any, **kwargs: Any):
        """Also: the last token that may be is the end of the sentence, for what it costs, as in fairseq."""
        processors = super()._get_logits_processor(generation_config, *args, **kwargs)
        limit, eos = generation_config.max_length, generation_config.eos_token_id

        def end_at_limit(input_ids: Tensor, scores: Tensor) -> Tensor:
            if input_ids.size(1) < limit - 1:
                return scores
            ended = torch.full_like(scores, float("-inf"))
            ended[:, eos] = scores[:, eos]
            return ended

        if limit and eos is not None:
            processors.append(end_at_limit)
        return processors


def _padding(mask: Optional[Tensor], length: int = 0, beam: int = 1) -> Optional[Tensor]:
    """Bool (L, B / g), True at padding, of the last L = length positions (0: all) of a mask (B, any), where g = beam
    rows next to each other are equal; None where nothing is padded."""
    if mask is None:
        return None
    padding = mask[::beam, -length:].eq(0)
    return padding.t().contiguous() if padding.any() else None
