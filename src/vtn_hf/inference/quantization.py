"""Backbones in int8, for CPUs."""

import warnings

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel


def quantize_backbone(model: PreTrainedModel) -> PreTrainedModel:
    """
    Turns the linear layers of the backbone into int8: weights per output channel, activations per call. Convolutions,
    norms, the temporal encoder and the head stay as they are. On a CPU a ViT becomes two to three times as fast; its
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
