"""A faster model that shares its weights with the one given."""

import copy

from transformers.modeling_utils import PreTrainedModel

from .quantization import quantize_backbone


def optimize(model: PreTrainedModel, *, int8: bool = False, compile: bool = False) -> PreTrainedModel:
    """
    Makes a faster model that computes the same from the same weights.

    Args:
        model (`PreTrainedModel`): A [`VTNModel`] or [`VTNForVideoClassification`]; stays as it is.
        int8 (`bool`, *optional*, defaults to `False`): Compute the linear layers of the backbone in int8, on a CPU.
        compile (`bool`, *optional*, defaults to `False`): Compile the backbone with `torch.compile`.

    Returns:
        A model of the same class, whose parameters and buffers are those of the one given.

    Example:

    ```python
    >>> import torch
    >>> from vtn_hf import VTNConfig, VTNForVideoClassification, optimize

    >>> backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 16, 24]}
    >>> model = VTNForVideoClassification(VTNConfig(backbone_config=backbone, num_attention_heads=4)).eval()
    >>> fast = optimize(model)
    >>> fast.classifier.dense.weight is model.classifier.dense.weight
    True

    ```"""
    fast = share_weights(model)
    if int8:
        quantize_backbone(fast)
    if compile:
        fast.base_model.backbone.compile()
    return fast


def share_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with modules of its own, and the very parameters and buffers, also those that are assigned later."""
    dicts = [each for module in model.modules() for each in (module._parameters, module._buffers)]
    return copy.deepcopy(model, {id(each): each for each in dicts})
