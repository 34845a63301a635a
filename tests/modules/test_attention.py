"""Every way to attend against the formula in fp64, and the rule that chooses one."""

import math
import weakref

import pytest
import torch
from gpu_kernels import launched_by

from fairseq_srupp.modules import attention
from fairseq_srupp.modules.attention import WAYS, attend, choose, kind
from fairseq_srupp.modules.masks import AttentionMask, causal_mask, full_mask

PADDING = torch.tensor([[False] * 9, [False] * 4 + [True] * 5, [True] * 9])  # (B, 9): none, some, all
MASKS = {  # name: queries, keys, mask
    "none": (9, 9, None),
    "padding": (9, 9, full_mask(PADDING)),
    "causal": (9, 9, causal_mask(9, 0)),
    "memory": (9, 16, causal_mask(9, 7)),
    "window": (9, 16, causal_mask(9, 7, window=5)),
    "window beyond the memory": (9, 12, causal_mask(9, 3, window=5)),
    "source": (9, 14, causal_mask(9, 5, padding_mask=PADDING, source_padding_mask=PADDING[:, 3:8])),
    "a step": (1, 6, causal_mask(1, 5)),
    "one for all rows": (9, 9, AttentionMask(torch.ones(1, 1, 9, 9, dtype=torch.bool).triu(-2))),
}
HALF_ERROR = {torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


def tensors(length, seen, heads=2, size=5, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(length + seen)
    shapes = (length, seen, seen)
    made = [torch.randn(3, heads, n, size, generator=generator, dtype=torch.float64) for n in shapes]
    return [t.to(device, dtype).requires_grad_() for t in made]


def written_out(queries, keys, values, mask, drop=lambda p: p):
    """softmax(Q K^T / sqrt(d'/H)) V with all that it is made of in fp64."""
    queries, keys, values = queries.double(), keys.double(), values.double()
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.size(-1))
    if mask is not None:
        length, seen = scores.shape[-2:]
        allowed = mask.allowed
        if allowed is None:
            allowed = torch.ones(length, seen, dtype=torch.bool).tril(seen - length)
        scores = scores.masked_fill(~allowed.to(scores.device), -math.inf)
    return drop(scores.softmax(-1)) @ values


def value_and_gradients(result, inputs):
    weights = torch.arange(result.numel(), device=result.device).view(result.shape).sin()
    return [result.detach(), *torch.autograd.grad((result.double() * weights).sum(), inputs)]


def assert_close(got, expected, tolerance):
    for value, exact in zip(got, expected):
        assert value.isfinite().all()
        assert (value.double() - exact.double()).norm() <= tolerance * exact.double().norm()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("heads, size", [(1, 7), (2, 4)])
@pytest.mark.parametrize("slices", [2, 100])
def test_every_way_computes_the_formula(monkeypatch, way, name, heads, size, slices):
    length, seen, mask = MASKS[name]
    if way == "fused_causal" and kind(mask) != "causal":
        pytest.skip("only for causal masks")
    if way != "products" and slices == 2:
        pytest.skip("has no slices")
    monkeypatch.setitem(attention.SLICE, "cpu", slices)
    inputs = tensors(length, seen, heads, size)
    result = WAYS[way](*inputs, mask, 0.0, 1 / math.sqrt(size))
    expected = written_out(*inputs, mask)
    assert_close(value_and_gradients(result, inputs), value_and_gradients(expected, inputs), 1e-12)


@pytest.mark.parametrize("dtype", HALF_ERROR)
@pytest.mark.parametrize("name", MASKS)
def test_half_precision_has_the_error_of_its_rounding(monkeypatch, dtype, name):
    length, seen, mask = MASKS[name]
    monkeypatch.setitem(attention.SLICE, "cpu", 4)
    inputs = tensors(length, seen, dtype=dtype)
    for way in ("fused", "products"):
        result = WAYS[way](*inputs, mask, 0.0, 1 / math.sqrt(5))
        assert result.dtype == dtype
        expected = value_and_gradients(written_out(*inputs, mask), inputs)
        assert_close(value_and_gradients(result, inputs), expected, HALF_ERROR[dtype])


@pytest.mark.parametrize("slices", [2, 100])
@pytest.mark.parametrize("name", ["none", "memory", "window", "source"])
def test_the_backward_pass_drops_what_the_forward_pass_dropped(monkeypatch, name, slices):
    length, seen, mask = MASKS[name]
    monkeypatch.setitem(attention.SLICE, "cpu", slices)
    queries, keys, values = tensors(length, seen, size=5)

    def products(values):
        torch.manual_seed(1)
        return WAYS["products"](queries, keys, values, mask, 0.4, 1 / math.sqrt(5))

    with torch.no_grad():  # with places as values, the result is the probabilities
        places = torch.eye(seen, dtype=torch.float64).expand(3, 2, -1, -1)
        dropped, whole = products(places), written_out(queries, keys, places, mask)
    kept = dropped != 0
    assert 0.4 < kept[whole > 0].double().mean() < 0.8
    torch.testing.assert_close(dropped, whole * kept / 0.6)
    expected = written_out(queries, keys, values, mask, lambda p: p * kept / 0.6)
    inputs = [queries, keys, values]
    assert_close(value_and_gradients(products(values), inputs), value_and_gradients(expected, inputs), 1e-12)


def test_what_is_kept_for_the_backward_pass_is_in_half_precision():
    inputs, kept = tensors(16, 32, heads=1, size=300, dtype=torch.bfloat16), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        result = WAYS["products"](*inputs, causal_mask(16, 16), 0.2, 0.1)
    assert {t.dtype for t in kept} == {torch.bfloat16, torch.bool}
    given = {t.untyped_storage().data_ptr() for t in (*inputs, result)}
    scores = [t for t in kept if t.untyped_storage().data_ptr() not in given]
    assert sum(t.nbytes for t in scores) == 3 * (3 * 16 * 32)


def test_the_rule():
    half, single = torch.bfloat16, torch.float32
    assert choose("cuda", half, 768, "causal") == choose("cuda", half, 768, "none") == "products"
    assert choose("cuda", half, 257, "tensor") == choose("cuda", single, 129, "causal") == "products"
    assert choose("cuda", torch.float64, 64, "none") == "products"
    assert choose("cuda", single, 128, "causal") == choose("cuda", single, 64, "none") == "fused"
    assert choose("cuda", half, 256, "causal") == choose("cuda", torch.float16, 64, "causal") == "fused_causal"
    assert choose("cuda", half, 256, "none") == choose("cuda", half, 64, "tensor") == "fused"
    for device in ("cpu", "mps"):
        for mask in ("none", "causal", "tensor"):
            assert choose(device, single, 160, mask) == "products"
    assert choose("cpu", single, 160, "tensor", few=True) == choose("cpu", half, 768, "none", few=True) == "fused"
    assert choose("cuda", half, 768, "none", few=True) == "products"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_computes_in_its_dtype(dtype):
    queries, keys, values = tensors(9, 16, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = attend(queries.to(dtype), keys, values.bfloat16(), causal_mask(9, 7))
    assert result.dtype == torch.bfloat16
    assert_close([result], [written_out(queries, keys, values, causal_mask(9, 7))], 2e-2)


def test_no_queries_and_no_keys():
    for length, seen in ((0, 0), (0, 4)):
        inputs = tensors(length, seen)
        result = attend(*inputs, AttentionMask(None, True))
        assert result.shape == (3, 2, length, 5)
        assert all((g == 0).all() for g in torch.autograd.grad(result.sum(), inputs))


@pytest.mark.gpu
@pytest.mark.parametrize("size", [64, 61, 256, 300, 503, 768])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF_ERROR])
def test_on_a_gpu(dtype, name, size):
    length, seen, mask = MASKS[name]
    if mask is not None and mask.allowed is not None:
        mask = mask._replace(allowed=mask.allowed.cuda())
    inputs = tensors(length, seen, size=size, dtype=dtype, device="cuda")
    expected = value_and_gradients(written_out(*inputs, mask), inputs)
    assert_close(value_and_gradients(attend(*inputs, mask), inputs), expected, HALF_ERROR.get(dtype, 1e-5))


