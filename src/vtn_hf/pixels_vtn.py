"""
The pixel maths: which part of a frame is taken, its colours, its size, and the scale of its numbers.

A decoded frame becomes a *picture* (cropped, resized, still bytes where the protocol has bytes), and pictures become
`pixel_values` when they are rescaled and normalised.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers.image_processing_utils import get_size_dict
from transformers.image_utils import ChannelDimension, SizeDict, infer_channel_dimension_format, is_pil_image


PIXEL_PROTOCOLS = ("transformers", "libswscale", "pyslowfast")

# Keys as in PIL's Resampling, values as in torch.
INTERPOLATION = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}

_CHROMA = 4  # pixels that one chroma sample may stand for; also the reach of what interpolates chroma


class Region(NamedTuple):
    """A rectangle of an upright picture, in pixels, and the size that it is resized to."""

    top: int
    left: int
    height: int
    width: int
    new_height: int
    new_width: int


ChooseRegion = Callable[[int, int], Region]


class Span(NamedTuple):
    """
    What is taken along one side of a picture: `length` pixels from `start` on become `new_length` pixels, of which
    `crop_length` from `crop_start` on are kept. The crop may reach beyond them; there the picture is padded.
    """

    start: int
    length: int
    new_length: int
    crop_start: int
    crop_length: int

    def narrow(self) -> "Span":
        """
        The same pixels from a shorter part: three fifths of the width of a 1080p picture of which 224 of 256 rows are
        left. Holds for bytes that are resized bilinearly or bicubically, with antialiasing.
        """
        # What is left out is a whole number of pixels before and after resizing, so that every other pixel keeps its
        # place among the others. The filters reach less far than `_CHROMA` pixels of the larger of the two pictures.
        step = math.lcm(self.length // math.gcd(self.length, self.new_length), _CHROMA)
        new_step = step * self.new_length // self.length
        reach = _CHROMA * math.ceil(self.new_length / self.length)
        margins = (self.crop_start, self.new_length - self.crop_start - self.crop_length)
        before, after = (max(0, margin - reach) // new_step for margin in margins)
        length = self.length - (before + after) * step
        new_length = self.new_length - (before + after) * new_step
        crop_start = self.crop_start - before * new_step
        return Span(self.start + before * step, length, new_length, crop_start, self.crop_length)

    def merge(self) -> "Span":
        """Nearly the same pixels with the least work: what the crop leaves is cut out first, and then resized."""
        new_start = max(self.crop_start, 0)
        new_length = min(self.crop_start + self.crop_length, self.new_length) - new_start
        start = min(round(new_start * self.length / self.new_length), self.length - 1)
        length = min(max(1, round(new_length * self.length / self.new_length)), self.length - start)
        return Span(self.start + start, length, new_length, self.crop_start - new_start, self.crop_length)

    def cover(self, side: int) -> tuple[int, int]:
        """Start and length of what must become RGB, of a side of this length, for the span to have its colours."""
        # Where the crop ends with the span, chroma beyond it count.
        before = max(0, self.start - _CHROMA * (self.crop_start <= 0))
        after = side - self.start - self.length
        after = max(0, after - _CHROMA * (self.crop_start + self.crop_length >= self.new_length))
        before, after = (margin // _CHROMA * _CHROMA for margin in (before, after))
        return before, side - before - after


class View(NamedTuple):
    """What is taken of a picture."""

    rows: Span
    columns: Span


@dataclass
class PixelSettings:
    """
    The pixels wanted; the fields are the arguments of [`VTNImageProcessor`].

    Raises:
        ValueError: If a field has an impossible value.
    """

    do_resize: bool
    size: SizeDict | dict | int | None
    resample: int
    do_center_crop: bool
    crop_size: SizeDict | dict | int | None
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: list[float] | tuple[float, ...] | float | None
    image_std: list[float] | tuple[float, ...] | float | None
    pixel_protocol: str
    do_flip_channel_order: bool
    do_convert_rgb: bool | None
    input_data_format: str | None
    device: torch.device | str | None

    def __post_init__(self):
        if self.size is not None:
            self.size = SizeDict(**get_size_dict(self.size, default_to_square=False))
        if self.crop_size is not None:
            self.crop_size = SizeDict(**get_size_dict(self.crop_size, param_name="crop_size"))
        self._require("pixel_protocol", self.pixel_protocol in PIXEL_PROTOCOLS, f"be one of {PIXEL_PROTOCOLS}")
        if self.do_resize:
            modes = f"be one of {sorted(INTERPOLATION)} (nearest, bilinear, bicubic)"
            self._require("resample", self.resample in INTERPOLATION, modes)
            has_size = _has_sides(self.size, "shortest_edge") or _has_sides(self.size, "height", "width")
            sides = "have the key `shortest_edge`, or `height` and `width`, in pixels from 1 on"
            self._require("size", has_size, sides)
        if self.do_center_crop:
            has_size = _has_sides(self.crop_size, "height", "width")
            self._require("crop_size", has_size, "have the keys `height` and `width`, in pixels from 1 on")
        if self.do_rescale:
            is_factor = is_number(self.rescale_factor) and self.rescale_factor != 0
            self._require("rescale_factor", is_factor, "be a number other than 0")
        for name in ("image_mean", "image_std"):
            value = getattr(self, name)
            setattr(self, name, tuple(value) if isinstance(value, list) else value)
            if self.do_normalize:
                numbers = value if isinstance(value, (list, tuple)) else [value]
                self._require(name, all(map(is_number, numbers)), "be a number, or one per channel")
                self._require(name, name == "image_mean" or all(number > 0 for number in numbers), "be positive")
        if self.do_normalize and self.do_convert_rgb:
            self._check_num_channels(3)

    def _require(self, name: str, is_right: bool, rule: str):
        if not is_right:
            value = getattr(self, name)
            value = dict(value) if isinstance(value, SizeDict) else value
            raise ValueError(f"`{name}` must {rule}, got {value!r}.")

    def _check_num_channels(self, num_channels: int):
        for name in ("image_mean", "image_std"):
            size = np.size(getattr(self, name))
            if size not in (1, num_channels):
                raise ValueError(f"`{name}` has {size} entries for frames of {num_channels} channels.")

    @classmethod
    def select(cls, settings: dict) -> "PixelSettings":
        """Those of the settings of a processor that are about pixels."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})

    @property
    def has_bytes(self) -> bool:
        """Whether pictures are bytes; the original resizes floats."""
        return self.pixel_protocol != "pyslowfast"

    def view(self, height: int, width: int, position: float = 0.5) -> View:
        """
        What is taken of a picture `(height, width)`. `position` tells where along the longer side the crop lies, from
        0 (left or top) to 1 (right or bottom); along the shorter side it is in the centre.
        """
        sides = new_sides = (height, width)
        if self.do_resize and self.size.shortest_edge:
            short = self.size.shortest_edge
            new_sides = tuple(max(short, int(short * side / min(sides))) for side in sides)  # as torchvision rounds it
        elif self.do_resize:
            new_sides = (self.size.height, self.size.width)
        crop = (self.crop_size.height, self.crop_size.width) if self.do_center_crop else new_sides
        longer = int(max(new_sides[0], crop[0]) <= max(new_sides[1], crop[1]))
        spans = []
        for axis, (side, new_side, crop_side) in enumerate(zip(sides, new_sides, crop, strict=True)):
            margin = (new_side - crop_side) * (position if axis == longer and new_side > crop_side else 0.5)
            # Odd margins are rounded up by the original; of missing pixels an odd one is to the right or below.
            is_up = new_side < crop_side or not self.has_bytes
            spans.append(Span(0, side, new_side, math.ceil(margin) if is_up else math.floor(margin), crop_side))
        return View(*spans)

    def divide(self, view: View, height: int, width: int) -> tuple[Region, View]:
        """
        Divides what is taken of pictures `(height, width)` into the region that libswscale makes RGB, as small as it
        can be, and what is left to do with that.
        """
        if self.pixel_protocol == "libswscale":
            view = [span.merge() for span in view]
            regions = [span[:3] for span in view]
            rest = [span._replace(start=0, length=span.new_length) for span in view]
        else:
            # The nearest pixels are found in floats, which round.
            can_be_narrowed = self.has_bytes and self.resample != 0
            view = [span.narrow() for span in view] if can_be_narrowed else view
            covers = [span.cover(side) for span, side in zip(view, (height, width), strict=True)]
            regions = [(start, length, length) for start, length in covers]
            rest = [span._replace(start=span.start - start) for span, (start, _) in zip(view, covers, strict=True)]
        return Region(*np.ravel(regions, order="F").tolist()), View(*rest)

    def take(self, frames: torch.Tensor, view: View) -> torch.Tensor:
        """Frames `(frames, channels, height, width)` to pictures: bytes stay bytes if the protocol has bytes."""
        rows, columns = view
        frames = _cut(frames, rows[:2], columns[:2])
        # The original normalises before it resizes, in float32. Resizing is linear and its weights add up to one, so
        # the other order gives the same pixels.
        frames = frames if self.has_bytes else frames.float()
        frames = resize_frames(frames, rows.new_length, columns.new_length, self.resample, antialias=self.has_bytes)
        frames = _cut(frames, rows[3:], columns[3:])
        return frames.flip(-3) if self.do_flip_channel_order else frames

    def normalize(self, pictures: torch.Tensor) -> torch.Tensor:
        """
        Computes `(pictures * rescale_factor - image_mean) / image_std`, or the part of it that is wanted: float32, or
        in the dtype of pictures `(..., channels, height, width)` that are floats; bytes stay bytes if it is nothing.
        """
        pictures = pictures.contiguous()  # bytes, before they take four times the room
        if not (self.do_rescale or self.do_normalize):
            return pictures
        if self.do_normalize:
            self._check_num_channels(pictures.shape[-3])
        statistics = (self.image_mean, self.image_std) if self.do_normalize else (0.0, 1.0)
        mean, std = (np.array(numbers, dtype=np.float64).reshape(-1, 1, 1) for numbers in statistics)
        dtype = pictures.dtype if pictures.is_floating_point() else torch.float32
        factor = self.rescale_factor if self.do_rescale else 1.0
        scale, shift = (torch.from_numpy(each).to(pictures.device, dtype) for each in (factor / std, -mean / std))
        if pictures.device.type != "cpu":
            return (pictures * scale).add_(shift)
        # Several times faster picture by picture, which stays in the cache, into large pages, which NumPy asks for.
        pixel_values = torch.from_numpy(np.empty(pictures.shape, dtype=np.float32)).to(dtype)
        shape = (-1, *pictures.shape[-3:])
        for picture, result in zip(pictures.view(shape), pixel_values.view(shape), strict=True):
            result.copy_(picture).mul_(scale).add_(shift)
        return pixel_values

    def preprocess(self, frames: list[torch.Tensor]) -> torch.Tensor:
        """What [`to_frames`] gives, one video, to `pixel_values` of shape `(frames, channels, height, width)`."""
        pictures = [self.take(group, self.view(*group.shape[-2:])) for group in frames]
        sizes = sorted({tuple(group.shape[1:]) for group in pictures})
        if len(sizes) > 1:
            got = f"got (channels, height, width) {sizes}"
            raise ValueError(f"The frames of a video must have one size after resizing and cropping, {got}.")
        return self.normalize(pictures[0] if len(pictures) == 1 else torch.cat(pictures))


