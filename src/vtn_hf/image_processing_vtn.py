"""From frames that are decoded already to `pixel_values`, and what both processors share."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import validate_typed_dict
from torch import nn
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import ImageInput, make_nested_list_of_images
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType

from .pixels_vtn import PixelSettings, to_frames


# Keys of a saved processor that are no settings.
_SERVICE_KEYS = {"auto_map", "processor_class", "feature_extractor_type"}
_SERVICE_KEYS |= {"image_processor_type", "video_processor_type"}


class PixelProcessorMixin:
    """What [`VTNImageProcessor`] and [`VTNVideoProcessor`] share: the settings of the pixels, checked when made."""

    do_resize = True
    size = {"shortest_edge": 256}
    default_to_square = False
    resample = 2
    do_center_crop = True
    crop_size = {"height": 224, "width": 224}
    do_rescale = True
    do_normalize = True
    image_mean = [0.45, 0.45, 0.45]
    image_std = [0.225, 0.225, 0.225]
    do_convert_rgb = True
    pixel_protocol = "transformers"
    do_flip_channel_order = False
    # What the installed package adds: the processor for a VTN on an image model, whose name or path it takes; a copy
    # that leaves pixels as bytes, and what makes of those the pixels of this one.
    from_backbone_pretrained: ClassVar[Callable[..., Any]]
    to_uint8_processor: Callable[[], Any]
    normalize_uint8: Callable[[torch.Tensor], torch.Tensor]

    def __init__(self, **kwargs):
        names = self.valid_kwargs.__annotations__.keys()
        if unknown := kwargs.keys() - names - _SERVICE_KEYS:
            raise ValueError(f"{type(self).__name__} has no settings {sorted(unknown)}; it has {sorted(names)}.")
        super().__init__(**kwargs)
        vars(self).update((name, deepcopy(getattr(self, name, None))) for name in names)
        self.check_settings()

    @classmethod
    def from_dict(cls, stored: dict, **kwargs):
        """As in transformers; what a file has beside the settings, as one of another release may, is kept."""
        known = cls.valid_kwargs.__annotations__.keys() | _SERVICE_KEYS
        loaded = super().from_dict({name: stored[name] for name in stored.keys() & known}, **kwargs)
        processor = loaded[0] if isinstance(loaded, tuple) else loaded
        vars(processor).update((name, stored[name]) for name in stored.keys() - known)
        return loaded

    def check_settings(self):
        """Raises `ValueError` for a setting that no video could be processed with."""
        vars(self).update(vars(self.pixel_settings))  # sizes as dictionaries, numbers as tuples

    @property
    def pixel_settings(self) -> PixelSettings:
        """The pixels that this processor gives."""
        return PixelSettings.select(vars(self))

    def merge_settings(self, kwargs: dict) -> dict:
        """The arguments of a call, and for those that it lacks the settings of the processor."""
        validate_typed_dict(self.valid_kwargs, kwargs)
        return {name: getattr(self, name, None) for name in self.valid_kwargs.__annotations__} | kwargs


def batch_videos(batch: dict[str, list[torch.Tensor]], tensor_type: str | TensorType | None) -> BatchFeature:
    """
    Puts videos, `pixel_values` of shape `(frames, channels, height, width)`, into a batch, with what there is beside
    them for each frame. Those of unequal length are padded with zeros to the longest, with an `attention_mask`.
    """
    videos = batch["pixel_values"]
    sizes = [tuple(video.shape[1:]) for video in videos]
    if len(set(sizes)) > 1:
        got = f"got (channels, height, width) {sizes}"
        raise ValueError(f"The videos of a batch must have one picture size, {got}; resize or crop them.")
    if len({len(video) for video in videos}) > 1:
        batch["attention_mask"] = [torch.ones(len(video), dtype=torch.long) for video in videos]
        batch = {name: list(nn.utils.rnn.pad_sequence(rows, batch_first=True)) for name, rows in batch.items()}
    if len(videos) == 1 and tensor_type is not None:
        batch["pixel_values"] = videos[0][None]  # a view, where stacking would copy the video
    return BatchFeature(data=batch, tensor_type=tensor_type)


class VTNImageProcessorKwargs(ImagesKwargs, total=False):
    """Arguments that [`VTNImageProcessor`] takes beside those of every image processor, which describes them."""

    pixel_protocol: str
    do_flip_channel_order: bool


class VTNImageProcessor(PixelProcessorMixin, BaseImageProcessor):
    r"""
    Turns frames that are decoded already into the input of a VTN: resizes the short side, crops the centre, rescales
    and normalises. Works with and without torchvision.

    Args:
        do_resize (`True`), size (`{"shortest_edge": 256}`), resample (2, bilinear):
            Resizing; `size` may also have the keys `height` and `width`.
        do_center_crop (`True`), crop_size (`{"height": 224, "width": 224}`):
            Cropping; smaller frames are padded with zeros.
        do_rescale (`True`), rescale_factor (1/255):
            Rescaling; pass `do_rescale=False` for frames in [0, 1], which are refused otherwise.
        do_normalize (`True`), image_mean (0.45), image_std (0.225):
            Normalisation; the defaults are the original's.
        pixel_protocol (`str`, *optional*, defaults to `"transformers"`):
            `"transformers"` resizes bytes with antialiasing, as torchvision does; `"libswscale"` crops, resizes and
            converts files in the decoder's library, which is faster and gives slightly other pixels, and is
            `"transformers"` for frames that are decoded already; `"pyslowfast"` reproduces the pixels of the original
            implementation: float32, no antialiasing, margins of the crop rounded up.
        do_flip_channel_order (`bool`, *optional*, defaults to `False`):
            Give the channels as BGR, which MobileViT was trained on.

    Raises:
        ValueError: If a setting is unknown or impossible.

    Example:

    ```python
    >>> import numpy as np
    >>> from vtn_hf import VTNImageProcessor

    >>> frames = [np.zeros((120, 160, 3), dtype=np.uint8)] * 8
    >>> VTNImageProcessor()(frames, return_tensors="pt").pixel_values.shape
    torch.Size([1, 8, 3, 224, 224])

    ```"""

    valid_kwargs = VTNImageProcessorKwargs
    model_input_names = ["pixel_values", "attention_mask"]

    def preprocess(self, images: ImageInput, **kwargs: Unpack[VTNImageProcessorKwargs]) -> BatchFeature:
        """
        Args:
            images (`ImageInput`):
                The frames of one video, or a list of the frames of several. Frames are PIL images, arrays or tensors,
                of shape `(height, width, channels)` or `(channels, height, width)`, with values in [0, 255].
            kwargs:
                Overrides for this call of the arguments of the class; `return_tensors` is `"pt"` or `"np"`, without it
                there are lists.

        Returns:
            `BatchFeature`: `pixel_values` of shape `(batch, frames, channels, height, width)`, float32, or uint8 for
            bytes that are neither rescaled nor normalised; and, for videos of unequal length, `attention_mask` of
            shape `(batch, frames)`.

        Raises:
            ValueError: If an argument is wrong, there are no frames, or they do not fit together.
        """
        settings = self.merge_settings(kwargs)
        pixels = PixelSettings.select(settings)
        videos = make_nested_list_of_images(images, expected_ndims=3)
        if len(videos) == 0 or any(len(video) == 0 for video in videos):
            raise ValueError(f"Each video needs at least one frame, got {[len(video) for video in videos]} frames.")
        videos = [pixels.preprocess(to_frames(video, pixels)) for video in videos]
        return batch_videos({"pixel_values": videos}, settings["return_tensors"])


VTNImageProcessor.register_for_auto_class()

__all__ = ["VTNImageProcessor"]
