"""Linear layers through oneDNN: the same results, and nothing else is touched."""

import pytest
import torch
from torch import nn

from vtn_hf.optimization import linear, share_weights
from vtn_hf.optimization.linear import OneDNN
from vtn_hf.optimization.replacement import replace


pytestmark = pytest.mark.skipif(not linear._is_faster(), reason="no oneDNN here that would be faster than MKL")


@pytest.fixture
def calls(monkeypatch):
    """Grows with each product that oneDNN computes."""
    calls = []
    run = linear.multiply_by_onednn
    monkeypatch.setattr(linear, "multiply_by_onednn", lambda *args: calls.append(1) or run(*args))
    return calls


def use_onednn(layer):
    """The same weights in a module that computes with oneDNN."""
    fast = share_weights(layer)
    replace(fast, OneDNN)
    return fast


def make_inputs(*shape, requires_grad=False):
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(*shape, generator=generator).requires_grad_(requires_grad)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(70, 160), (3, 40, 160), (2, 3, 20, 160)])
def test_forward_and_backward(shape, bias, calls):
    torch.manual_seed(0)
    layer = nn.Linear(160, 144, bias=bias)
    results = []
    for each in (layer, use_onednn(layer)):
        each.zero_grad()
        inputs = make_inputs(*shape, requires_grad=True)
        output = each(inputs)
        output.square().sum().backward()
        results.append([output, inputs.grad, *(parameter.grad for parameter in layer.parameters())])
    assert len(calls) == 3
    for expected, actual in zip(*results, strict=True):
        assert actual.shape == expected.shape
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-5)


def test_gradients_have_gradients(calls):
    layer = nn.Linear(160, 144)
    inputs = make_inputs(70, 160, requires_grad=True)
    results = []
    for each in (layer, use_onednn(layer)):
        output = each(inputs).square().sum()
        (gradient,) = torch.autograd.grad(output, inputs, create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), [inputs, layer.weight]))
    assert calls
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-2, rtol=1e-4)


def test_frozen_weights_and_inputs_get_no_gradient(calls):
    layer = nn.Linear(160, 144).requires_grad_(False)
    fast = use_onednn(layer)
    assert not fast(make_inputs(70, 160)).requires_grad
    inputs = make_inputs(70, 160, requires_grad=True)
    fast(inputs).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(inputs.grad, layer.weight.sum(0).expand(70, -1), atol=1e-5, rtol=1e-5)
    assert len(calls) == 3


@pytest.mark.parametrize(
    "case", ["float64", "bfloat16", "autocast", "disabled", "subclass", "func", "compiled", "another_torch"]
)
def test_everything_else_is_left_alone(case, calls, monkeypatch):
    dtype = {"float64": torch.float64, "bfloat16": torch.bfloat16}.get(case, torch.float32)
    layer = nn.Linear(160, 160, dtype=dtype)
    fast = use_onednn(layer)
    inputs = make_inputs(70, 160).to(dtype)
    if case == "subclass":
        inputs = inputs.as_subclass(type("Pixels", (torch.Tensor,), {}))
    if case == "another_torch":  # what tells that there are transforms is gone
        monkeypatch.setattr(linear, "_transforms_are_active", lambda: True)
    if case == "compiled":
        fast = torch.compile(fast, backend="eager", fullgraph=True)
    expected = layer(inputs)
    with torch.backends.mkldnn.flags(enabled=case != "disabled"), torch.autocast("cpu", enabled=case == "autocast"):
        if case == "func":
            gradient = torch.func.grad(lambda x: fast(x).sum())(inputs)
            torch.testing.assert_close(gradient, layer.weight.sum(0).expand(70, -1), atol=1e-5, rtol=1e-5)
        else:
            torch.testing.assert_close(fast(inputs).to(dtype), expected, atol=0.05, rtol=0.05)
    assert not calls
