"""From decoded frames to `pixel_values`. The pixel maths of both processors lives here, once, in plain torch."""

import math
import os

import numpy as np
import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature, get_size_dict
from transformers.image_transforms import get_resize_output_image_size
from transformers.image_utils import (
    ChannelDimension,
    ImageInput,
    SizeDict,
    infer_channel_dimension_format,
    is_pil_image,
    make_nested_list_of_images,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType

from .frame_conversion_vtn import Region


PIXEL_PROTOCOLS = ("transformers", "libswscale", "pyslowfast")

NORMALIZE_SETTINGS = (
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "pixel_protocol",
)

# Keys as in PIL's Resampling, values as in torch.
_INTERPOLATION = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}


def resize_frames(frames: torch.Tensor, size: SizeDict, resample: int, antialias: bool = True) -> torch.Tensor:
    """
    Resizes frames as torchvision does.

    Args:
        frames (`torch.Tensor` of shape `(frames, channels, height, width)`): uint8 or float; keeps its dtype.
        size (`SizeDict`): `shortest_edge`, or `height` and `width`, in pixels.
        resample (`int`): 0 (nearest), 2 (bilinear) or 3 (bicubic), as PIL numbers them.
        antialias (`bool`, *optional*, defaults to `True`): Low-pass filter when making the frames smaller.

    Raises:
        ValueError: If `size` or `resample` is something else.
    """
    if resample not in _INTERPOLATION:
        raise ValueError(
            f"`resample` must be one of {sorted(_INTERPOLATION)} (nearest, bilinear, bicubic), got {resample}."
        )
    new_size = _find_new_size(*frames.shape[-2:], size)
    if tuple(frames.shape[-2:]) == new_size:
        return frames
    mode = _INTERPOLATION[resample]
    antialias = antialias and mode != "nearest-exact"
    if frames.dtype == torch.uint8 and frames.device.type != "cpu":
        # Only the CPU has kernels for bytes.
        resized = nn.functional.interpolate(frames.float(), new_size, mode=mode, antialias=antialias)
        return resized.round_().clamp_(0, 255).to(torch.uint8)
    return nn.functional.interpolate(frames, new_size, mode=mode, antialias=antialias)


def _find_new_size(height: int, width: int, size: SizeDict) -> tuple[int, int]:
    if size.shortest_edge:
        picture = torch.empty(3, height, width, device="meta")
        return get_resize_output_image_size(
            picture, size.shortest_edge, default_to_square=False, input_data_format=ChannelDimension.FIRST
        )
    if size.height and size.width:
        return (size.height, size.width)
    raise ValueError(f"`size` must have the key `shortest_edge`, or `height` and `width`, got {dict(size)}.")


