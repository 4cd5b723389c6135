"""Checks that checkpoints are whole, and loads their weights: all of them, or there is an error."""

import contextlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from ..modeling_vtn import VTNForVideoClassification


# The layer that has a row per class.
_CLASSES = ("classifier.out_proj.weight", "classifier.out_proj.bias")


def find_weights(folder: str | os.PathLike) -> list[Path]:
    """
    Finds the files with the weights that `save_pretrained` or `Trainer` wrote, one or several, safetensors or pickled.

    Raises:
        FileNotFoundError: If there are none, or a file is missing that the index lists.
        ValueError: If the index is damaged.
    """
    folder = Path(folder)
    names = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME, ADAPTER_SAFE_WEIGHTS_NAME)
    path = next((folder / name for name in names if (folder / name).is_file()), folder / SAFE_WEIGHTS_NAME)
    files = [path]
    if path.suffix == ".json":
        with _naming(path):
            files = [folder / name for name in sorted(set(json.loads(path.read_bytes())["weight_map"].values()))]
    for file in files:
        _check_presence(file)
    return files


def read_weights(folder: str | os.PathLike) -> dict[str, torch.Tensor]:
    """
    Reads what [`find_weights`] finds.

    Raises:
        FileNotFoundError, ValueError: As there, and if a file is damaged.
    """
    weights: dict[str, torch.Tensor] = {}
    for path in find_weights(folder):
        with _naming(path):
            if path.suffix == ".safetensors":
                weights |= load_file(path)
            else:
                weights |= torch.load(path, map_location="cpu", weights_only=True)
    return weights


def list_problems(checkpoint: str | os.PathLike, files: Iterable[str]) -> list[str]:
    """
    Says in words what is missing or damaged in a checkpoint of `Trainer`, so that training could not continue as if it
    had not been stopped.

    Args:
        checkpoint (`str` or `os.PathLike`): The folder.
        files (`Iterable[str]`): What it should hold beside the state of the trainer; `"model.safetensors"` stands for
            weights in whatever files they are.
    """
    checks = {".json": _check_json, ".safetensors": _check_weights}
    checks |= dict.fromkeys((".pt", ".pth", ".bin"), _check_archive)
    problems = []
    for name in (TRAINER_STATE_NAME, *files):
        path = Path(checkpoint, name)
        try:
            checks.get(path.suffix, _check_presence)(path)
        except (FileNotFoundError, ValueError) as error:
            problems.append(str(error))
    return problems


def _check_presence(path: Path):
    with _naming(path):
        path.stat()


def _check_json(path: Path):
    with _naming(path):
        json.loads(path.read_bytes())


def _check_archive(path: Path):
    """`torch.save` writes zip archives, with a table of contents at the end and a checksum of each part."""
    with _naming(path), zipfile.ZipFile(path) as archive:
        if part := archive.testzip():
            raise ValueError(f"the checksum of {part} is wrong")


def _check_weights(path: Path):
    for file in find_weights(path.parent):
        if file.suffix == ".safetensors":
            with _naming(file), safe_open(file, "pt"):  # compares the table of contents with the length
                pass


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes errors name the file that they are about."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing") from error
    except Exception as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def sync(paths: Iterable[Path]):
    """Makes sure that files, and the names in folders, outlive a loss of power."""
    for path in paths:
        if os.name != "posix":  # elsewhere folders, and files that are open for reading, have no such thing
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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
        raise ValueError(f"{folder} is no checkpoint of this model. {' '.join(str(error).split())}") from error


def load_to_fine_tune(name_or_path: str | os.PathLike, **config_fields) -> VTNForVideoClassification:
    """
    Loads a VTN for training on other classes, or on the same: the last layer is new if their number differs, and
    everything else is loaded.

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
    """Loads the adapters of a `PeftModel`, or of a model with `add_adapter`."""
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    for name in model.peft_config:
        path = Path(folder) if name == "default" or not isinstance(model, PeftModel) else Path(folder, name)
        find_weights(path)
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
