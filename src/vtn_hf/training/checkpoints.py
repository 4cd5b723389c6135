"""Weights out of a folder and back into a model: all of them, or an error."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from ..modeling_vtn import VTNForVideoClassification


# The layer that has a row per class.
_CLASSES = ("classifier.out_proj.weight", "classifier.out_proj.bias")


def read_weights(folder: str | os.PathLike) -> dict[str, torch.Tensor]:
    """
    Reads the weights that `save_pretrained` or `Trainer` wrote, in one file or several, safetensors or pickled.

    Raises:
        FileNotFoundError: If there are none, or a file is missing that the index lists.
        ValueError: If a file is damaged.
    """
    folder = Path(folder)
    for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME):
        if (folder / name).is_file():
            break
    else:
        raise FileNotFoundError(f"{folder} holds no weights: neither {SAFE_WEIGHTS_NAME} nor {WEIGHTS_NAME}.")
    files = [name]
    if name.endswith(".json"):
        index = json.loads((folder / name).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    weights = {}
    for file in files:
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder / file} is missing, which {name} lists.")
        try:
            if file.endswith(".safetensors"):
                weights |= load_file(folder / file)
            else:
                weights |= torch.load(folder / file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{folder / file} is damaged: {error}") from error
    return weights


def load_weights(model: nn.Module, folder: str | os.PathLike):
    """
    Loads a checkpoint of a model into it, or that of its PEFT adapters.

    Raises:
        FileNotFoundError, ValueError: As in [`read_weights`], and if the weights are not exactly those of the model.
    """
    if hasattr(model, "peft_config"):
        return _load_adapters(model, folder)
    try:
        model.load_state_dict(read_weights(folder), strict=True)
    except RuntimeError as error:  # lists what is missing, left over, or of another shape
        raise ValueError(f"{folder} is no checkpoint of this model. {error}") from error


def load_to_fine_tune(name_or_path: str | os.PathLike, **config_fields) -> VTNForVideoClassification:
    """
    Loads a VTN whose classes may become others: then the last layer is new, and everything else is as it was.

    Args:
        name_or_path (`str` or `os.PathLike`): A directory or a repository on the Hub.
        config_fields: Fields of [`VTNConfig`] that override those of the checkpoint.

    Raises:
        ValueError: If other weights are missing, left over or of another shape.
    """
    if Path(name_or_path, ADAPTER_CONFIG_NAME).is_file():
        raise ValueError(
            f"{name_or_path} holds a PEFT adapter, not a model: merge them first, `PeftModel.from_pretrained(model, "
            f"{str(name_or_path)!r}).merge_and_unload().save_pretrained(…)`."
        )
    model, info = VTNForVideoClassification.from_pretrained(
        name_or_path, ignore_mismatched_sizes=True, output_loading_info=True, **config_fields
    )
    reshaped = {name: f"{name} {tuple(found)}, not {tuple(own)}" for name, found, own in info["mismatched_keys"]}
    problems = {
        "lacks": sorted(info["missing_keys"] - reshaped.keys()),
        "has left over": sorted(info["unexpected_keys"]),
        "has in another shape": sorted(reshaped[name] for name in reshaped.keys() - {*_CLASSES}),
    }
    if any(problems.values()):
        listed = "; ".join(f"{what} {', '.join(names)}" for what, names in problems.items() if names)
        raise ValueError(f"The weights in {name_or_path} are not those of this model: it {listed}.")
    return model


def _load_adapters(model: nn.Module, folder: str | os.PathLike):
    """Those of a `PeftModel`, or of a model with `add_adapter`."""
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    for name in model.peft_config:
        path = Path(folder) if name == "default" or not isinstance(model, PeftModel) else Path(folder, name)
        saved = load_peft_weights(str(path), device="cpu")
        if not isinstance(model, PeftModel):
            saved = {key.removeprefix("base_model.model."): tensor for key, tensor in saved.items()}
        set_peft_model_state_dict(model, saved, adapter_name=name)
        own = get_peft_model_state_dict(model, adapter_name=name)
        wrong = saved.keys() ^ own.keys()
        wrong |= {key for key in saved.keys() & own.keys() if not torch.equal(saved[key], own[key].cpu())}
        if wrong:
            raise ValueError(f"The adapter in {path} is not one of this model's: {', '.join(sorted(wrong))} differ.")


def check_adapters(model: nn.Module):
    """
    Makes sure that training changes nothing but what a checkpoint of PEFT adapters holds.

    Raises:
        ValueError: If it would change statistics of batch normalisations.
    """
    is_training = model.training
    model.train()
    changing = [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.training and "modules_to_save" not in name
    ]
    model.train(is_training)
    if changing:
        raise ValueError(
            f"Training would change the statistics of {len(changing)} batch normalisations, which checkpoints of "
            f"adapters do not hold: {changing[0]}, …; call `freeze_backbone()` on the model first."
        )
