"""What was moved to a device knows the host's copy; the meta device stands for one that cannot be asked."""

import pytest
import torch
from fairseq import utils
from torch._subclasses.fake_tensor import FakeTensorMode

from fairseq_srupp import compat
from fairseq_srupp.compat.training.host_copies import host_copy


@pytest.fixture(autouse=True)
def repaired():
    compat.apply()


def test_a_batch_is_moved_as_before():
    sample = {"id": torch.arange(3), "net_input": {"stream": ("train", 1, 2), "x": [torch.ones(2)]}, "ntokens": 5}
    moved = utils.move_to_cuda(sample, device="meta")
    assert moved["id"].is_meta and moved["net_input"]["x"][0].is_meta
    assert moved["net_input"]["stream"] == ("train", 1, 2) and moved["ntokens"] == 5
    assert utils.move_to_cuda({}, device="meta") == {}


@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_words_know_what_they_were(device):
    words = torch.tensor([[4, 5, 1]])
    moved = utils.move_to_cuda({"words": words}, device=device)["words"]
    assert host_copy(moved) is words
    assert host_copy(moved.clone()) is None and host_copy(moved.t()) is None
    moved[0, 0] = 1
    assert host_copy(moved) is None
    moved = utils.move_to_cuda({"words": words}, device=device)["words"]
    words[0, 0] = 1
    assert host_copy(moved) is None
    assert host_copy(utils.move_to_cuda([torch.ones(2)], device=device)[0]) is None


def test_on_the_host_a_tensor_is_its_own_copy():
    words = torch.tensor([4, 5])
    assert host_copy(words) is words
    assert host_copy(utils.move_to_cuda([words], device="cpu")[0]) is words


def test_what_has_no_values_has_no_copy():
    with FakeTensorMode():
        assert host_copy(torch.tensor([4, 5])) is None
    with torch.inference_mode():
        assert host_copy(utils.move_to_cuda([torch.tensor([4, 5])], device="meta")[0]) is None
