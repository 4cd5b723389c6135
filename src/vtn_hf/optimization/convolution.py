"""
Convolutions in float32 on CPUs, at inference: pixels lie channels last in memory, batch normalisation is part of the
weights, and these are in the layout of oneDNN once and for all instead of anew in each call.
"""

import itertools
from functools import cache, partial

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from ..backbone_vtn import encode, get_frame_shape, is_convolutional
from .linear import is_plain_float32
from .replacement import Derived, Replacement, is_altered, is_from_library, replace, restore
from .trial import Trial, is_close


class Packed(Replacement):
    """A convolution with packed weights, and with those of the batch normalisation behind it, if there is one."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not is_packed(self, input):
            return super().forward(input)
        input = input.contiguous(memory_format=torch.channels_last)
        weight, bias = self._packed_weights.get(lambda *tensors: _pack(self, *tensors), *_get_weights(self))
        padding, *others = _get_geometry(self)
        if not _has_packed_convolution():
            return nn.functional.conv2d(input, weight, bias, others[0], padding, *others[1:])
        return torch.ops.mkldnn._convolution_pointwise(input, weight, bias, padding, *others, "none", [], "")


class Absorbed(Replacement):
    """Batch normalisation that is part of the convolution before it; the activation of timm's stays."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not is_packed(self._convolution[0], input):
            return super().forward(input)
        return self.act(self.drop(input)) if _has_activation(self) else input


def pack_convolutions(trial: Trial, backbone: PreTrainedModel):
    """Replaces the convolutions of a convolutional network, and the batch normalisations behind them."""
    frame = trial.make_random(1, *get_frame_shape(backbone.config), like=next(backbone.parameters()))
    if not (is_convolutional(backbone) and is_plain_float32(frame)):
        return
    expected, packed = encode(backbone, frame), []
    norms = find_norms(backbone, frame)
    for convolution in find_convolutions(trial, backbone):
        norm = norms.get(convolution)
        if norm is not None and not can_be_absorbed(norm):
            trial.leave_out(norm, "no batch normalisation of torch's or timm's with statistics")
            norm = None
        modules = [convolution] if norm is None else [convolution, norm]
        sides = [7 + 2 * side for side in convolution.kernel_size]
        states = trial.make_random(2, convolution.in_channels, *sides, like=frame)
        if trial.attempt(modules, partial(pack, *modules), lambda: [nn.Sequential(*modules)(states)]):  # noqa: B023
            packed.append(modules)
    if not is_close([encode(backbone, frame)], [expected]):
        # Something else reads what a convolution gives to its normalisation.
        for module in itertools.chain(*packed):
            restore(module)
        for modules in packed:
            trial.attempt(modules, partial(pack, *modules), lambda: [encode(backbone, frame)])


def pack(convolution: nn.Conv2d, norm: nn.Module | None = None):
    """Replaces a convolution and the batch normalisation behind it."""
    # In tuples, as a module's modules have names, and these have theirs already.
    replace(convolution, Packed, _norm=(norm,), _packed_weights=Derived())
    if norm is not None:
        replace(norm, Absorbed, _convolution=(convolution,))


def find_convolutions(trial: Trial, backbone: PreTrainedModel) -> list[nn.Conv2d]:
    """Those whose geometry the kernel knows; one of unknown kind is left out."""
    found = []
    for module in backbone.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if type(module).forward is nn.Conv2d.forward:
            if get_padding(module) is not None:
                found.append(module)
        elif not is_from_library(module):
            trial.leave_out(module, "it has a forward of its own")
    return found


