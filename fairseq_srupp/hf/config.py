"""Configurations of transformers: the options of modules/options.py, and the sizes of vocabularies."""

from typing import Optional

from transformers import PreTrainedConfig

from ..modules.options import EncoderDecoderOptions, LanguageModelOptions, ModelOptions


class SRUppConfig(ModelOptions, PreTrainedConfig):
    """What language model and encoder-decoder share. vocab_size is of the (decoder's) input."""

    vocab_size: int = 260
    use_cache: bool = True
    tie_word_embeddings: bool = True  # whatever is tied, transformers ties nothing without it
    bos_token_id: int = 0
    pad_token_id: int = 1
    eos_token_id: int = 2
    unk_token_id: int = 3


class SRUppLMConfig(SRUppConfig, LanguageModelOptions):
    """Of a language model. A position sees mem_len positions before itself (None: all); the first output_vocab_size
    words have scores (None: all)."""

    model_type = "srupp_lm"

    mem_len: Optional[int] = None
    output_vocab_size: Optional[int] = None


class SRUppTransformerConfig(SRUppConfig, EncoderDecoderOptions):
    """Of an encoder-decoder. source_vocab_size is of the encoder's input (None: vocab_size)."""

    model_type = "srupp_transformer"

    is_encoder_decoder: bool = True
    decoder_start_token_id: int = 2
    source_vocab_size: Optional[int] = None
