"""The pixels that an image model was trained on, as settings for the processors of a VTN that is built on it."""

import os

from transformers.configuration_utils import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor, get_size_dict

from .pixels_vtn import INTERPOLATION


# What a VTN takes over from its backbone's preprocessor.
_OF_BACKBONE = (
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "resample",
    "do_flip_channel_order",
)


def read_backbone_preprocessing(backbone_name_or_path: str | os.PathLike) -> dict:
    """
    Settings for the pixels that an image model was trained on, by its preprocessor configuration: `crop_size` is the
    picture size, and `size` the short side before cropping. Where the image model has no crop of its own, the crop
    leaves as much out as the paper's 224 of 256.

    Raises:
        OSError: If there is no preprocessor configuration.
        ValueError: If it does not say which size of pictures the model takes.
    """
    try:
        config, _ = BaseImageProcessor.get_image_processor_dict(backbone_name_or_path)
    except OSError as error:
        config = _read_timm_preprocessing(backbone_name_or_path)
        if config is None:
            raise error
    settings = {name: config[name] for name in _OF_BACKBONE if config.get(name) is not None}
    has_crop = "crop_size" in config and config.get("do_center_crop", True)
    size = get_size_dict(config["size"], default_to_square=False) if "size" in config else {}
    crop_size = get_size_dict(config["crop_size"]) if has_crop else {}
    crop_side = crop_size.get("height") or size.get("height") or size.get("shortest_edge")
    if crop_side is None:
        raise ValueError(f"The preprocessor of {backbone_name_or_path} does not tell a picture size: size={size}.")
    short_side = (size.get("shortest_edge") or size.get("height")) if crop_size else None
    settings["crop_size"] = {"height": crop_side, "width": crop_side}
    settings["size"] = {"shortest_edge": short_side or round(crop_side / (config.get("crop_pct") or 224 / 256))}
    return settings


def _read_timm_preprocessing(backbone_name_or_path: str | os.PathLike) -> dict | None:
    """What timm keeps in the configuration of the model, under the names of a preprocessor configuration."""
    try:
        config = PreTrainedConfig.get_config_dict(backbone_name_or_path)[0]["pretrained_cfg"]
    except (OSError, KeyError):
        return None
    resample = {mode.removesuffix("-exact"): number for number, mode in INTERPOLATION.items()}
    return {
        "image_mean": config.get("mean"),
        "image_std": config.get("std"),
        "resample": resample.get(config.get("interpolation")),
        "size": {"shortest_edge": config["input_size"][-1]},
        "crop_pct": config.get("crop_pct"),
    }


def from_backbone_pretrained(cls, backbone_name_or_path: str | os.PathLike, **kwargs):
    """
    The processor for a VTN on a pretrained image model: with its mean, deviation, interpolation and picture size.

    Args:
        backbone_name_or_path (`str` or `os.PathLike`): The image model, on the Hub or in a local directory.
        kwargs: Settings of the processor, which take the place of those of the image model.

    Raises:
        OSError, ValueError: As [`read_backbone_preprocessing`].
    """
    return cls(**{**read_backbone_preprocessing(backbone_name_or_path), **kwargs})
