"""Linear layers in int8, for CPUs, and what quantisation of any kind does to a model."""

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from statistics import median

import torch
from transformers.modeling_utils import PreTrainedModel

from .linear import attempt_linear, find_linear_layers, is_plain_float32
from .replacement import Derived, Replacement, replace
from .trial import Trial, is_close


class Int8(Replacement):
    """
    A linear layer in int8: its weights per output channel, its inputs per call. Where gradients are asked for, as it
    was.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        needs_gradients = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        if needs_gradients or not is_plain_float32(input, self.weight, self.bias):
            return super().forward(input)
        packed = self._int8_weights.get(pack, self.weight, self.bias)
        return torch.ops.quantized.linear_dynamic(input.contiguous(), packed, reduce_range=not _has_wide_sums())


def use_int8(trial: Trial, backbone: PreTrainedModel):
    """
    Replaces all linear layers.

    Raises:
        ValueError: If the backbone is not on a CPU, or has none in float32.
    """
    if backbone.device.type != "cpu":
        raise ValueError(f"The int8 layers run on a CPU, but the model is on {backbone.device}; move it there first.")
    layers = find_linear_layers(trial, backbone)
    if not layers:
        raise ValueError(f"{type(backbone).__name__} has no float32 linear layers to turn into int8.")
    for layer in layers:
        put = partial(replace, layer, Int8, _int8_weights=Derived())
        attempt_linear(trial, layer, put, partial(is_close, tolerance=0.05))


def pack(weight: torch.Tensor, bias: torch.Tensor | None):
    """The weights `(out, in)` in int8, symmetric per output channel, in the layout of the kernel."""
    scales = (weight.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).eps).double()
    zero_points = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's quantised tensors are to move to torchao, which torch is without
        quantized = torch.quantize_per_channel(weight, scales, zero_points, axis=0, dtype=torch.qint8)
    engine = torch.backends.quantized.engine
    try:
        if "onednn" in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = "onednn"  # the fastest on x86; packed weights remember theirs
        return torch.ops.quantized.linear_prepack(quantized, bias)
    finally:
        torch.backends.quantized.engine = engine


@cache
def _has_wide_sums() -> bool:
    """Whether products of two 8-bit numbers are summed without overflow, so that inputs can have 8 bits and not 7."""
    return getattr(torch.cpu, "_is_vnni_supported", lambda: False)()


@dataclass(frozen=True)
class QuantizationEffect:
    """
    What became of a model on some inputs; as a string, a sentence.

    Args:
        speedup (`float`): Time of the exact model in units of the quantised model's.
        largest_change (`float`): Of a logit.
        largest_logit (`float`): Of the exact model.
    """

    speedup: float
    largest_change: float
    largest_logit: float

    def __str__(self) -> str:
        return (
            f"{self.speedup:.2f} times as fast as float32; "
            f"logits, of up to {self.largest_logit:.2g}, change by at most {self.largest_change:.2g}"
        )


@torch.no_grad()
def measure_quantization(
    model: PreTrainedModel, quantized: PreTrainedModel, inputs: Mapping[str, torch.Tensor], repeats: int = 3
) -> QuantizationEffect:
    """
    Runs a model and its quantised copy in turns, once to warm up and then `repeats` times; the medians count.

    Args:
        model (`PreTrainedModel`): A [`VTNForVideoClassification`].
        quantized (`PreTrainedModel`): The same, quantised in whatever way.
        inputs (`Mapping[str, torch.Tensor]`): What the processor gives for some videos.
        repeats (`int`, *optional*, defaults to 3): How often to measure.
    """
    expected, logits = model(**inputs).logits, quantized(**inputs).logits
    seconds = {model: [], quantized: []}
    for _ in range(repeats):
        for each, times in seconds.items():
            start = time.perf_counter()
            each(**inputs)
            times.append(time.perf_counter() - start)
    return QuantizationEffect(
        speedup=median(seconds[model]) / median(seconds[quantized]),
        largest_change=(logits - expected).abs().max().item(),
        largest_logit=expected.abs().max().item(),
    )
