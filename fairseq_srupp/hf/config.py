"""Configurations of transformers: the options of models/config.py under the same names, and the sizes of vocabularies."""

from typing import Optional

from transformers import PreTrainedConfig


class SRUppConfig(PreTrainedConfig):
    """Options that language model and encoder-decoder share; models/config.py tells of each. vocab_size is of the
    (decoder's) input."""

    vocab_size: int = 260
    hidden_size: int = 1024
    attention_dim: int = 256
    attention_heads: int = 1
    attention_every_n_layers: int = 1
    attention_layers: Optional[str] = None
    no_attention: bool = False
    no_projection: bool = False
    attention_norm: str = "post"
    query_key_norm: bool = False
    independent_query: bool = False
    alpha_init: float = 0.0
    embed_dim: Optional[int] = None
    embed_scale: float = 1.0
    output_norm: bool = False
    dropout: float = 0.1
    attention_dropout: Optional[float] = None
    embed_dropout: Optional[float] = None
    share_decoder_input_output_embed: bool = False
    use_cache: bool = True
    tie_word_embeddings: bool = True  # whatever is tied, transformers ties nothing without it
    bos_token_id: int = 0
    pad_token_id: int = 1
    eos_token_id: int = 2
    unk_token_id: int = 3


class SRUppLMConfig(SRUppConfig):
    """Of a language model. A position sees mem_len positions before itself (None: all); the first output_vocab_size words
    have scores (None: all)."""

    model_type = "srupp_lm"
    attribute_map = {"num_hidden_layers": "layers", "num_attention_heads": "attention_heads"}

    layers: int = 10
    mem_len: Optional[int] = None
    output_vocab_size: Optional[int] = None
    embed_init: str = "dimension"
    adaptive_input: bool = False
    adaptive_input_cutoff: Optional[str] = None
    adaptive_input_factor: float = 4.0
    adaptive_input_dropout: Optional[float] = None
    adaptive_softmax_cutoff: Optional[str] = None
    adaptive_softmax_factor: float = 4.0
    adaptive_softmax_dropout: Optional[float] = None
    tie_adaptive_weights: bool = False
    tie_adaptive_proj: bool = False


class SRUppTransformerConfig(SRUppConfig):
    """Of an encoder-decoder. source_vocab_size is of the encoder's input (None: vocab_size)."""

    model_type = "srupp_transformer"
    attribute_map = {"num_hidden_layers": "decoder_layers", "num_attention_heads": "attention_heads"}

    is_encoder_decoder: bool = True
    decoder_start_token_id: int = 2
    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_unidirectional: bool = False
    share_all_embeddings: bool = False
    source_vocab_size: Optional[int] = None
