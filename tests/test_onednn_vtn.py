"""Linear layers through oneDNN: the same results, and nothing else is touched."""

import pytest
import torch
from torch import nn

from vtn_hf import onednn_vtn
from vtn_hf.onednn_vtn import OneDNNLinear


pytestmark = pytest.mark.skipif(not onednn_vtn._is_available(), reason="this torch has no oneDNN on an x86 CPU")


@pytest.fixture
def calls(monkeypatch):
    """Grows with each product that oneDNN computes."""
    calls = []
    run = onednn_vtn._run
    monkeypatch.setattr(onednn_vtn, "_run", lambda *args: calls.append(1) or run(*args))
    return calls


def make_inputs(*shape, requires_grad=False):
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(*shape, generator=generator).requires_grad_(requires_grad)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(70, 160), (3, 40, 160), (2, 3, 20, 160)])
def test_forward_and_backward(shape, bias, calls):
    torch.manual_seed(0)
    layer = nn.Linear(160, 144, bias=bias)
    results = []
    for context in (torch.enable_grad(), OneDNNLinear()):
        layer.zero_grad()
        inputs = make_inputs(*shape, requires_grad=True)
        with context:
            output = layer(inputs)
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
    for context in (torch.enable_grad(), OneDNNLinear()):
        with context:
            output = layer(inputs).square().sum()
        (gradient,) = torch.autograd.grad(output, inputs, create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), [inputs, layer.weight]))
    assert calls
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-2, rtol=1e-4)


def test_frozen_weights_and_inputs_get_no_gradient(calls):
    layer = nn.Linear(160, 144).requires_grad_(False)
    with OneDNNLinear():
        assert not layer(make_inputs(70, 160)).requires_grad
        inputs = make_inputs(70, 160, requires_grad=True)
        layer(inputs).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(inputs.grad, layer.weight.sum(0).expand(70, -1), atol=1e-5, rtol=1e-5)
    assert len(calls) == 3


@pytest.mark.parametrize(
    "case", ["small_weight", "float64", "bfloat16", "autocast", "disabled", "subclass", "func", "outside"]
)
def test_everything_else_is_left_alone(case, calls):
    width = 16 if case == "small_weight" else 160
    dtype = {"float64": torch.float64, "bfloat16": torch.bfloat16}.get(case, torch.float32)
    layer = nn.Linear(width, width, dtype=dtype)
    inputs = make_inputs(70, width).to(dtype)
    if case == "subclass":
        inputs = inputs.as_subclass(type("Pixels", (torch.Tensor,), {}))
    expected = layer(inputs)
    with torch.backends.mkldnn.flags(enabled=case != "disabled"), torch.autocast("cpu", enabled=case == "autocast"):
        if case == "outside":
            layer(inputs)
        elif case == "func":
            with OneDNNLinear():
                gradient = torch.func.grad(lambda x: layer(x).sum())(inputs)
            torch.testing.assert_close(gradient, layer.weight.sum(0).expand(70, -1), atol=1e-5, rtol=1e-5)
        else:
            with OneDNNLinear():
                torch.testing.assert_close(layer(inputs).to(dtype), expected, atol=0.05, rtol=0.05)
    assert not calls
