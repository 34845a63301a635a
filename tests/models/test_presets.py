"""Every model of the paper has the paper's size."""

import argparse

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

import fairseq_srupp.models.srupp_lm_presets  # noqa: F401
from fairseq_srupp.models.srupp_lm import SRUppLanguageModelConfig
from fairseq_srupp.modules.lm_embedding import build_embeddings

ENWIK8, WIKI103, LM1B = 205, 267_735, 793_471  # symbols, of which fairseq's dictionaries have two more
MILLIONS = {  # total, as counted from the released code
    "enwik8_small": (ENWIK8, 42.35),
    "enwik8_base": (ENWIK8, 107.57),
    "enwik8_base_k5": (ENWIK8, 98.13),
    "enwik8_base_k2": (ENWIK8, 101.67),
    "enwik8_base_6_to_10": (ENWIK8, 101.67),
    "enwik8_base_8_to_10": (ENWIK8, 103.46),
    "enwik8_base_k3": (ENWIK8, 103.46),
    "enwik8_base_k10": (ENWIK8, 96.95),
    "enwik8_base_ratio8_k5": (ENWIK8, 103.63),
    "enwik8_base_ratio6": (ENWIK8, 108.24),
    "enwik8_base_ratio8": (ENWIK8, 108.65),
    "enwik8_base_ratio10": (ENWIK8, 108.97),
    "enwik8_large": (ENWIK8, 190.61),
    "enwik8_large_ratio8": (ENWIK8, 194.99),
    "wiki103_base": (WIKI103, 147.68),
    "wiki103_large": (WIKI103, 231.69),
    "wiki103_large_ratio8": (WIKI103, 233.74),
    "wiki103_large_ratio8_k5": (WIKI103, 224.88),
    "lm1b_base": (LM1B, 328.31),
    "lm1b_large": (LM1B, 465.32),
    # the variants of table 2, whose widths are ours, to be comparable with the small model
    "enwik8_small_k2": (ENWIK8, 42.38),
    "enwik8_small_k5": (ENWIK8, 42.40),
    "enwik8_small_k10": (ENWIK8, 42.40),
    "enwik8_small_none": (ENWIK8, 42.38),
}


class Symbols(Dictionary):
    def __init__(self, count):
        super().__init__()
        self.count_ = count

    def __len__(self):
        return self.count_


def build(name, symbols, **options):
    args = argparse.Namespace(**options)
    ARCH_CONFIG_REGISTRY[f"srupp_lm_{name}"](args)
    cfg = SRUppLanguageModelConfig(**{"mem_len": 8, **vars(args)})
    task = argparse.Namespace(target_dictionary=Symbols(symbols))
    with torch.device("meta"):
        return ARCH_MODEL_REGISTRY[f"srupp_lm_{name}"].build_model(cfg, task), cfg


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_all_architectures_are_checked():
    registered = {name.removeprefix("srupp_lm_") for name in ARCH_CONFIG_REGISTRY if name.startswith("srupp_lm_")}
    assert registered == set(MILLIONS)


@pytest.mark.parametrize("name", MILLIONS)
def test_parameters(name):
    symbols, millions = MILLIONS[name]
    model, cfg = build(name, symbols)
    d, attention, stack = cfg.hidden_size, cfg.attention_dim, model.decoder.stack
    attending = sum(layer.attention for layer in stack.layers)
    layer = 4 * d * attention + 2 * attention + 4 * d
    assert parameters(stack) == 10 * layer + attending * (2 * attention**2 + 1)
    assert parameters(model) == pytest.approx(millions * 1e6, rel=1e-3)


@pytest.mark.parametrize(
    "name, layers",
    [("base", range(1, 11)), ("base_k2", (2, 4, 6, 8, 10)), ("base_k3", (3, 6, 9)), ("base_k5", (5, 10))]
    + [("base_k10", (10,)), ("base_6_to_10", range(6, 11)), ("base_8_to_10", (8, 9, 10)), ("small_none", ())],
)
def test_attention_layers(name, layers):
    stack = build(f"enwik8_{name}", ENWIK8)[0].decoder.stack
    assert [i for i, layer in enumerate(stack.layers, start=1) if layer.attention] == list(layers)


def test_dropout():
    def rates(name, symbols, **options):
        model, cfg = build(name, symbols, **options)
        decoder, transform = model.decoder, model.decoder.stack.layers[0].transform
        rates = [cfg.dropout, decoder.embed_dropout, decoder.output_dropout, transform.attention_dropout]
        if decoder.adaptive_softmax is not None:
            rates += [decoder.embed_tokens.dropout, decoder.adaptive_softmax.dropout]
        return rates

    assert rates("enwik8_base", ENWIK8) == [0.22] * 4
    assert rates("wiki103_base", WIKI103) == [0.15] * 6
    assert rates("wiki103_base", WIKI103, dropout=0.3) == [0.3] * 6
    assert rates("lm1b_base", LM1B) == [0.05, 0.05, 0.05, 0, 0, 0]


@pytest.mark.parametrize("name", [name for name in MILLIONS if name.startswith("enwik8")])
def test_embedding_and_output_of_the_small_models_start_from_a_range_of_their_own(name):
    """sqrt(3/205) with fairseq's 209 symbols; that of the others is of their dimension."""
    args = argparse.Namespace()
    ARCH_CONFIG_REGISTRY[f"srupp_lm_{name}"](args)
    embedding, _, output = build_embeddings(SRUppLanguageModelConfig(**vars(args)), ENWIK8 + 4)
    bound = (3 / (ENWIK8 if "small" in name else args.hidden_size)) ** 0.5
    for weight in (embedding.weight.detach(), output.linear.weight.detach()):
        assert 0.999 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


def test_what_is_tied():
    def tied(name, symbols):
        decoder = build(name, symbols)[0].decoder
        pairs = [
            (getattr(decoder.embed_tokens, part), getattr(decoder.adaptive_softmax, part))
            for part in ("embeddings", "projections")
        ]
        return [all(a is b for a, b in zip(*pair)) for pair in pairs]

    assert tied("wiki103_base", WIKI103) == [True, True]
    assert tied("lm1b_base", LM1B) == [True, False]


def test_options_go_before_the_architecture():
    args = argparse.Namespace(dropout=0.5, layers=2)
    ARCH_CONFIG_REGISTRY["srupp_lm_enwik8_base"](args)
    assert (args.dropout, args.layers, args.hidden_size) == (0.5, 2, 3072)
