"""Pixels that stay bytes until they are on the device: a quarter of the size of floats on their way there."""

import copy

import torch

from .image_processing_vtn import PixelProcessorMixin


def to_uint8_processor(self: PixelProcessorMixin) -> PixelProcessorMixin:
    """A copy that leaves the pixels as bytes, for workers; `normalize_uint8` of this one does the rest."""
    _check_has_bytes(self)
    processor = copy.deepcopy(self)
    processor.do_rescale = processor.do_normalize = False
    return processor


def normalize_uint8(self: PixelProcessorMixin, pixel_values: torch.Tensor) -> torch.Tensor:
    """
    Rescales and normalises, on its device, a batch that this processor has left as bytes (`do_rescale=False,
    do_normalize=False`).

    Raises:
        ValueError: If `pixel_values` are no bytes, or `pixel_protocol` is `"pyslowfast"`, which has none.
    """
    _check_has_bytes(self)
    if pixel_values.dtype != torch.uint8:
        raise ValueError(f"`pixel_values` must be uint8 to be normalised on the device, got {pixel_values.dtype}.")
    return self.pixel_settings.normalize(pixel_values).float()


def _check_has_bytes(processor: PixelProcessorMixin):
    if not processor.pixel_settings.has_bytes:
        raise ValueError(
            "pixel_protocol='pyslowfast' normalises before it resizes, so its pixels are floats; let the processor "
            "rescale and normalise, or use pixel_protocol='transformers'."
        )
