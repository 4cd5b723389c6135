"""
The pixel maths: which part of a frame is taken, its colours, its size, and the scale of its numbers.

A decoded frame becomes a *picture* (cropped, resized, still bytes where the protocol has bytes), and pictures become
`pixel_values` when they are rescaled and normalised.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers.image_processing_utils import get_size_dict
from transformers.image_transforms import get_resize_output_image_size
from transformers.image_utils import ChannelDimension, SizeDict, infer_channel_dimension_format, is_pil_image


PIXEL_PROTOCOLS = ("transformers", "libswscale", "pyslowfast")

# Keys as in PIL's Resampling, values as in torch.
INTERPOLATION = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}

# Pixels that one chroma sample may stand for; also the reach of what interpolates chroma.
_CHROMA = 4


class Region(NamedTuple):
    """A rectangle of an upright picture, in pixels, and the size that it is resized to."""

    top: int
    left: int
    height: int
    width: int
    new_height: int
    new_width: int


ChooseRegion = Callable[[int, int], Region]


class View(NamedTuple):
    """
    What is taken of a picture: a region of it is resized, and a crop of the result is kept.

    Args:
        region (`Region`): What is cut out, and its new size.
        top, left, height, width (`int`): The crop, in pixels of the resized region; it may reach beyond it, where the
            picture is padded with zeros.
    """

    region: Region
    top: int
    left: int
    height: int
    width: int

    def narrow(self) -> "View":
        """
        The same pixels from as small a region as possible: three fifths of the width of a 1080p picture of which
        224 of 256 rows are left. Holds for resizing bytes bilinearly or bicubically, with antialiasing.
        """
        region = self.region
        rows = _find_margins(region.height, region.new_height, self.top, self.height)
        columns = _find_margins(region.width, region.new_width, self.left, self.width)
        (top, bottom), (new_top, new_bottom) = rows
        (left, right), (new_left, new_right) = columns
        region = Region(
            region.top + top,
            region.left + left,
            region.height - top - bottom,
            region.width - left - right,
            region.new_height - new_top - new_bottom,
            region.new_width - new_left - new_right,
        )
        return View(region, self.top - new_top, self.left - new_left, self.height, self.width)

    def merge(self) -> "View":
        """Crops first and then resizes what is left, in one step: nearly the same pixels, with the least work."""
        region = self.region
        (top, height), (new_top, new_height) = _find_part(region.height, region.new_height, self.top, self.height)
        (left, width), (new_left, new_width) = _find_part(region.width, region.new_width, self.left, self.width)
        region = Region(region.top + top, region.left + left, height, width, new_height, new_width)
        return View(region, self.top - new_top, self.left - new_left, self.height, self.width)

    def cover(self, height: int, width: int) -> Region:
        """
        What of a picture `(height, width)` to convert to RGB, as it is, for the region to have its pixels: where the
        crop ends with the region, chroma beyond it counts.
        """
        region = self.region
        ends = (region.new_height - self.top - self.height, region.new_width - self.left - self.width)
        below, beside = height - region.top - region.height, width - region.left - region.width
        top, left, bottom, right = (
            max(0, margin - _CHROMA * (inside <= 0)) // _CHROMA * _CHROMA
            for margin, inside in zip((*region[:2], below, beside), (self.top, self.left, *ends), strict=True)
        )
        height, width = height - top - bottom, width - left - right
        return Region(top, left, height, width, height, width)


def _find_margins(length: int, new_length: int, start: int, crop_length: int) -> tuple[tuple, tuple]:
    """
    How many pixels of a row or column can be left out at its two ends, and how many that is after resizing.

    Both are whole numbers in the ratio of the lengths, so that every pixel that is left has its place among the others
    unchanged. `_CHROMA` pixels, of the larger of the two pictures, are within the reach of the filters.
    """
    divisor = math.gcd(length, new_length)
    step = math.lcm(length // divisor, _CHROMA)
    new_step = step * new_length // length
    reach = _CHROMA * math.ceil(new_length / length)
    margins = (start, new_length - start - crop_length)
    steps = [max(0, margin - reach) // new_step for margin in margins]
    return tuple(number * step for number in steps), tuple(number * new_step for number in steps)


def _find_part(length: int, new_length: int, start: int, crop_length: int) -> tuple[tuple, tuple]:
    """Start and length of what a crop leaves, before and after resizing."""
    new_start = max(start, 0)
    new_part = min(start + crop_length, new_length) - new_start
    start = min(round(new_start * length / new_length), length - 1)
    part = min(max(1, round(new_part * length / new_length)), length - start)
    return (start, part), (new_start, new_part)


def find_new_size(height: int, width: int, size: SizeDict) -> tuple[int, int]:
    """The size of a picture `(height, width)` that is resized to `size`, as torchvision rounds it."""
    if size.shortest_edge:
        picture = torch.empty(3, height, width, device="meta")
        return get_resize_output_image_size(
            picture, size.shortest_edge, default_to_square=False, input_data_format=ChannelDimension.FIRST
        )
    return (size.height, size.width)


def place_crop(
    height: int, width: int, size: SizeDict, position: float = 0.5, round_up: bool = False
) -> tuple[int, int]:
    """
    Top and left of a crop of a picture `(height, width)`, negative where the picture is smaller than the crop.

    Args:
        size (`SizeDict`): `height` and `width` of the crop.
        position (`float`, *optional*, defaults to 0.5): Where along the longer side the crop lies, from 0 (left or
            top) to 1 (right or bottom); along the shorter side it is in the centre.
        round_up (`bool`, *optional*, defaults to `False`): Round odd margins up, as PySlowFast does, instead of down.
    """
    along_height = max(height, size.height) > max(width, size.width)
    positions = (position, 0.5) if along_height else (0.5, position)
    round_offset = math.ceil if round_up else math.floor
    margins = (height - size.height, width - size.width)
    return tuple(
        round_offset(margin * place) if margin >= 0 else -(-margin // 2)
        for margin, place in zip(margins, positions, strict=True)
    )


def crop_frames(frames: torch.Tensor, top: int, left: int, height: int, width: int) -> torch.Tensor:
    """Cuts a rectangle out of frames `(..., height, width)`, with zeros where it reaches beyond them."""
    bottom, right = top + height - frames.shape[-2], left + width - frames.shape[-1]
    if min(top, left, -bottom, -right) < 0:
        frames = nn.functional.pad(frames, [max(0, edge) for edge in (-left, right, -top, bottom)])
    top, left = max(top, 0), max(left, 0)
    return frames[..., top : top + height, left : left + width]


def resize_frames(
    frames: torch.Tensor, height: int, width: int, resample: int, antialias: bool = True
) -> torch.Tensor:
    """
    Resizes frames as torchvision does.

    Args:
        frames (`torch.Tensor` of shape `(frames, channels, height, width)`): uint8 or float; keeps its dtype.
        height, width (`int`): The new size.
        resample (`int`): A key of `INTERPOLATION`.
        antialias (`bool`, *optional*, defaults to `True`): Low-pass filter when making the frames smaller.
    """
    if tuple(frames.shape[-2:]) == (height, width):
        return frames
    mode = INTERPOLATION[resample]
    antialias = antialias and mode != "nearest-exact"
    if frames.dtype == torch.uint8 and frames.device.type != "cpu":
        # Only the CPU has kernels for bytes.
        resized = nn.functional.interpolate(frames.float(), (height, width), mode=mode, antialias=antialias)
        return resized.round_().clamp_(0, 255).to(torch.uint8)
    return nn.functional.interpolate(frames, (height, width), mode=mode, antialias=antialias)


@dataclass
class PixelSettings:
    """
    The pixels wanted; the fields are the arguments of [`VTNImageProcessor`].

    Raises:
        ValueError: If a field has an impossible value, or fields contradict each other.
    """

    do_resize: bool
    size: SizeDict | dict | int | None
    resample: int
    do_center_crop: bool
    crop_size: SizeDict | dict | int | None
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: Sequence[float] | float | None
    image_std: Sequence[float] | float | None
    pixel_protocol: str
    do_flip_channel_order: bool

    def __post_init__(self):
        self.image_mean, self.image_std = (
            tuple(numbers) if isinstance(numbers, list) else numbers for numbers in (self.image_mean, self.image_std)
        )
        if self.size is not None:
            self.size = SizeDict(**get_size_dict(self.size, default_to_square=False))
        if self.crop_size is not None:
            self.crop_size = SizeDict(**get_size_dict(self.crop_size, param_name="crop_size"))
        if self.pixel_protocol not in PIXEL_PROTOCOLS:
            raise ValueError(
                f"`pixel_protocol` must be one of {', '.join(PIXEL_PROTOCOLS)}, got {self.pixel_protocol!r}."
            )
        if self.do_resize:
            self._check_resizing()
        if self.do_center_crop and not _has_sides(self.crop_size, "height", "width"):
            raise ValueError(
                "`crop_size` must have the keys `height` and `width`, in pixels from 1 on, got "
                f"{_show(self.crop_size)}."
            )
        if self.do_rescale and not (is_number(self.rescale_factor) and self.rescale_factor != 0):
            raise ValueError(f"`rescale_factor` must be a number other than 0, got {self.rescale_factor}.")
        if self.do_normalize:
            self._check_normalizing()

    def _check_resizing(self):
        if self.resample not in INTERPOLATION:
            raise ValueError(
                f"`resample` must be one of {sorted(INTERPOLATION)} (nearest, bilinear, bicubic), got {self.resample}."
            )
        keys = dict(self.size or {}).keys()
        if not (
            (keys == {"shortest_edge"} and _has_sides(self.size, "shortest_edge"))
            or (keys == {"height", "width"} and _has_sides(self.size, "height", "width"))
        ):
            raise ValueError(
                "`size` must have the key `shortest_edge`, or `height` and `width`, in pixels from 1 on, got "
                f"{_show(self.size)}."
            )

    def _check_normalizing(self):
        for name in ("image_mean", "image_std"):
            numbers = getattr(self, name)
            numbers = numbers if isinstance(numbers, tuple) else (numbers,)
            if not all(map(is_number, numbers)) or not numbers:
                raise ValueError(f"`{name}` must be a number, or one per channel, got {getattr(self, name)}.")
            if len(numbers) not in (1, 3):
                raise ValueError(f"`{name}` has {len(numbers)} entries for frames of 3 channels.")
            if name == "image_std" and 0 in numbers:
                raise ValueError(f"`image_std` must not be 0, got {getattr(self, name)}.")

    @classmethod
    def select(cls, settings: dict) -> "PixelSettings":
        """Those of the settings of a processor that are about pixels."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})

    @property
    def has_bytes(self) -> bool:
        """Whether pictures are bytes; the original resizes floats."""
        return self.pixel_protocol != "pyslowfast"

    @property
    def makes_floats(self) -> bool:
        """Whether `pixel_values` are float32, and so four times as large as bytes."""
        return not self.has_bytes or self.do_rescale or self.do_normalize

    @property
    def can_be_narrowed(self) -> bool:
        """Whether a part of a frame gives the same pixels; the nearest ones are found in floats, which round."""
        return self.has_bytes and INTERPOLATION.get(self.resample) != "nearest-exact"

    def check_has_bytes(self):
        """Refuses a protocol whose pixels cannot be kept as bytes until they are on the device."""
        if not self.has_bytes:
            raise ValueError(
                "pixel_protocol='pyslowfast' normalises before it resizes, so its pixels are floats; let the "
                "processor rescale and normalise, or use pixel_protocol='transformers'."
            )

    def view(self, height: int, width: int, position: float = 0.5) -> View:
        """What is taken of a picture `(height, width)`; `position` as in [`place_crop`]."""
        new_height, new_width = find_new_size(height, width, self.size) if self.do_resize else (height, width)
        region = Region(0, 0, height, width, new_height, new_width)
        if not self.do_center_crop:
            return View(region, 0, 0, new_height, new_width)
        top, left = place_crop(new_height, new_width, self.crop_size, position, round_up=not self.has_bytes)
        return View(region, top, left, self.crop_size.height, self.crop_size.width)

    def take(self, frames: torch.Tensor, view: View) -> torch.Tensor:
        """Frames `(frames, channels, height, width)` to pictures: bytes stay bytes if the protocol has bytes."""
        region = view.region
        frames = crop_frames(frames, *region[:4])
        # The original normalises before it resizes, in float32. Resizing is linear and its weights add up to one, so
        # the other order gives the same pixels.
        frames = frames if self.has_bytes else frames.float()
        frames = resize_frames(frames, *region[4:], self.resample, antialias=self.has_bytes)
        frames = crop_frames(frames, *view[1:])
        return frames.flip(-3) if self.do_flip_channel_order else frames

    def normalize(self, pictures: torch.Tensor) -> torch.Tensor:
        """
        Computes `(pictures * rescale_factor - image_mean) / image_std`, or the part of it that is wanted.

        Args:
            pictures (`torch.Tensor` of shape `(..., channels, height, width)`): uint8 or float.

        Returns:
            `torch.Tensor`: Of dtype float32, or that of `pictures` if they are float already; `pictures` themselves,
            also bytes, if there is nothing to compute.

        Raises:
            ValueError: If there are more or fewer means or deviations than channels.
        """
        if not (self.do_rescale or self.do_normalize):
            return pictures.contiguous()
        means, stds = (self.image_mean, self.image_std) if self.do_normalize else (0.0, 1.0)
        means, stds = (np.atleast_1d(np.array(numbers, dtype=np.float64)) for numbers in (means, stds))
        for name, numbers in (("image_mean", means), ("image_std", stds)):
            if len(numbers) not in (1, pictures.shape[-3]):
                raise ValueError(f"`{name}` has {len(numbers)} entries for frames of {pictures.shape[-3]} channels.")
        dtype = pictures.dtype if pictures.is_floating_point() else torch.float32
        factor = self.rescale_factor if self.do_rescale else 1.0
        scale, shift = (
            torch.from_numpy(numbers.reshape(-1, 1, 1)).to(pictures.device, dtype)
            for numbers in (factor / stds, -means / stds)
        )
        # Bytes are put in order before they take four times the room.
        pictures = pictures.contiguous()
        if pictures.device.type != "cpu":
            return (pictures * scale).add_(shift)
        # Several times faster picture by picture, which stays in the cache, into large pages, which NumPy asks for.
        pixel_values = torch.from_numpy(np.empty(pictures.shape, dtype=np.float32)).to(dtype)
        shape = (-1, *pictures.shape[-3:])
        for picture, result in zip(pictures.view(shape), pixel_values.view(shape), strict=True):
            result.copy_(picture).mul_(scale).add_(shift)
        return pixel_values

    def preprocess(self, frames: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        """
        Frames that are decoded already, `(frames, channels, height, width)` or a list of frames of any sizes, to
        `pixel_values` of that layout.
        """
        if isinstance(frames, list) and len({frame.shape for frame in frames}) == 1:
            frames = torch.stack(frames)
        if isinstance(frames, torch.Tensor):
            return self.normalize(self.take(frames, self.view(*frames.shape[-2:])))
        pictures = [self.take(frame[None], self.view(*frame.shape[-2:])) for frame in frames]
        if len({picture.shape for picture in pictures}) > 1:
            raise ValueError(
                "The frames of a video must have one size after resizing and cropping, got (channels, height, width) "
                f"{sorted({tuple(picture.shape[1:]) for picture in pictures})}."
            )
        return self.normalize(torch.cat(pictures))


def is_number(value: Any) -> bool:
    """Whether a setting is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _has_sides(size: SizeDict | None, *keys: str) -> bool:
    return size is not None and all((size[key] or 0) >= 1 for key in keys)


def _show(size: SizeDict | None) -> dict | None:
    return size and dict(size)


def to_frames(
    video: Any,
    pixels: PixelSettings,
    do_convert_rgb: bool | None = True,
    input_data_format: str | ChannelDimension | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor | list[torch.Tensor]:
    """
    Frames that are decoded already to tensors that [`PixelSettings.preprocess`] takes.

    Args:
        video (`np.ndarray`, `torch.Tensor` or `list`): `(frames, height, width, channels)` or `(frames, channels,
            height, width)`, or a list of such frames and PIL images.
        pixels (`PixelSettings`): Tells the scale of the numbers.
        do_convert_rgb (`bool`, *optional*, defaults to `True`): Make RGB of gray and RGBA, white where it is
            transparent.
        input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"`, if the shape cannot tell.
        device (`torch.device`, *optional*): Where to put the tensors.

    Returns:
        `torch.Tensor` or `list[torch.Tensor]`: Channels first; uint8 as it is, all else as float32.

    Raises:
        ValueError: If shape, dtype or numbers are not those of frames.
    """
    is_list = isinstance(video, (list, tuple))
    frames = [_to_tensor(frame, do_convert_rgb, device) for frame in (video if is_list else [video])]
    if pixels.do_rescale and math.isclose(pixels.rescale_factor, 1 / 255):
        _check_range(frames)
    white = 255 if pixels.do_rescale else 1
    frames = [_to_channels_first(frame, do_convert_rgb, input_data_format, white) for frame in frames]
    return frames if is_list else frames[0]


def _to_tensor(frames: Any, do_convert_rgb: bool | None, device: torch.device | str | None) -> torch.Tensor:
    if is_pil_image(frames):
        if do_convert_rgb:
            frames = frames.convert("RGBA" if frames.has_transparency_data else "RGB")
        frames = np.array(frames)
        frames = frames if frames.ndim == 3 else frames[..., None]
    if isinstance(frames, np.ndarray):
        if frames.dtype.kind not in "iuf":
            raise ValueError(f"Frames must be integers or floats, got {frames.dtype} of shape {frames.shape}.")
        if min(frames.strides, default=0) < 0:
            frames = frames.copy()  # such as BGR turned into RGB; torch has no negative strides
    frames = torch.as_tensor(frames, device=device)
    if frames.dtype == torch.bool or frames.is_complex():
        raise ValueError(f"Frames must be integers or floats, got {frames.dtype} of shape {tuple(frames.shape)}.")
    return frames if frames.dtype == torch.uint8 else frames.float()


def _check_range(frames: list[torch.Tensor]):
    """Refuses what are no pixels in [0, 255]: those in [0, 1] would be rescaled a second time."""
    ranges = [frame.aminmax() for frame in frames if frame.dtype != torch.uint8 and frame.numel()]
    if not ranges:
        return
    low, high = min(float(each.min) for each in ranges), max(float(each.max) for each in ranges)
    if not (low == high == 0 or (low >= -0.5 and 1 < high <= 255.5)):
        raise ValueError(
            f"Frames must be in [0, 255] to be rescaled, but these are in [{low:g}, {high:g}]. Pass "
            "`do_rescale=False` if they are in [0, 1], `do_normalize=False` as well if they are normalised, or uint8."
        )


def _to_channels_first(
    frames: torch.Tensor, do_convert_rgb: bool | None, input_data_format: str | ChannelDimension | None, white: int
) -> torch.Tensor:
    if input_data_format is None:
        try:
            input_data_format = infer_channel_dimension_format(frames, num_channels=(1, 3, 4))
        except ValueError as error:
            raise ValueError(f"Frames have 1, 3 or 4 channels, these are of shape {tuple(frames.shape)}.") from error
    if ChannelDimension(input_data_format) == ChannelDimension.LAST:
        frames = frames.movedim(-1, -3)
    if do_convert_rgb and frames.shape[-3] == 1:
        frames = frames.expand(*frames.shape[:-3], 3, -1, -1)
    if do_convert_rgb and frames.shape[-3] == 4:
        frames = blend_with_white(frames, 255 if frames.dtype == torch.uint8 else white)
    return frames


def blend_with_white(frames: torch.Tensor, white: int) -> torch.Tensor:
    """RGBA frames `(..., 4, height, width)` in [0, `white`] to RGB frames of the same dtype."""
    if frames.max() > white:
        raise ValueError(f"Frames with transparency must be uint8 or float in [0, 1], got {frames.max():g}.")
    colour, alpha = frames.float().split((3, 1), dim=-3)
    blended = torch.lerp(torch.full_like(colour, white), colour, alpha / white)
    return blended.round().to(torch.uint8) if frames.dtype == torch.uint8 else blended


class _Orientation(NamedTuple):
    """How a coded picture becomes upright: first rows become columns, then rows and columns are reversed."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def turn(self, picture: np.ndarray) -> np.ndarray:
        """Put a coded picture (height, width, 3) upright."""
        if self == _UPRIGHT:
            return picture
        picture = picture.transpose(1, 0, 2) if self.transpose else picture
        return np.ascontiguousarray(picture[:: 1 - 2 * self.flip_rows, :: 1 - 2 * self.flip_columns])

    def turn_back(self, region: Region, height: int, width: int) -> Region:
        """A region of the upright picture (height, width) as a region of the coded one."""
        top, left, region_height, region_width, new_height, new_width = region
        if self.flip_rows:
            top = height - top - region_height
        if self.flip_columns:
            left = width - left - region_width
        if self.transpose:
            return Region(left, top, region_width, region_height, new_width, new_height)
        return Region(top, left, region_height, region_width, new_height, new_width)


_UPRIGHT = _Orientation()


class FrameConverter:
    """
    Makes the decoded frames of one video upright RGB pictures: whole, or a region of them in another size.

    A frame whose size differs from that of the first is scaled to it, as ffmpeg does; what is transparent becomes
    white.

    Args:
        av: The module PyAV, which is imported where a video is decoded only.
        choose_region: Called with height and width of the upright picture; says which region to take and what to
            resize it to (bilinear, antialiased). `None` takes the whole picture as it is. A region that keeps its size
            has the pixels of the whole picture, but for its outermost 4 rows and columns, if it begins and ends at
            multiples of 4 from the edges: chroma may be coded for up to 4 pixels at once.

    Attributes:
        height, width: Of the upright picture, before resizing; `None` until a frame has been seen.
    """

    def __init__(self, av: Any, choose_region: ChooseRegion | None = None):
        self.height: int | None = None
        self.width: int | None = None
        self._choose_region = choose_region
        self._orientation = _UPRIGHT
        self._rotation: int | None = None
        # One converter for all frames, with one thread: setting these up costs more than converting a frame.
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._av = av
        self._format = _Format(None, False, False)
        self._graph: Any = None
        self._graph_input: tuple | None = None
        self._box: tuple[slice, slice] | None = None  # what to cut out of the RGB picture

    def convert(self, frame: Any) -> np.ndarray:
        """Convert an `av.VideoFrame` to an upright uint8 RGB array (height, width, 3), which may share its memory."""
        if frame.rotation != self._rotation:
            # Once, as PyAV makes a cycle of a frame and its side data: it would wait for the garbage collector.
            self._orientation, self._rotation = _read_orientation(self._av, frame), frame.rotation
        orientation = self._orientation
        height, width = (frame.width, frame.height) if orientation.transpose else (frame.height, frame.width)
        if self.height is None:
            self.height, self.width = height, width
        if frame.format.name != self._format.name:
            self._format = _describe(frame.format)
        if self._format.may_be_transparent:
            frame = self._blend(frame)
        if (height, width) != (self.height, self.width):
            height, width = (self.width, self.height) if orientation.transpose else (self.height, self.width)
            frame = self._reformatter.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1)
        if self._choose_region is not None:
            frame = self._take_region(frame, orientation)
        picture = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return orientation.turn(picture if self._box is None else picture[self._box])

    def _blend(self, frame: Any) -> Any:
        """Put what is transparent over white; a frame in which nothing is stays as it is."""
        picture = self._reformatter.reformat(frame, format="rgba", threads=1).to_ndarray()
        if picture[..., 3].min() == 255:
            return frame
        picture = blend_with_white(torch.from_numpy(picture).movedim(-1, -3), 255).movedim(-3, -1).contiguous()
        return self._av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")

    def _take_region(self, frame: Any, orientation: _Orientation) -> Any:
        """Crop, which moves pointers only; where the size changes, resize and convert in one pass."""
        graph_input = (frame.format.name, frame.colorspace, frame.color_range, orientation)
        if graph_input != self._graph_input:
            region = orientation.turn_back(self._choose_region(self.height, self.width), self.height, self.width)
            keeps_size = region[2:4] == region[4:]
            is_whole = keeps_size and region[:4] == (0, 0, frame.height, frame.width)
            self._box = self._graph = None
            if keeps_size and not _describe(frame.format).can_be_cut:
                top, left, height, width = region[:4]
                self._box = (slice(top, top + height), slice(left, left + width))
            elif not is_whole:
                self._graph = _fill_graph(self._av.filter.Graph(), frame, region)
            self._graph_input = graph_input
        if self._graph is None:
            return frame
        self._graph.push(frame)
        return self._graph.pull()


