"""torch.export of both models: one program for batches of any size, padded or not."""

import pytest
import torch
from torch.export import Dim
from translation_task import Task

from fairseq_srupp.models.srupp_lm import SRUppLanguageModel, SRUppLanguageModelConfig
from fairseq_srupp.models.srupp_transformer import SRUppTransformer, SRUppTransformerConfig

PAD = Task.target_dictionary.pad()
SIZES = {"hidden_size": 12, "attention_dim": 8}
ANY = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}


def words(rows, length, symbols=20, padded=0, left=False):
    tokens = torch.randint(4, symbols, (rows, length), generator=torch.Generator().manual_seed(length))
    tokens[-1, slice(0, padded) if left else slice(length - padded, length)] = PAD
    return tokens


def exported(model, arguments, shapes, strict, path):
    torch.export.save(torch.export.export(model, arguments, dynamic_shapes=shapes, strict=strict), path)
    return torch.export.load(path).module()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"attention_heads": 2, "attention_every_n_layers": 2},
        {"adaptive_input": True, "adaptive_softmax_cutoff": "8,12", "adaptive_input_factor": 2, "adaptive_softmax_factor": 2},
    ],
    ids=["plain", "adaptive"],
)
def test_language_model(awake, options, strict, tmp_path):
    config = SRUppLanguageModelConfig(**SIZES, **options, layers=2, mem_len=4)
    model = awake(SRUppLanguageModel.build_model(config, Task)).eval()
    program = exported(model, (words(2, 6),), (ANY,), strict, tmp_path / "model.pt2")
    for tokens in (words(3, 11), words(3, 11, padded=4), words(1, 2), words(2, 600)):
        torch.testing.assert_close(program(tokens)[0], model(tokens)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("strict", [False, True])
def test_translation_model(awake, strict, tmp_path):
    config = SRUppTransformerConfig(**SIZES, embed_dim=6, encoder_layers=2, decoder_layers=2)
    model = awake(SRUppTransformer.build_model(config, Task)).eval()
    arguments = (words(2, 7, 24), torch.tensor([7, 7]), words(2, 5))
    program = exported(model, arguments, (ANY, {0: Dim.DYNAMIC}, ANY), strict, tmp_path / "model.pt2")
    for padded in (0, 3):
        source, target = words(3, 9, 24, padded, left=True), words(3, 11, padded=padded)
        lengths = source.ne(PAD).sum(1)
        torch.testing.assert_close(program(source, lengths, target)[0], model(source, lengths, target)[0], rtol=0, atol=1e-5)
