"""
Linear layers in float32 on x86 processors, computed by oneDNN.

PyTorch hands them to MKL, which takes its slow path on processors that are not Intel's: for the layers of a ViT-B on
an AMD EPYC (Zen 4) it reached two thirds to nine tenths of oneDNN's speed. The weights stay as they are, and the
results are the same within rounding.
"""

from collections.abc import Callable
from functools import cache, wraps

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


_MIN_WEIGHTS = 128 * 128  # below, calling it costs more than it saves


def through_onednn(function: Callable) -> Callable:
    """
    Makes a function run within [`OneDNNLinear`]; not what is compiled or exported, which has operators of its own.

    What activation checkpointing computes again in the backward pass must enter the context again, so the functions to
    decorate are those within.
    """

    @wraps(function)
    def run(*args, **kwargs):
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        with OneDNNLinear():
            return function(*args, **kwargs)

    return run


@through_onednn
def run_linear(module: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """A linear layer, or a module of little else: the context looks at every call that is made in it."""
    return module(states)


class OneDNNLinear(TorchFunctionMode):
    """
    While this context is entered, linear layers that are large enough run through oneDNN: float32 on an x86 CPU,
    forwards and backwards, in any module. Everything else is left alone.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is nn.functional.linear and _is_supported(*args, **kwargs):
            return _multiply(*args, **kwargs)
        return function(*args, **kwargs)


def _multiply(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (input, weight, bias)
    ):
        stand_in = _LinearGradients.apply(input, weight, bias)
        return _LinearOutput.apply(stand_in, *(None if x is None else x.detach() for x in (input, weight, bias)))
    return _run(input, weight, bias)


class _LinearGradients(torch.autograd.Function):
    """
    The backward products of a linear layer, `(…, in)` to `(…, out)`. The output only has the shape of the layer's.

    It keeps what they need before [`_LinearOutput`] is computed: activation checkpointing stops to compute again as
    soon as everything is there that was kept, and then leaves out the last product.
    """

    @staticmethod
    def forward(ctx, input, weight, bias):
        ctx.save_for_backward(input, weight)
        return input.new_zeros(()).expand(*input.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx, grad_output):
        input, weight = ctx.saved_tensors
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad
        # For rows with gaps between them, a slice, oneDNN takes a path that is a hundred times slower.
        grad_rows, rows = (tensor.reshape(-1, tensor.shape[-1]).contiguous() for tensor in (grad_output, input))
        grad_input = _multiply(grad_output, weight.T) if needs_input else None
        grad_weight = _multiply(grad_rows.T, rows.T) if needs_weight else None
        grad_bias = grad_rows.sum(0) if needs_bias else None
        return grad_input, grad_weight, grad_bias


class _LinearOutput(torch.autograd.Function):
    """The product of a linear layer, whose gradient goes to [`_LinearGradients`]."""

    @staticmethod
    def forward(ctx, stand_in, input, weight, bias):
        return _run(input, weight, bias)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output, None, None, None


def _run(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


def _is_supported(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    tensors = [input, weight] if bias is None else [input, weight, bias]
    return (
        # Neither a quantised, sharded nor any other kind of tensor
        all(type(tensor) in (torch.Tensor, nn.Parameter) for tensor in tensors)
        and all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
        and weight.ndim == 2
        and weight.numel() >= _MIN_WEIGHTS
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()  # whose derivatives of any order need PyTorch's own
        and torch.backends.mkldnn.enabled
        and _is_available()
    )


@cache
def _is_available() -> bool:
    """Whether this build has the operator, which TorchInductor uses too, but which is no public one."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):
        return False
    input, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    try:
        return torch.equal(_run(input, weight, torch.ones(3)), torch.tensor([[12.0, 18.0, 24.0]]))
    except (AttributeError, RuntimeError, TypeError):
        return False