@pytest.mark.gpu
@pytest.mark.parametrize("size", [64, 61, 256])
@pytest.mark.parametrize("past, causal", [(0, True), (96, True), (0, False)])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_narrow_heads_reach_kernels_without_scores(size, past, causal, dropout):
    inputs = tensors(128, 128 + past, size=size, dtype=torch.bfloat16, device="cuda")
    mask = causal_mask(128, past) if causal else None
    names = launched_by(lambda: attend(*inputs, mask, dropout).sum().backward())
    # of FlashAttention, or of cuDNN, which newer GPUs prefer where queries and keys are equally many
    forward, backward = ("flash_fwd", "flash_fprop"), ("flash_bwd", "flash_bprop")
    assert any(part in name for part in forward for name in names), names
    assert any(part in name for part in backward for name in names), names


@pytest.mark.gpu
@pytest.mark.parametrize("size", [480, 503, 1024])
def test_wide_heads_are_products_of_the_tensor_cores(size):
    inputs = tensors(256, 512, heads=1, size=size, dtype=torch.bfloat16, device="cuda")
    names = launched_by(lambda: attend(*inputs, causal_mask(256, 256), 0.1).sum().backward())
    assert not any("fmha" in name or "flash" in name or "sgemm" in name for name in names), names
    assert any("softmax" in name for name in names)


