"""
Convolutions in float32 on CPUs, at inference: pixels lie channels last in memory, batch normalisation is part of the
weights, these get the layout of oneDNN once and for all instead of anew in each call, and the activation is computed
with the product.
"""

from collections import Counter
from functools import cache, partial

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from ..backbone_vtn import encode, get_frame_shape, is_convolutional
from .linear import is_plain_float32
from .replacement import (
    Derived,
    Replacement,
    all_modules_are_heard,
    is_altered,
    is_from_library,
    replace,
    restore,
)
from .trial import Trial, is_close


# Of 224 x 224 pixels, at which a call takes least time per frame; as they were, convolutions do with fewer.
FRAMES_PER_CALL = 6


class Packed(Replacement):
    """A convolution with packed weights, which does the work of the modules behind it, too."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not is_packed(self, input):
            return super().forward(input)
        input = input.contiguous(memory_format=torch.channels_last)
        # Another layout is the fastest for another size of pictures, and for more of them than one.
        compute = partial(_pack, self, input.shape)
        weight, bias = self._packed_weights.get(compute, *_get_weights(self), key=(len(input) > 1, *input.shape[2:]))
        padding, *others = _get_geometry(self)
        if _has_packed_convolution():
            others += *self._activation, ""
            output = torch.ops.mkldnn._convolution_pointwise(input, weight, bias, padding, *others)
        else:
            output = nn.functional.conv2d(input, weight, bias, others[0], padding, *others[1:])
        if self._followers:
            # They must not decide anew: when another thread compiles or exports, this changes at any time.
            output._packed_by = id(self)
        return output


class Absorbed(Replacement):
    """Batch normalisation, or an activation, that is part of the convolution before it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        convolution = self._convolution[0]
        if getattr(input, "_packed_by", None) != id(convolution):
            return super().forward(input)
        if self is convolution._followers[-1]:
            del input._packed_by
        return self.act(self.drop(input)) if self._keeps_activation else input


def pack_convolutions(trial: Trial, backbone: PreTrainedModel):
    """Replaces the convolutions of a convolutional network, and the modules behind them that they do the work of."""
    frame = trial.make_random(1, *get_frame_shape(backbone.config), like=next(backbone.parameters()))
    if not (is_convolutional(backbone) and is_plain_float32(frame)):
        return
    expected, packed = encode(backbone, frame), []
    readers = find_readers(backbone, frame)
    for convolution in find_convolutions(trial, backbone):
        modules = [convolution, *choose_followers(trial, convolution, readers)]
        sides = [7 + 2 * side for side in convolution.kernel_size]
        states = trial.make_random(2, convolution.in_channels, *sides, like=frame)
        if trial.attempt(modules, partial(pack, *modules), partial(_run_all, modules, states)):
            packed.append(modules)
    if not is_close([encode(backbone, frame)], [expected]):
        # Something else reads what a convolution gives to the modules behind it.
        for modules in packed:
            for module in modules:
                restore(module)
        for modules in packed:
            trial.attempt(modules, partial(pack, *modules), lambda: [encode(backbone, frame)])
    if any(isinstance(module, Packed) for module in backbone.modules()):
        backbone.frames_per_call = FRAMES_PER_CALL


def pack(convolution: nn.Conv2d, *followers: nn.Module):
    """Replaces a convolution, and the batch normalisation and the activation behind it."""
    norm = next((module for module in followers if isinstance(module, nn.BatchNorm2d)), None)
    activation = describe_activation(followers[-1]) if followers else None
    inner = describe_activation(norm.act) if norm is not None and _has_activation(norm) else None
    # In tuples, as a module's modules have names, and these have theirs already.
    replace(
        convolution,
        Packed,
        _norm=(norm,),
        _followers=followers,
        _activation=activation or inner or ("none", []),
        _packed_weights=Derived(),
    )
    for module in followers:
        keeps_activation = module is norm and _has_activation(norm) and inner is None
        replace(module, Absorbed, _convolution=(convolution,), _keeps_activation=keeps_activation)


