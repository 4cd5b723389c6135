"""A faster model that computes the same from the same weights."""

import copy
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from .class_token import read_class_token_only
from .convolution import pack_convolutions
from .engine import check_engine, use_engine
from .global_attention import fold_global_projections
from .linear import use_onednn
from .quantization import use_int8
from .replacement import Replacement, find_modules, is_altered, restore
from .trial import Trial


Module = TypeVar("Module", bound=nn.Module)


def optimize(
    model: Module,
    *,
    int8: bool = False,
    compile: bool = False,
    engine: str | None = None,
    dtype: torch.dtype | str | None = None,
) -> Module:
    """
    Makes a faster model that computes the same from the same weights.

    It has other modules where that saves time: the backbone's last layer for the class token alone, where only that is
    read; the class token's attention in the temporal encoder without the keys and values of every frame; on CPUs
    linear layers by oneDNN where MKL is slow and, at inference, convolutions that do the work of batch normalisation
    and activation, too, with channels last in memory. Each of them is tried on random numbers against the module that
    it replaces, and left out, with a warning that names it, if the results differ.

    It can be trained, saved and loaded like the one given: the names of modules and weights are the same.

    Args:
        model (`nn.Module`): A [`VTNModel`], a [`VTNForVideoClassification`] or a module that contains one; stays as it
            is.
        int8 (`bool`, *optional*, defaults to `False`): Compute the linear layers of the backbone in int8 at inference,
            on a CPU: more than twice as fast for a ViT-B, and not the same (cosine of its features about 0.999 for
            random weights), so check the accuracy.
        compile (`bool`, *optional*, defaults to `False`): Compile the backbone, unless it is in int8 or another engine
            runs it, and the temporal encoder with `torch.compile`, at their first call.
        engine (`str`, *optional*): What runs the backbone at inference, on a CPU: `"torch"` is the default,
            `"openvino"` compiles a graph of it, which takes some seconds and holds a copy of the weights, and `"auto"`
            measures which of the two is faster here. Without OpenVINO, or where its features differ, PyTorch does.
        dtype (`torch.dtype` or `str`, *optional*, defaults to `"float32"`): What OpenVINO computes in: `"bfloat16"` is
            about twice as fast where the processor has it, and not the same, so check the accuracy.

    Returns:
        `nn.Module`: Of the same class, with the same parameters, buffers and configuration: what trains, loads, moves
        or sets one of the two does so to both.

    Raises:
        ValueError: If there is no VTN in `model`, or int8 or an engine is asked for where it cannot be.

    Example:

    ```python
    >>> from vtn_hf import VTNConfig, VTNForVideoClassification, optimize

    >>> backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 16, 24]}
    >>> model = VTNForVideoClassification(VTNConfig(backbone_config=backbone)).eval()
    >>> fast = optimize(model)
    >>> fast.classifier.dense.weight is model.classifier.dense.weight
    True

    ```"""
    fast = share_weights(model)
    vtn = find_vtn(fast)
    if vtn is None:
        raise ValueError(f"There is no VTN in {type(model).__name__}, so there is nothing to optimise.")
    if int8 and engine not in (None, "torch"):
        raise ValueError(
            f"int8=True replaces layers of PyTorch, which engine={engine!r} does not run; give one of them."
        )
    # Of the code in a checkpoint, which may be older, as well
    options = {"int8": int8, "engine": engine, "dtype": dtype, "frame_grid": getattr(vtn.config, "frame_grid", None)}
    _replace_modules(fast, vtn.backbone, **options)
    if compile:
        if hasattr(vtn, "temporal_encoder"):
            vtn.temporal_encoder.compile()
        if not int8 and not isinstance(vtn.backbone, Replacement):  # of which a compiler knows nothing
            vtn.backbone.compile()
    return fast


def optimize_backbone(
    backbone: PreTrainedModel,
    engine: str | None = None,
    dtype: torch.dtype | str | None = None,
    frame_grid: int | None = None,
) -> PreTrainedModel:
    """
    As [`optimize`], of a backbone alone, for [`encode_frames`], which may read its class token alone, but for a grid.
    """
    fast = share_weights(backbone)
    _replace_modules(fast, fast, engine=engine, dtype=dtype, frame_grid=frame_grid)
    return fast


def _replace_modules(
    model: nn.Module,
    backbone: PreTrainedModel,
    *,
    int8: bool = False,
    engine: str | None = None,
    dtype: torch.dtype | str | None = None,
    frame_grid: int | None = None,
):
    check_engine(engine, dtype)
    if next(model.parameters()).device.type == "meta":  # there are no results to compare
        return
    with Trial(model).running() as trial:
        if frame_grid is None:
            read_class_token_only(trial, backbone)
        pack_convolutions(trial, backbone)
        fold_global_projections(trial, model)
        if int8:
            use_int8(trial, backbone)
        use_onednn(trial)
        use_engine(trial, backbone, engine, dtype, frame_grid)


_OPTIMIZED = WeakKeyDictionary()  # of each model how it was, and the faster one


def optimize_once(model: nn.Module) -> nn.Module:
    """
    As [`optimize`], for those who call it by themselves each time they get a model: it gives the same one again unless
    modules were exchanged, listened to or moved in between, and gives back a model that is optimised already.
    """
    present = _describe(model)
    if present is None:
        return model
    known, fast = _OPTIMIZED.get(model, (None, None))
    if known != present:
        fast = optimize(model)
        _OPTIMIZED[model] = present, fast
    return fast


def _describe(model: nn.Module) -> list | None:
    """
    What a faster model depends on, or `None` for one that is faster already. It shares the dicts of parameters, whose
    identities are so unique.
    """
    first = next(model.parameters())
    described, modules = [first.device, first.dtype], [model]
    while modules:  # several times as fast as `model.modules()`
        module = modules.pop()
        if isinstance(module, Replacement):
            return None
        described += id(module._parameters), type(module), module.training, is_altered(module)
        modules += filter(None, module._modules.values())
    return described


def share_weights(model: nn.Module) -> nn.Module:
    """A copy with modules of its own and the very parameters and buffers, also those that are assigned later."""
    shared = [each for module in model.modules() for each in (module._parameters, module._buffers)]
    shared += [
        module.config for module in model.modules() if isinstance(getattr(module, "config", None), PreTrainedConfig)
    ]
    copied = copy.deepcopy(model, {id(each): each for each in shared})
    for module in copied.modules():
        restore(module)
        vars(module).pop("frames_per_call", None)
    return copied


def find_vtn(model: nn.Module) -> nn.Module | None:
    """The [`VTNModel`] in a model."""
    return next(find_modules(model, "VTNModel"), None)
