"""Backbones in int8, for CPUs, and what quantisation of any kind does to a model."""

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel


def quantize_backbone(model: PreTrainedModel) -> PreTrainedModel:
    """
    Turns the linear layers of the backbone into int8: weights per output channel, activations per call. Convolutions,
    norms, the temporal encoder and the head stay as they are. On a CPU a ViT-B becomes about twice as fast; its
    features change a little (cosine about 0.998 for ViT-B with random weights), so check the accuracy.

    Args:
        model (`PreTrainedModel`): A [`VTNModel`] or [`VTNForVideoClassification`] on a CPU; is changed, and can no
            longer be trained or saved with `save_pretrained`.

    Returns:
        The same model.

    Raises:
        ValueError: If the model is not on a CPU, or has no float32 linear layers in its backbone.
    """
    if model.device.type != "cpu":
        raise ValueError(f"The int8 layers run on a CPU, but the model is on {model.device}; move it there first.")
    backbone = model.base_model.backbone
    if not any(type(module) is nn.Linear and module.weight.dtype == torch.float32 for module in backbone.modules()):
        raise ValueError(f"{type(backbone).__name__} has no float32 linear layers to turn into int8.")
    engine = torch.backends.quantized.engine
    try:
        if "onednn" in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = "onednn"  # the fastest of the three on x86; the layers remember theirs
        with warnings.catch_warnings():
            # torch.ao is to move to the package torchao, which is not installed with torch.
            warnings.simplefilter("ignore")
            torch.ao.quantization.quantize_dynamic(
                backbone, {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}, inplace=True
            )
    finally:
        torch.backends.quantized.engine = engine
    return model.eval()


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