@pytest.mark.parametrize("size", [40, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_gpu_runs_compiles_without_a_break(monkeypatch, dtype, size):
    monkeypatch.setattr(attention, "choose", lambda device, *others: choose("cuda", *others))
    called = []

    def graph(module, _):
        called.extend(str(node.target) for node in module.graph.nodes)
        return module.forward

    for mask in (None, causal_mask(9, 7), causal_mask(9, 7, window=5)):
        torch._dynamo.reset()
        called.clear()
        inputs = tensors(9, 16, size=size, dtype=dtype)
        result = torch.compile(attend, backend=graph, fullgraph=True)(*inputs, mask)
        assert any("scaled_dot_product" in name for name in called) == (size == 40)
        expected = value_and_gradients(written_out(*inputs, mask), inputs)
        assert_close(value_and_gradients(result, inputs), expected, HALF_ERROR.get(dtype, 1e-5))


def test_a_backward_pass_within_autocast(monkeypatch):
    monkeypatch.setitem(attention.SLICE, "cpu", 8)
    inputs, mask = tensors(40, 47, dtype=torch.float32), causal_mask(40, 7)
    result = attend(*inputs, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = value_and_gradients(result, inputs)
    assert_close(got, value_and_gradients(written_out(*inputs, mask), inputs), 1e-5)


def test_without_gradients_nothing_is_kept(monkeypatch):
    """One slice after the other, so that long texts are evaluated in little memory."""
    monkeypatch.setitem(attention.SLICE, "cpu", 8)
    alive, most = weakref.WeakSet(), []
    softmax = torch.Tensor.softmax

    def watched(scores, dim):
        most.append(len(alive))
        alive.add(probability := softmax(scores, dim))
        return probability

    monkeypatch.setattr(torch.Tensor, "softmax", watched)
    inputs = tensors(64, 64)
    with torch.no_grad():
        attend(*inputs, causal_mask(64, 0))
    assert len(most) == 8 and max(most) <= 1
    most.clear()
    result = attend(*inputs, causal_mask(64, 0))
    assert max(most) == 7 and result.requires_grad


@pytest.mark.filterwarnings("ignore")
def test_a_traced_call_can_be_saved(tmp_path):
    inputs = [t.detach().float() for t in tensors(40, 47)]
    traced = torch.jit.trace(lambda *qkv: attend(*qkv, causal_mask(40, 7)), inputs)
    traced.save(str(tmp_path / "traced.pt"))
    torch.testing.assert_close(torch.jit.load(str(tmp_path / "traced.pt"))(*inputs), attend(*inputs, causal_mask(40, 7)))