def choose_followers(trial: Trial, convolution: nn.Conv2d, readers: dict[nn.Module, nn.Module]) -> list[nn.Module]:
    """The batch normalisation and the activation behind a convolution, as far as it can do their work."""
    followers = []
    reader = readers.get(convolution)
    if isinstance(reader, nn.BatchNorm2d):
        is_known = type(reader).forward is nn.BatchNorm2d.forward or (
            _has_activation(reader) and is_from_library(reader)
        )
        if not is_known:
            trial.leave_out(reader, "it has a forward of its own")
        if not is_known or reader.running_mean is None:
            return []
        followers.append(reader)
        reader = None if _has_activation(reader) else readers.get(reader)
    if reader is not None and describe_activation(reader) is not None:
        followers.append(reader)
    return followers


def describe_activation(module: nn.Module) -> tuple[str, list[float]] | None:
    """Its name and numbers for oneDNN's kernel, where that is there and knows it."""
    if not _has_packed_convolution():
        return None
    if type(module).forward is nn.Hardtanh.forward:  # nn.ReLU6, too
        return "hardtanh", [float(module.min_val), float(module.max_val)]
    return {nn.ReLU.forward: ("relu", []), nn.SiLU.forward: ("swish", [])}.get(type(module).forward)


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


def is_packed(convolution: nn.Conv2d, states: torch.Tensor) -> bool:
    """
    Whether a convolution runs with packed weights on these inputs: nobody asks for gradients, nor for what it gives to
    the modules behind it.
    """
    norm, weights = convolution._norm[0], [tensor for tensor in _get_weights(convolution) if tensor is not None]
    return (
        not any(map(is_altered, (convolution, *convolution._followers)))
        and not (norm is not None and norm.training)
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (states, *weights)))
        and is_plain_float32(states, *weights)
        and not all_modules_are_heard()
    )


def find_readers(backbone: PreTrainedModel, frames: torch.Tensor) -> dict[nn.Module, nn.Module]:
    """
    For each convolution and each batch normalisation, the batch normalisation or activation that reads what it gives,
    where it is the only one of these, from a run over `frames`.
    """
    outputs, calls, hooks = [], [], []

    def note_output(module, args, output):
        # The output itself, so that no other tensor gets its identity, and its version, which changes with its values.
        outputs.append((module, output, output._version))

    def note_input(module, args):
        givers = [giver for giver, output, version in outputs if output is args[0] and output._version == version]
        calls.append((module, *givers))

    for module in backbone.modules():
        is_norm = isinstance(module, nn.BatchNorm2d)
        if isinstance(module, nn.Conv2d) or is_norm:
            hooks.append(module.register_forward_hook(note_output))
        if is_norm or describe_activation(module) is not None:
            hooks.append(module.register_forward_pre_hook(note_input))
    try:
        backbone(pixel_values=frames)
    finally:
        for hook in hooks:
            hook.remove()
    num_runs = Counter(giver for giver, *_ in outputs)
    num_readers = Counter(giver for _, *givers in calls for giver in givers)
    num_calls = Counter(reader for reader, *_ in calls)
    return {
        giver: reader
        for reader, *givers in calls
        for giver in givers
        if num_runs[giver] == num_readers[giver] == num_calls[reader] == 1
    }


def _run_all(modules: list[nn.Module], states: torch.Tensor) -> list[torch.Tensor]:
    return [nn.Sequential(*modules)(states)]


def _get_weights(convolution: nn.Conv2d) -> tuple[torch.Tensor | None, ...]:
    norm = convolution._norm[0]
    weights = convolution.weight, convolution.bias
    return weights if norm is None else (*weights, norm.weight, norm.bias, norm.running_mean, norm.running_var)


def _get_geometry(convolution: nn.Conv2d) -> tuple:
    return get_padding(convolution), convolution.stride, convolution.dilation, convolution.groups


def _pack(
    convolution: nn.Conv2d,
    input_shape: torch.Size,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *statistics: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Weight `(out, in / groups, height, width)` and bias `(out,)` with those of the normalisation, in the layout that is
    fastest for inputs of this shape.
    """
    if statistics:
        scale, shift, mean, variance = statistics
        factor = torch.rsqrt(variance + convolution._norm[0].eps)
        factor = factor if scale is None else factor * scale
        weight = weight * factor[:, None, None, None]
        bias = -mean * factor if bias is None else (bias - mean) * factor
        bias = bias if shift is None else bias + shift
    if not _has_packed_convolution():
        return weight.contiguous(memory_format=torch.channels_last), bias
    return _reorder(weight.contiguous(), *_get_geometry(convolution), input_shape), bias


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
