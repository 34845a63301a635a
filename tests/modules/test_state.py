"""The cache of keys and values, by itself."""

import pytest
import torch

from fairseq_srupp.modules import KeyValueCache, SRUppStack


def positions(length, first=0.0, batch=2):
    """Keys (or values) that carry their position: (batch, 3 heads, length, 4)."""
    return (first + torch.arange(float(length))).view(1, 1, -1, 1).expand(batch, 3, length, 4)


def held(cache):
    assert torch.equal(cache.keys, -cache.values)
    return cache.keys[0, 0, :, 0].tolist()


def extended(cache, length, first):
    return cache.append(positions(length, first), -positions(length, first))


def test_two_continuations_of_one_cache_do_not_disturb_each_other():
    cache = extended(extended(KeyValueCache(), 3, 0), 2, 3)
    one = extended(cache, 2, 10)
    other = extended(cache, 2, 20)
    longer = extended(one, 1, 12)
    assert held(cache) == [0, 1, 2, 3, 4]
    assert held(one) == [0, 1, 2, 3, 4, 10, 11]
    assert held(other) == [0, 1, 2, 3, 4, 20, 21]
    assert held(longer) == [0, 1, 2, 3, 4, 10, 11, 12]


def test_the_last_positions():
    cache = extended(KeyValueCache(), 5, 0)
    assert held(cache.last(2)) == [3, 4] and held(cache.last(9)) == held(cache.last(None)) == held(cache)
    assert len(cache.last(0)) == 0
    assert held(extended(cache.last(2), 1, 5)) == [3, 4, 5]


def test_reordering_keeps_room_for_the_next_step():
    cache = extended(extended(KeyValueCache(), 6, 0), 1, 6).reorder(torch.tensor([1, 1, 0]))
    assert cache.keys.shape == (3, 3, 7, 4)
    place = cache.keys.data_ptr()
    longer = cache.append(positions(1, 7, batch=3), -positions(1, 7, batch=3))
    assert longer.keys.data_ptr() == place and held(longer) == list(range(8))


def test_leaving_rows_out_moves_no_other_and_spends_the_view():
    rows = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 2, 4)
    cache = KeyValueCache().append(rows, -rows).append(rows, -rows)
    older, place = cache.last(1), cache.keys.data_ptr()
    kept = cache.keep(3, {4: 1})
    assert kept.keys[:, 0, 0, 0].tolist() == [0, 4, 2] and torch.equal(kept.keys, -kept.values)
    assert kept.keys.data_ptr() == place
    longer = kept.append(rows[:3], -rows[:3])
    assert longer.keys.shape == (3, 3, 6, 4) and torch.equal(longer.keys[:, :, :4], kept.keys)
    for spent in (cache, older):
        for use in (
            lambda: spent.keys,
            lambda: spent.append(rows, rows),
            lambda: spent.keep(1, {}),
            lambda: len(spent.last(1).values),
        ):
            with pytest.raises(RuntimeError, match="spent"):
                use()
    assert len(KeyValueCache().keep(3, {4: 1})) == 0


@pytest.mark.parametrize("take", [lambda cache: cache.keep(2, {2: 0}), lambda cache: cache.reorder(torch.tensor([2, 1]))])
def test_with_gradients_rows_are_copied(take):
    rows = torch.randn(3, 1, 2, 4).requires_grad_()
    cache = KeyValueCache().append(rows, -rows)
    kept = take(cache)
    assert torch.equal(kept.keys, rows[[2, 1]]) and torch.equal(cache.keys, rows)
    (gradient,) = torch.autograd.grad(kept.keys.sum() - 2 * kept.values.sum(), rows)
    assert gradient.flatten(1).eq(torch.tensor([0.0, 3, 3]).view(-1, 1)).all()


def test_gradients_reach_a_call_and_not_what_it_carries_on_from(awake):
    """Those of the last call are what they are where the calls before it are constants."""
    torch.manual_seed(1)
    stack = awake(SRUppStack(12, 8, 2).double())
    x = torch.randn(6, 2, 12, dtype=torch.double).requires_grad_()
    state = None
    for part in (x[:3], x[3:4], x[4:]):
        before, (h, state) = state, stack.forward_cached(part, state)
        assert all(not t.requires_grad for c, cache in state for t in (c, cache.keys, cache.values))
        assert all(cache._buffer.data.grad_fn is None for _, cache in state)
    found = torch.autograd.grad(h.sum(), [x, *stack.parameters()])
    assert found[0][:4].eq(0).all() and found[0][4:].ne(0).any()
    with torch.no_grad():
        again = stack.forward_cached(x[3:4], stack.forward_cached(x[:3])[1])[1]
    torch.testing.assert_close(before[1].memory.keys, again[1].memory.keys)
    expected = torch.autograd.grad(stack.forward_cached(x[4:], again)[0].sum(), [x, *stack.parameters()])
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other)


def test_a_detached_cache_is_the_same_positions():
    cache = extended(KeyValueCache(), 5, 0).last(3)
    assert cache.detach() is cache and len(KeyValueCache().detach()) == 0
    rows = torch.randn(3, 1, 4, 4).requires_grad_()
    recorded = KeyValueCache().append(rows, -rows).last(2)
    detached = recorded.detach()
    assert torch.equal(detached.keys, rows[:, :, 2:]) and not detached.keys.requires_grad
    assert recorded.keys.requires_grad


def test_a_state_of_the_other_way_is_refused():
    stack, x = SRUppStack(8, 4, 2), torch.randn(3, 2, 8)
    trained, evaluated = stack.forward_segment(x, mem_len=4)[1], stack.forward_cached(x)[1]
    with pytest.raises(ValueError, match="forward_segment goes on in forward_segment"):
        stack.forward_cached(x, trained)
    with pytest.raises(ValueError, match="forward_segment goes on in forward_segment"):
        stack.forward_segment(x, evaluated, mem_len=4)