def get_padding(convolution: nn.Conv2d) -> tuple[int, int] | None:
    """Zeros before and behind, `(height, width)`; `None` where they differ or are no zeros."""
    if convolution.padding_mode != "zeros":
        return None
    if isinstance(convolution.padding, tuple):
        return convolution.padding
    if convolution.padding == "valid":
        return 0, 0
    totals = [step * (size - 1) for step, size in zip(convolution.dilation, convolution.kernel_size, strict=True)]
    return None if any(total % 2 for total in totals) else tuple(total // 2 for total in totals)


def can_be_absorbed(norm: nn.Module) -> bool:
    """Whether it is torch's or timm's and has statistics."""
    is_known = type(norm).forward is nn.BatchNorm2d.forward or (_has_activation(norm) and is_from_library(norm))
    return is_known and norm.running_mean is not None


def is_packed(convolution: nn.Conv2d, states: torch.Tensor) -> bool:
    """
    Whether a convolution, whose input or output is given, runs with packed weights at present: nobody asks for
    gradients, nor for what it gives to the normalisation.
    """
    weights = [tensor for tensor in _get_weights(convolution) if tensor is not None]
    norm = convolution._norm[0]
    return (
        not is_altered(convolution)
        and not (norm is not None and (norm.training or is_altered(norm)))
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (states, *weights)))
        and is_plain_float32(states, *weights)
    )


def find_norms(backbone: PreTrainedModel, frames: torch.Tensor) -> dict[nn.Conv2d, nn.Module]:
    """The batch normalisation behind each convolution that has one, from a run over `frames`."""
    outputs, calls, hooks = [], [], []

    def note_output(module, args, output):
        outputs.append((output, module))  # the output itself, so that no other tensor gets its identity

    def note_input(module, args):
        calls.append((module, next((source for output, source in outputs if output is args[0]), None)))

    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(note_output))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(note_input))
    try:
        backbone(pixel_values=frames)
    finally:
        for hook in hooks:
            hook.remove()
    sources = [source for _, source in outputs]
    readers = [norm for norm, _ in calls]
    return {
        source: norm
        for norm, source in calls
        if source is not None and sources.count(source) == 1 and readers.count(norm) == 1
    }


def _get_weights(convolution: nn.Conv2d) -> tuple[torch.Tensor | None, ...]:
    norm = convolution._norm[0]
    weights = convolution.weight, convolution.bias
    return weights if norm is None else (*weights, norm.weight, norm.bias, norm.running_mean, norm.running_var)


def _get_geometry(convolution: nn.Conv2d) -> tuple:
    return get_padding(convolution), convolution.stride, convolution.dilation, convolution.groups


def _pack(
    convolution: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor | None, *statistics: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight `(out, in / groups, height, width)` and bias `(out,)` with those of the normalisation, for the kernel."""
    if statistics:
        scale, shift, mean, variance = statistics
        factor = torch.rsqrt(variance + convolution._norm[0].eps)
        factor = factor if scale is None else factor * scale
        weight = weight * factor[:, None, None, None]
        bias = -mean * factor if bias is None else (bias - mean) * factor
        bias = bias if shift is None else bias + shift
    if not _has_packed_convolution():
        return weight.contiguous(memory_format=torch.channels_last), bias
    return _reorder(weight.contiguous(), *_get_geometry(convolution)), bias


def _has_activation(norm: nn.Module) -> bool:
    return isinstance(norm, nn.BatchNorm2d) and hasattr(norm, "act") and hasattr(norm, "drop")


@cache
def _has_packed_convolution() -> bool:
    """Whether this build has the two operators, which TorchInductor uses too, but which are no public ones."""
    numbers = torch.arange(54, dtype=torch.float32, device="cpu")
    input, weight = numbers[:48].reshape(1, 3, 4, 4), numbers.reshape(2, 3, 3, 3)
    geometry = (1, 1), (1, 1), (1, 1), 1
    try:
        packed = _reorder(weight, *geometry)
        output = torch.ops.mkldnn._convolution_pointwise(input, packed, None, *geometry, "none", [], "")
        return torch.allclose(output, nn.functional.conv2d(input, weight, padding=1))
    except (AttributeError, RuntimeError, TypeError):
        return False


def _reorder(weight: torch.Tensor, *geometry) -> torch.Tensor:
    return torch.ops.aten.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *geometry)
