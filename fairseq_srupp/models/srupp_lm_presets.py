"""The paper's language models as architectures: `--arch srupp_lm_enwik8_base` and so on (tables 1 to 6 and 9 to 12).

An architecture holds sizes, attention layers, dropout and how embeddings start. How each is trained
stands in examples/enwik8, examples/wiki103 and examples/lm1b; any option given on the command line goes before the architecture's.
"""

from typing import Any, Dict, Optional

from fairseq.models import register_model_architecture

from . import srupp_lm  # noqa: F401 (registers the model that the architectures are of)

# The paper's words are cut at 19,997, 39,997 and 199,997, and at 59,998 and 159,998; its vocabularies have a symbol for the
# sentence's end and one for unknown words, fairseq's have two more before the first word.
_WIKI103 = {"cutoffs": "19999,39999,199999", "tied_projections": True}
_LM1B = {"cutoffs": "60000,160000", "tied_projections": False}


def _register(name: str, d: int, attention: int, dropout: float, words: Optional[Dict] = None, **options: Any) -> None:
    preset = {"hidden_size": d, "attention_dim": attention, "layers": 10, "dropout": dropout, **options}
    if words:
        preset.update(
            embed_dim=1024,
            adaptive_input=True,
            adaptive_softmax_cutoff=words["cutoffs"],
            tie_adaptive_weights=True,
            tie_adaptive_proj=words["tied_projections"],
        )

    @register_model_architecture("srupp_lm", f"srupp_lm_{name}")
    def architecture(args) -> None:
        for option, value in preset.items():
            setattr(args, option, getattr(args, option, value))


# Tables 1, 2 and 9, and figure 4. The paper gives no widths for the variants of table 2, only that the number of parameters is
# comparable. The author's script for this model, unlike the others, starts embedding and output from U(+-sqrt(3/V)).
_SMALL = {"embed_init": "vocabulary"}
_register("enwik8_small", 1920, 480, 0.1, **_SMALL)
_register("enwik8_small_k2", 1976, 494, 0.1, attention_every_n_layers=2, **_SMALL)
_register("enwik8_small_k5", 2012, 503, 0.1, attention_every_n_layers=5, **_SMALL)
_register("enwik8_small_k10", 2024, 506, 0.1, attention_every_n_layers=10, **_SMALL)
_register("enwik8_small_none", 2036, 509, 0.1, no_attention=True, **_SMALL)

# Tables 3, 4, 10 and 11.
_register("enwik8_base", 3072, 768, 0.22)
_register("enwik8_base_k2", 3072, 768, 0.22, attention_every_n_layers=2)
_register("enwik8_base_k5", 3072, 768, 0.22, attention_every_n_layers=5)
_register("enwik8_base_k10", 3072, 768, 0.22, attention_every_n_layers=10)
_register("enwik8_base_6_to_10", 3072, 768, 0.22, attention_layers="6,7,8,9,10")
_register("enwik8_base_8_to_10", 3136, 784, 0.22, attention_layers="8,9,10")
_register("enwik8_base_k3", 3136, 784, 0.22, attention_every_n_layers=3)
_register("enwik8_base_ratio6", 3840, 640, 0.22)
_register("enwik8_base_ratio8", 4480, 560, 0.22)
_register("enwik8_base_ratio8_k5", 4480, 560, 0.22, attention_every_n_layers=5)
_register("enwik8_base_ratio10", 5040, 504, 0.22)
_register("enwik8_large", 4096, 1024, 0.32)
_register("enwik8_large_ratio8", 6016, 752, 0.35)

# Tables 5 and 12.
_register("wiki103_base", 3072, 768, 0.15, _WIKI103)
_register("wiki103_large", 4096, 1024, 0.2, _WIKI103)
_register("wiki103_large_ratio8", 5952, 744, 0.2, _WIKI103)
_register("wiki103_large_ratio8_k5", 5952, 744, 0.2, _WIKI103, attention_every_n_layers=5)

# Table 6. Only the layers and the outputs of stack and embedding have dropout.
_ONLY_LAYERS = {"attention_dropout": 0.0, "adaptive_input_dropout": 0.0, "adaptive_softmax_dropout": 0.0}
_register("lm1b_base", 4096, 1024, 0.05, _LM1B, **_ONLY_LAYERS)
_register("lm1b_large", 7616, 1024, 0.1, _LM1B, attention_every_n_layers=5, **_ONLY_LAYERS)
