"""The host never waits in a training step: nothing of a model, or of a criterion that is repaired here, asks the device.

Under FakeTensorMode tensors have no values, so that every question is an error.
"""

import contextlib
import warnings

import pytest
import torch
from fairseq import utils
from fairseq.criterions.adaptive_loss import AdaptiveLoss
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from translation_task import Task

from fairseq_srupp.models import srupp_lm, srupp_transformer
from fairseq_srupp.models.decoder import padding_mask
from fairseq_srupp.models.srupp_lm import SRUppLanguageModel, SRUppLanguageModelConfig
from fairseq_srupp.models.srupp_transformer import SRUppTransformer, SRUppTransformerConfig

PAD = Task.target_dictionary.pad()
SIZES = {"hidden_size": 16, "attention_dim": 8}
ADAPTIVE = {"adaptive_input": True, "adaptive_softmax_cutoff": "8,12", "tie_adaptive_weights": True}
LANGUAGE_MODELS = [
    {},
    {"mem_len": 0, "attention_dim": 260},
    {"attention_heads": 2, "attention_layers": "2"},
    {"checkpoint_activations": True},
]
TRANSLATION = [{}, {"encoder_unidirectional": True, "attention_every_n_layers": 2}]


@pytest.fixture(params=["padding unknown", "unpadded"])
def fake(request, monkeypatch):
    if request.param == "unpadded":  # what the host knows of a real batch
        for module in (srupp_lm, srupp_transformer):
            monkeypatch.setattr(module, "padding_mask", lambda tokens, padding_idx: None)
    with FakeTensorMode():
        yield


def language_model(**options):
    config = SRUppLanguageModelConfig(**{**SIZES, "layers": 2, "mem_len": 6, **options})
    return SRUppLanguageModel.build_model(config, Task).train()


def translation_model(**options):
    config = SRUppTransformerConfig(**{**SIZES, "embed_dim": 6, "encoder_layers": 2, "decoder_layers": 2, **options})
    return SRUppTransformer.build_model(config, Task).train()


def batch(length=6, rows=3, padded=0, **net_input):
    """Three rows of words; the last one has `padded` words less."""
    words = torch.randint(4, len(Task.target_dictionary), (rows, length))
    words[-1, length - padded :] = PAD
    return {
        "net_input": {"src_tokens": words, "src_lengths": torch.full((rows,), length), **net_input},
        "target": words.roll(-1, 1),
        "ntokens": rows * length - padded,
    }


def pairs(**options):
    return batch(prev_output_tokens=batch(5)["target"], **options) | {"target": batch(5)["target"]}


def segments(lengths, split="train", first=0, **options):
    return [batch(n, stream=(split, 1, i), **options) for i, n in enumerate(lengths, start=first)]


def train(model, samples, criterion=None):
    criterion = criterion or CrossEntropyCriterion(Task, sentence_avg=False)
    for sample in samples:
        criterion(model, sample)[0].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def label_smoothed():
    return LabelSmoothedCrossEntropyCriterion(Task, sentence_avg=False, label_smoothing=0.1)


@pytest.mark.parametrize("options", LANGUAGE_MODELS, ids=str)
def test_language_model(fake, options):
    model = language_model(**options)
    train(model, [batch(), *segments([6, 6, 6, 4])])
    with torch.autocast("cpu", torch.bfloat16):
        train(model, segments([6], first=4))
    model.eval()
    with torch.no_grad():
        for sample in [batch(), *segments([6, 6, 4], "valid")]:
            model(**sample["net_input"])


@pytest.mark.parametrize("options", TRANSLATION, ids=str)
def test_translation_model(fake, options):
    train(translation_model(**options), [pairs()], label_smoothed())


def test_adaptive_layers_ask_once(fake, monkeypatch):
    """How many words of each of the three bands: once for the input, once for the softmax."""
    asked = []
    monkeypatch.setattr(FakeTensor, "tolist", lambda counts: asked.append(counts.shape) or [10, 5, 3])
    train(language_model(**ADAPTIVE), segments([6, 6]), AdaptiveLoss(Task, sentence_avg=False))
    assert asked == 4 * [(3,)]


def test_every_question_is_an_error(fake):
    with pytest.raises(RuntimeError):
        bool(batch()["target"].eq(PAD).any())


@pytest.mark.parametrize("padded", [0, 2])
def test_the_host_knows_whether_a_batch_is_padded(padded):
    sample = batch(padded=padded)
    (there,) = utils.move_to_cuda([sample["net_input"]["src_tokens"]], device="meta")
    mask = padding_mask(there, PAD)
    assert mask.is_meta if padded else mask is None
    assert padding_mask(there.clone(), PAD).is_meta  # unknown
    mask = padding_mask(sample["net_input"]["src_tokens"], PAD)
    assert mask is None if not padded else mask.sum() == padded


@contextlib.contextmanager
def waiting(mode):
    """On a GPU: waiting for it is an error, or a warning."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def train_on_a_gpu(model, samples, dtype, criterion=None):
    model = model.cuda()
    samples = [*utils.move_to_cuda(samples), *utils.apply_to_sample(torch.Tensor.cuda, samples)]  # known, and unknown
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        train(model, samples, criterion)  # kernels are compiled and loaded
        with waiting("error"):
            train(model, samples, criterion)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", LANGUAGE_MODELS, ids=str)
def test_language_model_on_a_gpu(options, dtype):
    samples = [batch(), batch(padded=2), *segments([6, 6, 6, 4], padded=1)]
    train_on_a_gpu(language_model(**options), samples, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", TRANSLATION, ids=str)
def test_translation_model_on_a_gpu(options, dtype):
    train_on_a_gpu(translation_model(**options), [pairs(), pairs(padded=2)], dtype, label_smoothed())


@pytest.mark.gpu
def test_adaptive_layers_ask_once_on_a_gpu():
    model, samples = language_model(**ADAPTIVE).cuda(), utils.move_to_cuda(segments([6, 6]))
    criterion = AdaptiveLoss(Task, sentence_avg=False)
    train(model, samples, criterion)
    with warnings.catch_warnings(record=True) as told, waiting("warn"):
        warnings.simplefilter("always")
        train(model, samples, criterion)
    assert sum("called a synchronizing" in str(warning.message) for warning in told) == 4  # an input and a softmax a batch
