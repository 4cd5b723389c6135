"""The arguments that commands have in common: one name, one meaning and one help text each."""

import argparse
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import AutoConfig

from .. import VTNForVideoClassification, VTNVideoProcessor, optimize
from ..data.arguments import CollectionArguments


DTypeName = Literal["float32", "bfloat16", "float16"]
EngineName = Literal["torch", "openvino", "auto"]
DEVICE = "cpu, cuda, cuda:1, mps, …; default: an accelerator if there is one"
HELP = {
    "model": "a VTN with its processor: a folder, or a repository on the Hub",
    "output_dir": "folder to write: a new one, or one to go on with",
    "output": "file to write, or to go on with",
    "overwrite": "replace what is there",
    "device": f"where to compute: {DEVICE}",
    "dtype": "numbers to compute with: float32, bfloat16 or float16; default: float32",
    "engine": "what runs the backbone on a CPU: torch, openvino or auto, which measures; default: torch",
    "num_workers": "videos that are decoded at a time, by each process",
    "num_frames": "frames of a video, at most, spread over all of it; default: as the processor says",
    "fps": "frames per second to look at; default: as the processor says",
    "class_names": "kinetics400, kinetics600, kinetics700 or a file with a class per line: the order of the labels; "
    "default: as found",
    "min_coverage": "share of the videos that must be readable; else there is no result",
    "seed": "of everything that is random",
    "split": "which part of the collection",
    "time_limit_sec": "seconds for one video",
    "memory_limit_gib": "memory for one video",
    "backbone_name_or_path": "an image model, a folder or a repository on the Hub",
    "frames_per_chunk": "frames per call of the backbone",
    "clip_num_frames": "frames of a clip",
    "clip_duration_sec": "seconds that a clip covers",
} | {each.name: each.metadata["help"] for each in fields(CollectionArguments)}


def positive(kind: type) -> Callable[[str], float]:
    """Says to argparse how to read a number above zero."""

    def parse(text: str):
        number = kind(text)
        if not 0 < number < float("inf"):
            raise ValueError
        return number

    parse.kind = kind
    parse.__name__ = f"positive {kind.__name__}"  # what argparse calls it in its message
    return parse


_SETTINGS: dict[str, dict[str, Any]] = {
    "output_dir": {"type": Path},
    "output": {"type": Path},
    "overwrite": {"action": "store_true"},
    "engine": {"choices": get_args(EngineName)},
    "dtype": {"choices": get_args(DTypeName)},
    "seed": {"type": int},
    "val_seed": {"type": int},
    "val_share": {"type": positive(float)},
    "num_workers": {"type": positive(int)},
    "num_frames": {"type": positive(int)},
    "fps": {"type": positive(float)},
    "time_limit_sec": {"type": positive(float)},
    "memory_limit_gib": {"type": positive(float)},
}


def add_shared(parser: argparse._ActionsContainer, name: str, default_is: str | None = None, **settings):
    """
    Adds an argument that other commands have too.

    Args:
        parser: Of the command, or a group of its arguments.
        name (`str`): Of the argument, one of `HELP`.
        default_is (`str`, *optional*): What it is by default, in words.
        settings: Of `add_argument`; `help` takes the place of what follows the colon in what is said everywhere.
    """
    text = HELP[name] if default_is is None else f"{HELP[name].partition('; default')[0]}; default: {default_is}"
    text = f"{text.partition(':')[0]}: {settings.pop('help')}" if "help" in settings else text
    parser.add_argument(f"--{name}", **_SETTINGS.get(name, {}), **settings, help=text)


def choose_shared_device(name: str | None) -> torch.device:
    """
    As [`choose_device`], where several processes take one each.

    Raises:
        ValueError: If there is no such device, or it would be that of all processes.
    """
    device = choose_device(name)
    if ":" in (name or ""):
        raise ValueError(f"--device {name}: each process takes a device of its own; CUDA_VISIBLE_DEVICES says which.")
    return device


def choose_device(name: str | None) -> torch.device:
    """
    The device of a name, or an accelerator if there is one.

    Raises:
        ValueError: If there is no such device.
    """
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"There is no device {name!r} here; without --device, the best one is taken.") from error


def load_model(name: str) -> VTNForVideoClassification:
    """
    The VTN of a name, in eval mode.

    Raises:
        ValueError: If it is another model.
    """
    model_type = AutoConfig.from_pretrained(name).model_type
    if model_type != VTNForVideoClassification.config_class.model_type:
        raise ValueError(f"{name} is a model of the type {model_type!r}, and not a VTN.")
    return VTNForVideoClassification.from_pretrained(name).eval()


def parse_json(name: str, text: str) -> dict[str, Any]:
    """
    Reads the JSON object in an argument.

    Raises:
        ValueError: If it is none.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--{name} must be JSON, such as '{{\"a\": 1}}', got {text!r}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"--{name} must be JSON in braces, such as '{{\"a\": 1}}', got {text!r}.")
    return value


def load_processor(model: str, num_frames: int | None, fps: float | None = None) -> VTNVideoProcessor:
    """The processor of a model, with what the arguments of these names override."""
    overrides: dict[str, Any] = {"num_frames": num_frames, "fps": fps}
    return VTNVideoProcessor.from_pretrained(
        model, **{name: value for name, value in overrides.items() if value is not None}
    )


def speed_up(
    model: VTNForVideoClassification, engine: str | None, dtype: str | None, **settings: bool
) -> VTNForVideoClassification:
    """The model as `--engine` and `--dtype` say: PyTorch's in that dtype, or an engine that computes in it."""
    if engine in (None, "torch"):
        return optimize(model if dtype is None else model.to(getattr(torch, dtype)), **settings)
    return optimize(model, engine=engine, dtype=dtype, **settings)
