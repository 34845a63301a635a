"""--compile: the same results, few compilations, and the same checkpoints."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters
from translation_task import Task

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.models.running import check_compiler
from fairseq_srupp.models.srupp_lm import SRUppLanguageModel, SRUppLanguageModelConfig
from fairseq_srupp.models.srupp_transformer import SRUppTransformer, SRUppTransformerConfig
from fairseq_srupp.modules import SRUppStack

PAD = Task.target_dictionary.pad()
SIZES = {"hidden_size": 16, "attention_dim": 8, "dropout": 0.0}


@pytest.fixture(autouse=True)
def compilations():
    """A function that tells how many there were."""
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    assert not counters["graph_break"], "layers are compiled as a whole"
    torch._dynamo.reset()


def language_model(**options):
    config = SRUppLanguageModelConfig(**{**SIZES, "layers": 4, "mem_len": 20, **options})
    return SRUppLanguageModel.build_model(config, Task)


def translation_model(**options):
    config = SRUppTransformerConfig(**{**SIZES, "embed_dim": 6, "encoder_layers": 2, "decoder_layers": 2, **options})
    return SRUppTransformer.build_model(config, Task)


def twins(awake, build, **options):
    """The model, and the same compiled."""
    torch.manual_seed(0)
    model = awake(build(**options))
    compiled = build(compile=True, **options)
    compiled.load_state_dict(model.state_dict())  # names are the same
    return model, compiled


def words(rows, length, padded=0):
    made = torch.randint(4, len(Task.target_dictionary), (rows, length))
    made[0, length - padded :] = PAD
    return made


def assert_alike(models, *arguments, **options):
    """Scores, and in training the gradients of all parameters."""
    results = []
    for model in models:
        model.zero_grad()
        with torch.set_grad_enabled(model.training):
            scores = model(*arguments, **options)[0]
            if model.training:
                F.log_softmax(scores, -1).square().mean().backward()
        results.append([scores.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for eager, compiled in zip(*results, strict=True):
        assert (compiled - eager).abs().max() <= 1e-5 * max(1, eager.abs().max())


def test_a_language_model_on_segments(awake, compilations):
    """A memory that grows from nothing over several segments, a shorter last segment, and evaluation in between."""
    models = twins(awake, language_model, attention_every_n_layers=2)
    for epoch in (1, 2):
        for i, length in enumerate((8, 8, 8, 8, 5)):
            tokens = words(3, length)
            for model in models:
                model.train().set_num_updates(5 * epoch + i)
            assert_alike(models, tokens, stream=("train", epoch, i))
        for model in models:
            model.eval()
        for i, length in enumerate((6, 6, 3)):
            assert_alike(models, words(2, length), stream=("valid", epoch, i))
    assert 0 < compilations() <= 6


def test_translation_of_sentences_of_all_lengths(awake, compilations):
    models = twins(awake, translation_model)
    for rows, source, target, padded in ((3, 5, 7, 1), (4, 9, 6, 0), (1, 8, 9, 0), (2, 12, 12, 1), (6, 4, 1, 0), (5, 4, 5, 0)):
        sentences = words(rows, source, padded), torch.full((rows,), source), words(rows, target, padded)
        for model in models:
            model.train()
        assert_alike(models, *sentences)
        for model in models:
            model.eval()
        assert_alike(models, *sentences)
    assert 0 < compilations() <= 6


def test_a_copy_has_parameters_of_its_own(awake):
    """As of --store-ema."""
    _, compiled = twins(awake, language_model, layers=1)
    tokens = words(2, 6)
    other = copy.deepcopy(compiled)
    before = other(tokens)[0]
    with torch.no_grad():
        for parameter in compiled.parameters():
            parameter.add_(0.1)
    assert torch.equal(other(tokens)[0], before) and not torch.equal(compiled(tokens)[0], before)


@pytest.mark.parametrize("build", [language_model, translation_model])
def test_training_without_a_compiler_says_so_in_one_line(monkeypatch, build):
    check_compiler.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    model = build(compile=True).eval()
    with pytest.raises(UserError, match="--compile needs a C\\+\\+ compiler, and there is no no-such-compiler"):
        model.train()
    build().train()


@pytest.mark.parametrize("build", [language_model, translation_model])
def test_evaluation_and_generation_do_not_compile(build):
    model = build(compile=True)
    stacks = [module for module in model.modules() if isinstance(module, SRUppStack)]
    assert stacks and all(stack.compiled for stack in stacks)
    model.make_generation_fast_(beamable_mm_beam_size=5)
    assert not any(stack.compiled for stack in stacks)


@pytest.mark.gpu
@pytest.mark.parametrize("attention_dim", [64, 320])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_on_a_gpu_in_bf16(awake, compilations, attention_dim, dropout, device="cuda"):
    models = twins(awake, language_model, attention_dim=attention_dim, layers=2, dropout=dropout)
    scores = []
    for model in models:
        model.to(device).train()
        for i in range(3):
            tokens = words(3, 8).to(device)
            model.set_num_updates(i)
            with torch.autocast(device, dtype=torch.bfloat16):
                result = model(tokens.fill_(4 + i), stream=("train", 1, i))[0]
            result.float().square().mean().backward()
        scores.append(result.detach().float())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert dropout > 0 or (scores[0] - scores[1]).norm() < 0.02 * scores[0].norm()
    assert 0 < compilations() <= 2