def crop_frames(frames: torch.Tensor, size: SizeDict, position: float = 0.5, round_up: bool = False) -> torch.Tensor:
    """
    Crops frames, after padding them with zeros where they are smaller than the crop.

    Args:
        frames (`torch.Tensor` of shape `(frames, channels, height, width)`): Any dtype.
        size (`SizeDict`): `height` and `width` of the crop, in pixels.
        position (`float`, *optional*, defaults to 0.5): Where along the longer side the crop lies, from 0 (left or
            top) to 1 (right or bottom); along the shorter side it is in the centre.
        round_up (`bool`, *optional*, defaults to `False`): Round odd margins up, as PySlowFast does, instead of down.
    """
    _check_crop_size(size)
    height, width = frames.shape[-2:]
    if size.height > height or size.width > width:
        extra_height, extra_width = max(size.height - height, 0), max(size.width - width, 0)
        padding = (extra_width // 2, (extra_width + 1) // 2, extra_height // 2, (extra_height + 1) // 2)
        frames = nn.functional.pad(frames, padding)
        height, width = frames.shape[-2:]
    along_height, along_width = (position, 0.5) if height > width else (0.5, position)
    round_offset = np.ceil if round_up else np.floor
    top = int(round_offset((height - size.height) * along_height))
    left = int(round_offset((width - size.width) * along_width))
    return frames[..., top : top + size.height, left : left + size.width]


def _check_crop_size(size: SizeDict):
    if not (size.height and size.width):
        raise ValueError(f"`crop_size` must have the keys `height` and `width`, got {dict(size)}.")


def choose_region(
    height: int, width: int, *, do_resize: bool, size: SizeDict, do_center_crop: bool, crop_size: SizeDict, **kwargs
) -> Region:
    """
    Says which part of a picture `(height, width)` is left after resizing and cropping it, and in which size; it is
    still to be padded where it is smaller than the crop.
    """
    if do_center_crop:
        _check_crop_size(crop_size)
    new_height, new_width = _find_new_size(height, width, size) if do_resize else (height, width)
    left_height, left_width = (
        (min(crop_size.height, new_height), min(crop_size.width, new_width))
        if do_center_crop
        else (new_height, new_width)
    )
    return Region(
        top=round((new_height - left_height) // 2 * height / new_height),
        left=round((new_width - left_width) // 2 * width / new_width),
        height=round(left_height * height / new_height),
        width=round(left_width * width / new_width),
        new_height=left_height,
        new_width=left_width,
    )


def choose_part(
    height: int,
    width: int,
    *,
    do_resize: bool,
    size: SizeDict,
    resample: int,
    do_center_crop: bool,
    crop_size: SizeDict,
    **kwargs,
) -> Region:
    """
    Says which part of a picture `(height, width)` is enough where the centre is cropped after resizing bytes with
    antialiasing, and to which size this part is resized, for the same pixels: three fifths of the width of a 1080p
    picture of which 224 of 256 rows remain.
    """
    new_height, new_width = _find_new_size(height, width, size) if do_resize else (height, width)
    # The nearest pixel is found in floating point, which rounds another way in another place.
    if not do_center_crop or _INTERPOLATION.get(resample) == "nearest-exact":
        return Region(0, 0, height, width, new_height, new_width)
    _check_crop_size(crop_size)
    top, new_top = _find_margin(height, new_height, crop_size.height)
    left, new_left = _find_margin(width, new_width, crop_size.width)
    return Region(top, left, height - 2 * top, width - 2 * left, new_height - 2 * new_top, new_width - 2 * new_left)


def _find_margin(length: int, new_length: int, crop_length: int) -> tuple[int, int]:
    """
    How many pixels of a row or column can be left out at each end, and how many that is after resizing.

    Both are whole numbers in the ratio of the lengths, so that every pixel that is left has its place among the others
    unchanged; 4 pixels, of the larger of the two pictures, are within the reach of the filters.
    """
    divisor = math.gcd(length, new_length)
    step = math.lcm(length // divisor, 4)  # colours may be coded for 4 pixels at once
    new_step = step * new_length // length
    reach = 4 * math.ceil(new_length / length)
    num_steps = max(0, (new_length - crop_length) // 2 - reach) // new_step
    return num_steps * step, num_steps * new_step


def rescale_and_normalize(
    frames: torch.Tensor,
    rescale_factor: float | None,
    image_mean: tuple[float, ...] | float | None,
    image_std: tuple[float, ...] | float | None,
) -> torch.Tensor:
    """
    Computes `(frames * rescale_factor - image_mean) / image_std`.

    Args:
        frames (`torch.Tensor` of shape `(..., channels, height, width)`): uint8 or float.
        rescale_factor (`float`, *optional*): `None` leaves the scale as it is.
        image_mean, image_std (`tuple[float]` or `float`, *optional*): Per channel or for all; `None` does not
            normalise.

    Returns:
        `torch.Tensor`: Of dtype float32, or that of `frames` if they are float already; `frames` themselves, also
        bytes, if there is nothing to compute.

    Raises:
        ValueError: If there are more or fewer means or deviations than channels.
    """
    if rescale_factor is None and image_mean is None:
        return frames
    factor = 1.0 if rescale_factor is None else rescale_factor
    if image_mean is None:
        image_mean, image_std = 0.0, 1.0
    means, stds = ([numbers] if isinstance(numbers, (int, float)) else numbers for numbers in (image_mean, image_std))
    for name, numbers in (("image_mean", means), ("image_std", stds)):
        if len(numbers) not in (1, frames.shape[-3]):
            raise ValueError(f"`{name}` has {len(numbers)} entries for frames of {frames.shape[-3]} channels.")
    means, stds = (torch.tensor(numbers, dtype=torch.float64).reshape(-1, 1, 1) for numbers in (means, stds))
    dtype = frames.dtype if frames.is_floating_point() else torch.float32
    scale, shift = (numbers.to(frames.device, dtype) for numbers in (factor / stds, -means / stds))
    # Bytes are put in order before they take four times the room.
    frames = frames.contiguous()
    if frames.device.type != "cpu":
        return (frames * scale).add_(shift)
    # Several times faster picture by picture, which stays in the cache, into large pages, which NumPy asks for.
    pixel_values = torch.from_numpy(np.empty(frames.shape, dtype=np.float32)).to(dtype)
    picture_shape = (-1, *frames.shape[-3:])
    for picture, result in zip(frames.view(picture_shape), pixel_values.view(picture_shape), strict=True):
        result.copy_(picture).mul_(scale).add_(shift)
    return pixel_values


def preprocess_frames(
    frames: torch.Tensor,
    *,
    do_resize: bool,
    size: SizeDict,
    resample: int,
    do_center_crop: bool,
    crop_size: SizeDict,
    do_rescale: bool,
    rescale_factor: float,
    do_normalize: bool,
    image_mean: tuple[float, ...] | float,
    image_std: tuple[float, ...] | float,
    pixel_protocol: str,
    do_flip_channel_order: bool,
    **kwargs,
) -> torch.Tensor:
    """
    Frames `(frames, channels, height, width)` of one video, uint8 or float, to `pixel_values` of the same layout,
    float, or uint8 if they are neither rescaled nor normalised. The arguments are those of [`VTNImageProcessor`];
    others, which transformers passes as well, have no part here.
    """
    if pixel_protocol not in PIXEL_PROTOCOLS:
        raise ValueError(f"`pixel_protocol` must be one of {', '.join(PIXEL_PROTOCOLS)}, got {pixel_protocol!r}.")
    if do_flip_channel_order:
        frames = frames.flip(-3)
    # The original normalises before it resizes, in float32. Resizing is linear and its weights add up to one, so the
    # other order gives the same pixels.
    original = pixel_protocol == "pyslowfast"
    if do_resize:
        frames = resize_frames(frames.float() if original else frames, size, resample, antialias=not original)
    if do_center_crop:
        frames = crop_frames(frames, crop_size, round_up=original)
    return rescale_and_normalize(
        frames,
        rescale_factor if do_rescale else None,
        image_mean if do_normalize else None,
        image_std if do_normalize else None,
    )


def check_has_bytes(pixel_protocol: str):
    """Refuses a protocol whose pixels cannot be kept as bytes until they are on the device."""
    if pixel_protocol == "pyslowfast":
        raise ValueError(
            "pixel_protocol='pyslowfast' normalises before it resizes, so its pixels are floats; let the processor "
            "rescale and normalise, or use pixel_protocol='transformers'."
        )


def normalize_uint8(
    pixel_values: torch.Tensor,
    *,
    do_rescale: bool,
    rescale_factor: float,
    do_normalize: bool,
    image_mean: list[float] | float,
    image_std: list[float] | float,
    pixel_protocol: str,
) -> torch.Tensor:
    """
    Rescales and normalises `pixel_values` that a processor has left as bytes, on the device where they are.

    A batch of bytes is a quarter of the size of one of floats on its way from the workers to the device.

    Args:
        pixel_values (`torch.Tensor` of shape `(..., channels, height, width)`): uint8, as a processor called with
            `do_rescale=False, do_normalize=False` gives them.
        do_rescale, rescale_factor, do_normalize, image_mean, image_std, pixel_protocol: As in [`VTNImageProcessor`].

    Returns:
        `torch.Tensor`: float32, on the same device, as the processor gives them by itself.

    Raises:
        ValueError: If `pixel_values` are no bytes, or `pixel_protocol` is `"pyslowfast"`, which does not resize bytes.
    """
    check_has_bytes(pixel_protocol)
    if pixel_values.dtype != torch.uint8:
        raise ValueError(f"`pixel_values` must be uint8 to be normalised on the device, got {pixel_values.dtype}.")
    return rescale_and_normalize(
        pixel_values,
        rescale_factor if do_rescale else None,
        image_mean if do_normalize else None,
        image_std if do_normalize else None,
    ).float()


def batch_videos(
    videos: list[torch.Tensor],
    position_ids: list[np.ndarray] | None = None,
    tensor_type: str | TensorType | None = None,
) -> BatchFeature:
    """
    Puts videos `(frames, channels, height, width)` of one size into a batch.

    Args:
        videos (`list[torch.Tensor]`): Their pixels.
        position_ids (`list[np.ndarray]`, *optional*): The index of each frame in its video.
        tensor_type (`str` or `TensorType`, *optional*): `"pt"` or `"np"`; without it, lists.

    Returns:
        `BatchFeature`: `pixel_values`, `position_ids` if given, and, if the videos are of unequal length,
        `attention_mask` (1 = frame, 0 = padding), in which case all are padded with zeros to the longest.

    Raises:
        ValueError: If the videos differ in picture size.
    """
    if len({tuple(video.shape[1:]) for video in videos}) > 1:
        raise ValueError(
            "The videos of a batch must have one picture size, got (channels, height, width) "
            f"{[tuple(video.shape[1:]) for video in videos]}; resize or crop them."
        )
    batch = {"pixel_values": videos}
    if position_ids is not None:
        batch["position_ids"] = [torch.as_tensor(ids) for ids in position_ids]
    lengths = [len(video) for video in videos]
    if len(set(lengths)) > 1:
        batch["attention_mask"] = [torch.ones(length, dtype=torch.long) for length in lengths]
        for name, rows in batch.items():
            batch[name] = list(nn.utils.rnn.pad_sequence(rows, batch_first=True))
    if len(videos) == 1 and tensor_type is not None:
        batch["pixel_values"] = videos[0][None]  # a view, where stacking would copy the video
    return BatchFeature(data=batch, tensor_type=tensor_type)


def read_backbone_preprocessing(backbone_name_or_path: str | os.PathLike) -> dict:
    """
    Reads what an image model was trained on off its preprocessor configuration.

    Args:
        backbone_name_or_path (`str` or `os.PathLike`): A model on the Hub or a local directory.

    Returns:
        `dict`: `image_mean`, `image_std`, `rescale_factor` and `resample` as there; `crop_size`, the picture size; and
        `size`, the short side before cropping. Where the image model has no crop of its own, the crop leaves as much
        out as the paper's 224 of 256.

    Raises:
        OSError: If there is no preprocessor configuration.
        ValueError: If it does not say which size of pictures the model takes.
    """
    try:
        config, _ = BaseImageProcessor.get_image_processor_dict(backbone_name_or_path)
    except OSError as error:
        # timm keeps it in the configuration of the model.
        try:
            model_config, _ = PreTrainedConfig.get_config_dict(backbone_name_or_path)
        except OSError:
            model_config = {}
        if "pretrained_cfg" not in model_config:
            raise error
        config = _translate_timm(model_config["pretrained_cfg"])
    known = (
        "do_rescale",
        "rescale_factor",
        "do_normalize",
        "image_mean",
        "image_std",
        "resample",
        "do_flip_channel_order",
    )
    settings = {name: config[name] for name in known if config.get(name) is not None}
    size = get_size_dict(config["size"], default_to_square=False) if "size" in config else {}
    crop_size = (
        get_size_dict(config["crop_size"]) if "crop_size" in config and config.get("do_center_crop", True) else {}
    )
    crop_side = crop_size.get("height") or size.get("height") or size.get("shortest_edge")
    if crop_side is None:
        raise ValueError(f"The preprocessor of {backbone_name_or_path} does not tell a picture size: size={size}.")
    short_side = (size.get("shortest_edge") or size.get("height")) if crop_size else None
    settings["crop_size"] = {"height": crop_side, "width": crop_side}
    settings["size"] = {"shortest_edge": short_side or round(crop_side / (config.get("crop_pct") or 224 / 256))}
    return settings


def _translate_timm(pretrained_cfg: dict) -> dict:
    """timm's names to those of a preprocessor configuration."""
    resample = {mode.removesuffix("-exact"): number for number, mode in _INTERPOLATION.items()}
    return {
        "image_mean": pretrained_cfg.get("mean"),
        "image_std": pretrained_cfg.get("std"),
        "resample": resample.get(pretrained_cfg.get("interpolation")),
        "size": {"shortest_edge": pretrained_cfg["input_size"][-1]},
        "crop_pct": pretrained_cfg.get("crop_pct") or 224 / 256,
    }


class VTNImageProcessorKwargs(ImagesKwargs, total=False):
    """
    Arguments that [`VTNImageProcessor`] takes beside those of every image processor.

    pixel_protocol (`str`, *optional*, defaults to `"transformers"`):
        How frames are resized and cropped. `"transformers"` resizes bytes with antialiasing, as torchvision does;
        `"libswscale"` lets the decoder's library make small pictures, which is faster, and is `"transformers"` for
        frames that are decoded already; `"pyslowfast"` reproduces the original's pixels: float32, no antialiasing,
        margins rounded up.
    do_flip_channel_order (`bool`, *optional*, defaults to `False`):
        Give the channels as BGR, which MobileViT was trained on.
    """

    pixel_protocol: str
    do_flip_channel_order: bool


class VTNImageProcessor(BaseImageProcessor):
    r"""
    Turns frames that are decoded already into the input of a VTN: resizes the short side, crops the centre, rescales
    and normalises. Works with and without torchvision.

    Args:
        do_resize (`bool`, *optional*, defaults to `True`), size (`dict`, *optional*, defaults to
            `{"shortest_edge": 256}`), resample (`int`, *optional*, defaults to 2, bilinear):
            Resizing; `size` may also have the keys `height` and `width`.
        do_center_crop (`bool`, *optional*, defaults to `True`), crop_size (`dict`, *optional*, defaults to
            `{"height": 224, "width": 224}`):
            Cropping; smaller frames are padded with zeros.
        do_rescale (`bool`, *optional*, defaults to `True`), rescale_factor (`float`, *optional*, defaults to 1/255):
            Rescaling; pass `do_rescale=False` for frames in [0, 1].
        do_normalize (`bool`, *optional*, defaults to `True`), image_mean (`list[float]`, *optional*, defaults to
            0.45), image_std (`list[float]`, *optional*, defaults to 0.225):
            Normalisation; the defaults are the original's.
        pixel_protocol (`str`, *optional*, defaults to `"transformers"`):
            `"transformers"` resizes bytes with antialiasing, as torchvision does; `"libswscale"`, for files only,
            crops, resizes and converts in the decoder's library, which is faster and gives slightly other pixels;
            `"pyslowfast"` reproduces the pixels of the original implementation: float32, no antialiasing,
            margins of the crop rounded up.
        do_flip_channel_order (`bool`, *optional*, defaults to `False`):
            Give the channels as BGR, which MobileViT was trained on.

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

    def __init__(self, **kwargs: Unpack[VTNImageProcessorKwargs]):
        super().__init__(**kwargs)
        self._set_attributes(**kwargs)

    @classmethod
    def from_backbone_pretrained(cls, backbone_name_or_path: str | os.PathLike, **kwargs) -> "VTNImageProcessor":
        """The processor for a VTN on a pretrained backbone; see [`read_backbone_preprocessing`]."""
        return cls(**{**read_backbone_preprocessing(backbone_name_or_path), **kwargs})

    def preprocess(self, images: ImageInput, **kwargs: Unpack[VTNImageProcessorKwargs]) -> BatchFeature:
        """
        Args:
            images (`ImageInput`):
                The frames of one video, or a list of the frames of several. Frames are PIL images, arrays or tensors,
                of shape `(height, width, channels)` or `(channels, height, width)`, with values in [0, 255].
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`; without it, lists.
            kwargs:
                Overrides for this call of the arguments of the class.

        Returns:
            `BatchFeature`: `pixel_values` of shape `(batch, frames, channels, height, width)`, float32, or uint8 for
            bytes that are neither rescaled nor normalised; and, for videos of unequal length, `attention_mask` of
            shape `(batch, frames)`.

        Raises:
            ValueError: If there are no frames, or they do not fit together.
        """
        return super().preprocess(images, **kwargs)

    def normalize_uint8(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Rescales and normalises a batch of bytes on its device; see the function of this name."""
        return normalize_uint8(pixel_values, **{name: getattr(self, name) for name in NORMALIZE_SETTINGS})

    def _prepare_images_structure(self, images: ImageInput, expected_ndims: int = 3) -> list[list]:
        videos = make_nested_list_of_images(images, expected_ndims=expected_ndims)
        if len(videos) == 0 or any(len(video) == 0 for video in videos):
            raise ValueError(f"Each video needs at least one frame, got {[len(video) for video in videos]} frames.")
        return videos

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: torch.device | str | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """One frame of any kind to a tensor `(channels, height, width)`, uint8 or float32."""
        if is_pil_image(image):
            if do_convert_rgb:
                image = image.convert("RGBA" if image.has_transparency_data else "RGB")
            image = np.array(image)
            input_data_format = ChannelDimension.LAST if image.ndim == 3 else None
        image = to_tensor(image, device)
        return to_channels_first(image if image.ndim == 3 else image[None], do_convert_rgb, input_data_format)

    def _preprocess(
        self, images: list[list[torch.Tensor]], return_tensors: str | TensorType | None = None, **kwargs
    ) -> BatchFeature:
        videos = []
        for frames in images:
            if len({frame.shape for frame in frames}) == 1:
                videos.append(preprocess_frames(torch.stack(frames), **kwargs))
            else:
                frames = [preprocess_frames(frame[None], **kwargs) for frame in frames]
                if len({frame.shape for frame in frames}) > 1:
                    raise ValueError(
                        "The frames of a video must have one size after resizing and cropping, got (channels, height, "
                        f"width) {sorted({tuple(frame.shape[1:]) for frame in frames})}."
                    )
                videos.append(torch.cat(frames))
        return batch_videos(videos, tensor_type=return_tensors)


def to_tensor(frames: np.ndarray | torch.Tensor, device: torch.device | str | None = None) -> torch.Tensor:
    """Frames to a tensor of the two types that can be resized: uint8 as it is, all others as float32."""
    if isinstance(frames, np.ndarray) and min(frames.strides, default=0) < 0:
        frames = frames.copy()  # such as BGR turned into RGB; torch has no negative strides
    frames = torch.as_tensor(frames, device=device)
    return frames if frames.dtype == torch.uint8 else frames.float()


def to_channels_first(
    frames: torch.Tensor, do_convert_rgb: bool | None, input_data_format: str | ChannelDimension | None
) -> torch.Tensor:
    """
    One frame or several, `(..., height, width, channels)` or `(..., channels, height, width)`, to the latter. If
    `do_convert_rgb`, gray and RGBA become RGB, what is transparent over white, as in transformers.
    """
    if input_data_format is None:
        input_data_format = infer_channel_dimension_format(frames, num_channels=(1, 3, 4))
    if ChannelDimension(input_data_format) == ChannelDimension.LAST:
        frames = frames.movedim(-1, -3)
    if do_convert_rgb and frames.shape[-3] == 1:
        frames = frames.expand(*frames.shape[:-3], 3, -1, -1)
    if do_convert_rgb and frames.shape[-3] == 4:
        frames = blend_with_white(frames)
    return frames


def blend_with_white(frames: torch.Tensor) -> torch.Tensor:
    """RGBA frames `(..., 4, height, width)`, uint8 or float in [0, 1], to RGB frames of the same dtype."""
    white = 255 if frames.dtype == torch.uint8 else 1
    if frames.max() > white:
        raise ValueError(f"Frames with transparency must be uint8 or float in [0, 1], got {frames.max():g}.")
    colour, alpha = frames.float().split((3, 1), dim=-3)
    blended = torch.lerp(torch.full_like(colour, white), colour, alpha / white)
    return blended.round().to(torch.uint8) if frames.dtype == torch.uint8 else blended


VTNImageProcessor.register_for_auto_class()

__all__ = ["VTNImageProcessor"]
