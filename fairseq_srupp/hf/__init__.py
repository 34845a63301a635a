"""SRU++ models for transformers: importing this package registers them, and it never imports fairseq.

`AutoModelForCausalLM.from_pretrained(D)`, `AutoModelForSeq2SeqLM` and `AutoTokenizer` then read a folder D that
`python -m fairseq_srupp export` has made.
"""

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from .config import SRUppLMConfig, SRUppTransformerConfig
from .modeling import SRUppForCausalLM, SRUppForSeq2SeqLM
from .tokenization import SRUppTokenizer

__all__ = [
    "SRUppForCausalLM",
    "SRUppForSeq2SeqLM",
    "SRUppLMConfig",
    "SRUppTokenizer",
    "SRUppTransformerConfig",
]

for _config, _auto, _model in (
    (SRUppLMConfig, AutoModelForCausalLM, SRUppForCausalLM),
    (SRUppTransformerConfig, AutoModelForSeq2SeqLM, SRUppForSeq2SeqLM),
):
    AutoConfig.register(_config.model_type, _config)
    _auto.register(_config, _model)
    AutoTokenizer.register(_config, SRUppTokenizer)
