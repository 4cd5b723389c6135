"""
Linear layers in float32 on x86 processors that are not Intel's, computed by oneDNN.

PyTorch hands them to MKL, which takes its slow path there: for the layers of a ViT-B on an AMD EPYC (Zen 4) it
reached two thirds to nine tenths of oneDNN's speed. The weights stay as they are, and the results are the same within
rounding.
"""

import platform
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from .replacement import Replacement, is_from_library, replace
from .trial import Trial


_MIN_WEIGHTS = 128 * 128  # below, calling it costs more than it saves

# No public name; a torch without it runs everything as it was.
_transforms_are_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


class OneDNN(Replacement):
    """A linear layer by oneDNN, forwards and backwards; in other precisions, on other devices, in graphs as it was."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if is_plain_float32(input, self.weight, self.bias):
            return _multiply(input, self.weight, self.bias)
        return super().forward(input)


def use_onednn(trial: Trial):
    """Replaces the linear layers of a model that are large enough, where oneDNN is the faster one."""
    if not _is_faster():
        return
    for module in find_linear_layers(trial, trial.model):
        if module.weight.numel() >= _MIN_WEIGHTS:
            attempt_linear(trial, module, partial(replace, module, OneDNN))


def find_linear_layers(trial: Trial, root: nn.Module) -> list[nn.Linear]:
    """Those in float32 on a CPU that have not been replaced; a layer of unknown kind is left out."""
    found = []
    for module in root.modules():
        if isinstance(module, nn.Linear) and not isinstance(module, Replacement) and is_plain_float32(module.weight):
            if type(module).forward is nn.Linear.forward:
                found.append(module)
            elif not is_from_library(module):
                trial.leave_out(module, "it has a forward of its own")
    return found


def attempt_linear(trial: Trial, module: nn.Linear, put: Callable, compare: Callable | None = None):
    """Tries a replacement on three rows."""
    rows = trial.make_random(3, module.in_features, like=module.weight)
    trial.attempt([module], put, lambda: [module(rows)], compare=compare)


def is_plain_float32(*tensors: torch.Tensor | None) -> bool:
    """
    Whether these are float32 on a CPU, of no other kind (quantised, sharded), and to be computed with at once: not
    traced into a graph, not in another precision, not by transforms such as `torch.func.grad`, which need PyTorch's
    own operators.
    """
    tensors = [tensor for tensor in tensors if tensor is not None]
    return (
        not torch.compiler.is_compiling()
        and all(type(tensor) in (torch.Tensor, nn.Parameter) for tensor in tensors)
        and all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
        and torch.backends.mkldnn.enabled
        and not _transforms_are_active()
    )


def _multiply(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (input, weight, bias)
    ):
        stand_in = _LinearGradients.apply(input, weight, bias)
        return _LinearOutput.apply(stand_in, *(None if x is None else x.detach() for x in (input, weight, bias)))
    return multiply_by_onednn(input, weight, bias)


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
        return multiply_by_onednn(input, weight, bias)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output, None, None, None


def multiply_by_onednn(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """As `nn.functional.linear`, without gradients."""
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


@cache
def _is_faster() -> bool:
    """
    Whether oneDNN is there and MKL slow. Not by a measurement, after which two runs of the same training could round
    differently.
    """
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()) or _is_intel():
        return False
    numbers = torch.arange(1, 7, dtype=torch.float32, device="cpu")
    input, weight = numbers[None, :2], numbers.reshape(3, 2)
    try:  # TorchInductor uses this operator too, but it is no public one
        return torch.equal(multiply_by_onednn(input, weight, numbers[:3]), input @ weight.T + numbers[:3])
    except (AttributeError, RuntimeError, TypeError):
        return False


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return "Intel" in platform.processor() or platform.system() == "Darwin"