def is_number(value: Any) -> bool:
    """Whether a setting is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _has_sides(size: SizeDict | None, *keys: str) -> bool:
    sides = dict(size or {})
    return sides.keys() == set(keys) and all(type(side) is int and side >= 1 for side in sides.values())


def _cut(frames: torch.Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> torch.Tensor:
    """Rows and columns (start, length) of frames `(..., height, width)`, with zeros where they reach beyond them."""
    (top, height), (left, width) = rows, columns
    if (top, left, height, width) == (0, 0, *frames.shape[-2:]):
        return frames
    bottom, right = top + height - frames.shape[-2], left + width - frames.shape[-1]
    if min(top, left, -bottom, -right) < 0:
        frames = nn.functional.pad(frames, [max(0, edge) for edge in (-left, right, -top, bottom)])
    top, left = max(top, 0), max(left, 0)
    return frames[..., top : top + height, left : left + width]


def resize_frames(
    frames: torch.Tensor, height: int, width: int, resample: int, antialias: bool = True
) -> torch.Tensor:
    """
    Resizes frames `(frames, channels, height, width)`, uint8 or float, as torchvision does; `resample` is a key of
    `INTERPOLATION`, `antialias` a low-pass filter where they become smaller.
    """
    if tuple(frames.shape[-2:]) == (height, width):
        return frames
    arguments = {"mode": INTERPOLATION[resample], "antialias": antialias and resample != 0}
    if frames.dtype == torch.uint8 and frames.device.type != "cpu":  # only the CPU has kernels for bytes
        resized = nn.functional.interpolate(frames.float(), (height, width), **arguments)
        return resized.round_().clamp_(0, 255).to(torch.uint8)
    return nn.functional.interpolate(frames, (height, width), **arguments)


def to_frames(video: Any, pixels: PixelSettings) -> list[torch.Tensor]:
    """
    Frames that are decoded already, in an array, tensor or list, to tensors `(frames, channels, height, width)` on the
    device of the settings: one, or one for each frame of a list; uint8 as it is and all else as float32.

    Raises:
        ValueError: If shape, dtype or numbers are not those of frames.
    """
    is_list = isinstance(video, (list, tuple))
    frames = [_to_tensor(frame, pixels) for frame in (video if is_list else [video])]
    if pixels.do_rescale and math.isclose(pixels.rescale_factor, 1 / 255):
        _check_range(frames)
    frames = [_put_channels_first(each, pixels.input_data_format) for each in frames]
    if pixels.do_convert_rgb:
        frames = [_to_rgb(each, 255 if pixels.do_rescale or each.dtype == torch.uint8 else 1) for each in frames]
    return [frame[None] for frame in frames] if is_list else frames


def _to_tensor(frames: Any, pixels: PixelSettings) -> torch.Tensor:
    if is_pil_image(frames):
        if pixels.do_convert_rgb:
            frames = frames.convert("RGBA" if frames.has_transparency_data else "RGB")
        frames = np.atleast_3d(np.array(frames))
    is_array = isinstance(frames, np.ndarray)
    if frames.dtype.kind not in "iuf" if is_array else frames.dtype == torch.bool or frames.is_complex():
        raise ValueError(f"Frames must be integers or floats, got {frames.dtype} of shape {tuple(frames.shape)}.")
    if is_array and min(frames.strides, default=0) < 0:
        frames = frames.copy()  # such as BGR turned into RGB; torch has no negative strides
    frames = torch.as_tensor(frames, device=pixels.device)
    return frames if frames.dtype == torch.uint8 else frames.float()


def _check_range(frames: list[torch.Tensor]):
    """Refuses what are no pixels in [0, 255]: those in [0, 1] would be rescaled a second time."""
    ranges = [frame.aminmax() for frame in frames if frame.dtype != torch.uint8 and frame.numel()]
    low = min((float(each.min) for each in ranges), default=0)
    high = max((float(each.max) for each in ranges), default=0)
    if not (low == high == 0 or (low >= -0.5 and 1 < high <= 255.5)):
        advice = "Pass `do_rescale=False` if they are in [0, 1], `do_normalize=False` as well if they are normalised"
        found = f"Frames must be in [0, 255] to be rescaled, but these are in [{low:g}, {high:g}]"
        raise ValueError(f"{found}. {advice}, or uint8.")


def _put_channels_first(frames: torch.Tensor, input_data_format: str | None) -> torch.Tensor:
    try:
        layout = input_data_format or infer_channel_dimension_format(frames, num_channels=(1, 3, 4))
    except ValueError as error:
        raise ValueError(f"Frames have 1, 3 or 4 channels, these are of shape {tuple(frames.shape)}.") from error
    return frames.movedim(-1, -3) if ChannelDimension(layout) == ChannelDimension.LAST else frames


def _to_rgb(frames: torch.Tensor, white: int) -> torch.Tensor:
    """Gray or RGBA frames `(..., channels, height, width)` in [0, `white`] to RGB, over white what is transparent."""
    if frames.shape[-3] == 1:
        return frames.expand(*frames.shape[:-3], 3, -1, -1)
    if frames.shape[-3] != 4:
        return frames
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
        """Puts a coded picture (height, width, 3) upright."""
        if not any(self):
            return picture
        picture = picture.transpose(1, 0, 2) if self.transpose else picture
        return np.ascontiguousarray(picture[:: 1 - 2 * self.flip_rows, :: 1 - 2 * self.flip_columns])

    def turn_back(self, region: Region, height: int, width: int) -> Region:
        """A region of the upright picture (height, width) as a region of the coded one."""
        top = height - region.top - region.height if self.flip_rows else region.top
        left = width - region.left - region.width if self.flip_columns else region.left
        turned = Region(top, left, *region[2:])
        return Region(*(turned[place] for place in (1, 0, 3, 2, 5, 4))) if self.transpose else turned


class FrameConverter:
    """
    Makes the decoded frames of one video upright RGB pictures: whole, or a region of them in another size. Frames that
    differ in size from the first are scaled to it, as ffmpeg does; what is transparent becomes white.

    Args:
        av: The module PyAV, which is imported where a video is decoded only.
        choose_region: Called with height and width of the upright picture; says which region to take and what to
            resize it to (bilinear, antialiased). A region that keeps its size and ends at multiples of 4 pixels from
            the edges has the colours of the whole picture, but for its outermost 4 rows and columns.

    Attributes:
        height, width: Of the upright picture, before resizing; `None` until a frame has been seen.
    """

    def __init__(self, av: Any, choose_region: ChooseRegion | None = None):
        self.height = self.width = None
        self._av, self._choose_region = av, choose_region
        # One for all frames, with one thread: setting it up costs more than converting a frame.
        self._reformatter = av.video.reformatter.VideoReformatter()
        # What was found out for: orientation and transparency hold for all frames of a kind, how the region is taken,
        # by filters or from the RGB picture, for those of a format.
        self._kind = self._region_format = None
        self._graph, self._box = None, ...

    def convert(self, frame: Any) -> np.ndarray:
        """Converts an `av.VideoFrame` to an upright uint8 RGB array (height, width, 3), which may share its memory."""
        kind = (frame.format.name, frame.colorspace, frame.color_range, frame.rotation)
        if kind != self._kind:
            # Once, as PyAV makes a cycle of a frame and its side data: it would wait for the garbage collector.
            self._orientation = _read_orientation(self._av, frame)
            has_alpha = any(component.is_alpha for component in frame.format.components)
            self._may_be_transparent = has_alpha or frame.format.has_palette
            self._kind, self._region_format = kind, None
        turn = -1 if self._orientation.transpose else 1
        size = (frame.height, frame.width)
        if self.height is None:
            self.height, self.width = size[::turn]
        if self._may_be_transparent:
            frame = self._blend(frame)
        if size[::turn] != (self.height, self.width):
            height, width = (self.height, self.width)[::turn]
            frame = self._reformatter.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1)
        if self._choose_region is not None:
            frame = self._take_region(frame)
        picture = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return self._orientation.turn(picture[self._box])

    def _blend(self, frame: Any) -> Any:
        """Puts what is transparent over white; a frame in which nothing is stays as it is."""
        picture = self._reformatter.reformat(frame, format="rgba", threads=1).to_ndarray()
        if picture[..., 3].min() == 255:
            return frame
        picture = _to_rgb(torch.from_numpy(picture).movedim(-1, -3), 255).movedim(-3, -1).contiguous()
        return self._av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")

    def _take_region(self, frame: Any) -> Any:
        """Crops, which moves pointers only; where the size changes, resizes and converts in one pass."""
        if frame.format.name != self._region_format:
            region = self._choose_region(self.height, self.width)
            region = self._orientation.turn_back(region, self.height, self.width)
            self._region_format, self._graph, self._box = frame.format.name, None, ...
            top, left, height, width = region[:4]
            keeps_size = region[2:4] == region[4:]
            if keeps_size and not _can_be_cut(frame.format):
                self._box = (slice(top, top + height), slice(left, left + width))
            elif region != (0, 0, frame.height, frame.width, frame.height, frame.width):
                filters = [("crop", f"{width}:{height}:{left}:{top}:exact=1")]
                if not keeps_size:
                    scale = f"{region.new_width}:{region.new_height}:flags=bilinear"
                    filters += [("scale", scale), ("format", "rgb24")]
                self._graph = _make_graph(self._av, frame, filters)
        return frame if self._graph is None else _filter(self._graph, frame)


def _can_be_cut(pixel_format: Any) -> bool:
    """Whether libswscale converts a part of a frame to the colours that it has in the whole."""
    components = pixel_format.components
    # Of packed formats with chroma for several pixels, such as yuyv422, a part takes another way, to other colours.
    is_packed = len({component.plane for component in components}) < len(components)
    is_subsampled = len({(component.height, component.width) for component in components}) > 1
    # Where chroma do not come out even, they are stretched over the whole frame.
    height, width = pixel_format.height, pixel_format.width
    is_stretched = any(height % component.height or width % component.width for component in components)
    return not (is_stretched or (is_packed and is_subsampled))


def _read_orientation(av: Any, frame: Any) -> _Orientation:
    """
    Reads the display matrix, which FFmpeg also makes of what EXIF says; turns other than quarter turns are rounded to
    them, as FFmpeg's players do.
    """
    try:
        side_data = frame.side_data
    except ValueError:  # FFmpeg gives a kind of side data that PyAV has no name for
        known = {kind.value for kind in av.sidedata.sidedata.Type}
        filters = [("sidedata", f"delete:{kind}") for kind in range(128) if kind not in known]
        side_data = _filter(_make_graph(av, frame, filters), frame).side_data
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return _Orientation()
    # A coded point (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32, count=5).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _Orientation(False, flip_rows=d < 0, flip_columns=a < 0)
    return _Orientation(True, flip_rows=b < 0, flip_columns=c < 0)


def _make_graph(av: Any, frame: Any, filters: list[tuple[str, str]]) -> Any:
    """A chain of filters for frames like this one, with one thread."""
    graph = av.filter.Graph()
    graph.threads = 1
    shape = {"width": frame.width, "height": frame.height, "format": frame.format}
    nodes = [graph.add_buffer(**shape, time_base=frame.time_base or 1), *(graph.add(*each) for each in filters)]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph


def _filter(graph: Any, frame: Any) -> Any:
    graph.push(frame)
    return graph.pull()
