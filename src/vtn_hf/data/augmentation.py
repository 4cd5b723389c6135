"""
Augmentation of training clips: of one clip, the same for all of its frames, and mixing of the clips of a batch.

Everything is drawn from the generator that is passed in. Pixels are in [0, 255] here, before the normalisation.
"""

import math
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import nn
from transformers.image_utils import SizeDict
from transformers.utils import is_torchvision_available

from ..pixels_vtn import PixelSettings, Span, View
from ..video_processing_vtn import VTNVideoProcessor


class ClipAugmentation:
    """
    Cuts a random part out of a clip, in the size that the model takes, and changes it.

    Args:
        processor (`VTNVideoProcessor`):
            Tells the size of the crop, the interpolation, and mean and deviation of the pixels.
        resize_range (`tuple[int, int]`, *optional*):
            Least and greatest short side in pixels: the clip is resized to one in between, and a crop taken anywhere.
            The paper has 256 to 320.
        crop_scale (`tuple[float, float]`, *optional*):
            Least and greatest share of the area: a part of that size and a side ratio of 3:4 to 4:3 is taken anywhere,
            and resized to the crop. Without either, the crop is the processor's, in the centre.
        flip_prob (`float`, *optional*, defaults to 0.0):
            Probability of mirroring left and right. Leave it at 0 where the classes tell left from right.
        warp (`tuple[float, float, float]`, *optional*):
            Stretches each side of what is shown by a factor that differs from 1 by up to the first number, shifts it
            by up to the second as a share of the side, and turns it by up to the third in degrees. Pixels at the edge
            continue beyond it.
        rand_augment (`tuple[int, int]`, *optional*):
            Number and magnitude (0 to 30) of RandAugment's operations; needs torchvision.
        erasing_prob (`float`, *optional*, defaults to 0.0):
            Probability of covering a rectangle of 2 % to a third of the picture with noise.

    Raises:
        ValueError: If arguments contradict each other.
        ImportError: If RandAugment is asked for without torchvision.
    """

    def __init__(
        self,
        processor: VTNVideoProcessor,
        resize_range: tuple[int, int] | None = None,
        crop_scale: tuple[float, float] | None = None,
        flip_prob: float = 0.0,
        warp: tuple[float, float, float] | None = None,
        rand_augment: tuple[int, int] | None = None,
        erasing_prob: float = 0.0,
    ):
        self.pixels = processor.pixel_settings
        self.crop_size = self.pixels.crop_size
        self.resize_range = resize_range
        self.crop_scale = crop_scale
        self.flip_prob = flip_prob
        self.warp = warp
        self.rand_augment = rand_augment and _make_rand_augment(*rand_augment)
        self.erasing_prob = erasing_prob
        if resize_range is not None and crop_scale is not None:
            raise ValueError(f"Give `resize_range` or `crop_scale`, got {resize_range} and {crop_scale}.")
        if warp is not None and not (len(warp) == 3 and 0 <= warp[0] < 1 and min(warp) >= 0):
            raise ValueError(f"`warp` must be a stretch below 1, a shift and an angle, none negative, got {warp}.")
        if resize_range is not None and resize_range[0] < max(self.crop_size.height, self.crop_size.width):
            raise ValueError(f"`resize_range` {resize_range} begins below the crop, {processor.crop_size}.")
        if rand_augment is not None and not self.pixels.has_bytes:
            raise ValueError('RandAugment changes bytes, but `pixel_protocol="pyslowfast"` makes floats.')

    def __call__(self, frames: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """
        Args:
            frames (`torch.Tensor` of shape `(frames, 3, height, width)`): A clip, uint8.
            generator (`np.random.Generator`): Draws everything.

        Returns:
            `torch.Tensor` of shape `(frames, 3, crop height, crop width)`: uint8, or float32 in [0, 255] for
            `pixel_protocol="pyslowfast"`.
        """
        view = self.choose_view(*frames.shape[-2:], generator)
        return self.change(self._rgb_pixels.take(frames, view), generator)

    # Settings are checked whenever they are made, which takes longer than to change a small clip.
    @cached_property
    def _rgb_pixels(self) -> PixelSettings:
        return replace(self.pixels, do_flip_channel_order=False)

    @cached_property
    def _central_crop(self) -> PixelSettings:
        return replace(self.pixels, do_resize=True, do_center_crop=True)

    def choose_view(self, height: int, width: int, generator: np.random.Generator) -> View:
        """Draws what is taken of pictures `(height, width)`."""
        crop_height, crop_width = self.crop_size.height, self.crop_size.width
        if self.crop_scale is not None:
            box = _draw_box(height, width, self.crop_scale, (3 / 4, 4 / 3), generator)
            top, left, height, width = box
            return View(Span(top, height, crop_height, 0, crop_height), Span(left, width, crop_width, 0, crop_width))
        if self.resize_range is None:
            return self._central_crop.view(height, width)
        # As in the original: rounded, so that the ends of the range come half as often.
        short_side = SizeDict(shortest_edge=round(generator.uniform(*self.resize_range)))
        view = replace(self.pixels, do_resize=True, size=short_side, do_center_crop=False).view(height, width)
        return View(
            *(
                span._replace(
                    crop_start=int(generator.integers(span.new_length - side, endpoint=True)), crop_length=side
                )
                for span, side in zip(view, (crop_height, crop_width), strict=True)
            )
        )

    def change(self, pictures: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Flips, recolours and erases pictures `(frames, 3, crop height, crop width)` of a view, RGB, in [0, 255]."""
        if generator.random() < self.flip_prob:
            pictures = pictures.flip(-1)
        if self.warp is not None:
            pictures = self._warp(pictures, generator)
        if self.rand_augment is not None:
            # torchvision draws from torch's global generator, once per call and so once per clip.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(generator.integers(2**63)))
                pictures = self.rand_augment(pictures)
        if generator.random() < self.erasing_prob:
            pictures = self._erase(pictures, generator)
        return pictures.flip(-3) if self.pixels.do_flip_channel_order else pictures

    def _warp(self, pictures: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        stretch, shift, degrees = self.warp
        angle = math.radians(generator.uniform(-degrees, degrees))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        sides = generator.uniform(1 - stretch, 1 + stretch, size=(2, 1))
        # From places in the result to places in the picture, which go from -1 to 1.
        places = 2 * generator.uniform(-shift, shift, size=(2, 1))
        matrix = torch.from_numpy(np.concatenate([sides * turn, places], axis=1)).float()
        grid = nn.functional.affine_grid(matrix[None], (1, *pictures.shape[-3:]), align_corners=False)
        # All frames as channels of one picture, which is several times as fast.
        warped = nn.functional.grid_sample(
            pictures.flatten(0, 1)[None].float(), grid, padding_mode="border", align_corners=False
        )[0].view_as(pictures)
        return warped if pictures.is_floating_point() else warped.round().to(pictures.dtype)

    def _erase(self, frames: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        top, left, height, width = _draw_box(*frames.shape[-2:], (0.02, 1 / 3), (0.3, 1 / 0.3), generator)
        mean, std = (
            np.broadcast_to(numbers, 3)[:, None, None] / self.pixels.rescale_factor
            for numbers in (self.pixels.image_mean, self.pixels.image_std)
        )
        noise = (mean + std * generator.standard_normal((3, height, width))).clip(0, 255)
        frames = frames.clone()
        frames[..., top : top + height, left : left + width] = torch.from_numpy(noise).to(frames.dtype)
        return frames


class ClipMixing:
    """
    Mixes each clip of a batch with another one, and their targets alike: mixup blends them, cutmix puts a rectangle of
    one into the other, the same in all frames. Where both are on, each batch gets one of them.

    Args:
        mixup_alpha, cutmix_alpha (`float`): Parameter of the beta distribution of the shares; 0 is off.
    """

    def __init__(self, mixup_alpha: float = 0.0, cutmix_alpha: float = 0.0):
        if mixup_alpha < 0 or cutmix_alpha < 0 or mixup_alpha == cutmix_alpha == 0:
            raise ValueError(
                f"One of `mixup_alpha` and `cutmix_alpha` must be positive, got {mixup_alpha} and {cutmix_alpha}."
            )
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha

    def __call__(
        self, clips: torch.Tensor, targets: torch.Tensor, generator: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            clips (`torch.Tensor` of shape `(batch, frames, channels, height, width)`): Any dtype.
            targets (`torch.Tensor` of shape `(batch, classes)`): Float.
            generator (`np.random.Generator`): Draws everything.
        """
        partners = torch.from_numpy(generator.permutation(len(clips)))
        is_mixup = self.cutmix_alpha == 0 or (self.mixup_alpha > 0 and generator.random() < 0.5)
        alpha = self.mixup_alpha if is_mixup else self.cutmix_alpha
        share = float(generator.beta(alpha, alpha))
        if is_mixup:
            mixed = torch.lerp(clips[partners].float(), clips.float(), share)
            clips = mixed if clips.is_floating_point() else mixed.round().to(clips.dtype)
        else:
            height, width = clips.shape[-2:]
            sides = np.sqrt(1 - share) * np.array([height, width]) / 2
            centre = generator.uniform(0, [height, width])
            (top, left), (bottom, right) = (
                np.clip(centre + sign * sides, 0, [height, width]).astype(int) for sign in (-1, 1)
            )
            box = (..., slice(top, bottom), slice(left, right))
            clips, others = clips.clone(), clips[partners]
            clips[box] = others[box]
            share = 1 - (bottom - top) * (right - left) / (height * width)
        return clips, torch.lerp(targets[partners], targets, share)


def _draw_box(
    height: int,
    width: int,
    area_range: tuple[float, float],
    ratio_range: tuple[float, float],
    generator: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Draws a box by its share of the area and its ratio of width to height: top, left, height, width."""
    for _ in range(10):
        area = generator.uniform(*area_range) * height * width
        ratio = math.exp(generator.uniform(*np.log(ratio_range)))
        box_height, box_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < box_height <= height and 0 < box_width <= width:
            break
    else:  # a very long picture: as much of its centre as the ratios allow
        box_height = min(height, max(1, round(width / ratio_range[0])))
        box_width = min(width, max(1, round(height * ratio_range[1])))
        return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
    top = int(generator.integers(height - box_height, endpoint=True))
    left = int(generator.integers(width - box_width, endpoint=True))
    return top, left, box_height, box_width


def _make_rand_augment(num_ops: int, magnitude: int):
    if not is_torchvision_available():
        raise ImportError("RandAugment needs torchvision: `pip install 'vtn_hf[torchvision]'`, or leave it out.")
    from torchvision.transforms import InterpolationMode, v2

    return v2.RandAugment(num_ops, magnitude, interpolation=InterpolationMode.BILINEAR)