class _Format(NamedTuple):
    """What matters of a pixel format."""

    name: str | None
    may_be_transparent: bool
    can_be_cut: bool  # libswscale converts a part of it as it converts the whole


def _describe(pixel_format: Any) -> _Format:
    components = pixel_format.components
    may_be_transparent = pixel_format.has_palette or any(component.is_alpha for component in components)
    # Of packed formats with chroma for several pixels, such as yuyv422, a part takes another way, to other colours.
    is_packed = len({component.plane for component in components}) < len(components)
    is_subsampled = len({(component.height, component.width) for component in components}) > 1
    # Where chroma do not come out even, they are stretched over the whole frame.
    is_stretched = any(
        pixel_format.height % component.height or pixel_format.width % component.width for component in components
    )
    return _Format(pixel_format.name, may_be_transparent, not (is_stretched or (is_packed and is_subsampled)))


def _read_orientation(av: Any, frame: Any) -> _Orientation:
    """
    Read the display matrix, which FFmpeg also makes of what EXIF says; turns other than quarter turns are rounded to
    them, as FFmpeg's players do.
    """
    try:
        side_data = frame.side_data
    except ValueError:  # FFmpeg gives a kind of side data that PyAV has no name for
        side_data = _keep_known_side_data(av, frame).side_data
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return _UPRIGHT
    # A coded point (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32, count=5).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _Orientation(False, flip_rows=d < 0, flip_columns=a < 0)
    return _Orientation(True, flip_rows=b < 0, flip_columns=c < 0)


def _keep_known_side_data(av: Any, frame: Any) -> Any:
    known = {kind.value for kind in av.sidedata.sidedata.Type}
    graph = av.filter.Graph()
    graph.threads = 1
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=1)]
    nodes += [graph.add("sidedata", f"delete:{kind}") for kind in range(128) if kind not in known]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()


def _fill_graph(graph: Any, frame: Any, region: Region) -> Any:
    """Make a filter graph take frames like this one to the region, which is RGB where it is resized."""
    graph.threads = 1
    time_base = frame.time_base or 1
    buffer = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
    nodes = [buffer, graph.add("crop", f"{region.width}:{region.height}:{region.left}:{region.top}:exact=1")]
    if (region.height, region.width) != (region.new_height, region.new_width):
        nodes.append(graph.add("scale", f"{region.new_width}:{region.new_height}:flags=bilinear"))
        nodes.append(graph.add("format", "rgb24"))
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph
