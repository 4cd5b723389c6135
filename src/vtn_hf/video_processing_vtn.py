"""From videos to the input of a VTN: decoding, frame sampling and pixels put together."""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ChannelDimension, SizeDict, is_pil_image
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.utils import TensorType
from transformers.video_utils import VideoInput, VideoMetadata, make_batched_metadata


try:
    from transformers.video_processing_utils import VideoProcessorMixin
except ImportError:  # transformers before 5.20 has it fused with the torchvision backend
    from transformers.video_processing_utils import BaseVideoProcessor as VideoProcessorMixin

from .frame_conversion_vtn import Region
from .frame_sampling_vtn import sample_pyslowfast_full_video, sample_uniform
from .image_processing_vtn import (
    NORMALIZE_SETTINGS,
    VTNImageProcessor,
    batch_videos,
    check_has_bytes,
    choose_part,
    choose_region,
    normalize_uint8,
    preprocess_frames,
    read_backbone_preprocessing,
    to_channels_first,
    to_tensor,
)
from .video_decoding_vtn import DecodeLimits, SampleIndices, decode_video


FRAME_SAMPLINGS = ("uniform", "pyslowfast")

_SOURCES = (str, bytes, os.PathLike)


class VTNVideoProcessorKwargs(VideosKwargs, total=False):
    """
    Arguments that [`VTNVideoProcessor`] takes beside those of every video processor.

    frame_sampling (`str`, *optional*, defaults to `"uniform"`):
        `"uniform"` spreads the frames over the whole video, none twice; `"pyslowfast"` takes those that the original
        evaluates on: the first 10 s, with repeats where there are fewer than 250.
    decode_limits (`dict`, *optional*):
        Fields of [`DecodeLimits`], for files: `max_pixels`, `max_duration_sec`, `max_bytes`, `max_decode_sec`.
    pixel_protocol (`str`), do_flip_channel_order (`bool`):
        As for [`VTNImageProcessor`].
    """

    frame_sampling: str
    decode_limits: dict | None
    pixel_protocol: str
    do_flip_channel_order: bool


@dataclass
class EncodedVideo:
    """
    A video that is still to be decoded: for a [`VTNVideoProcessor`], which makes its frames small one by one.

    Args:
        source (`str`, `bytes` or `os.PathLike`): A path, a URL or the bytes of a file.
        sample_indices (`Callable`, *optional*): Chooses the frames, in place of the processor; as in [`decode_video`].
    """

    source: str | bytes | os.PathLike
    sample_indices: SampleIndices | None = None
    metadata: VideoMetadata | None = field(default=None, init=False)
    device: torch.device | None = field(default=None, init=False)

    def decode(self, limits: DecodeLimits, settings: dict) -> torch.Tensor:
        """Gives `pixel_values` of shape (frames, channels, height, width), and sets `metadata`."""
        if self.device.type != "cpu":
            frames, self.metadata = decode_video(self.source, self.sample_indices, limits=limits)
            return preprocess_frames(torch.as_tensor(frames, device=self.device).movedim(-1, -3), **settings)
        # Bytes until all is decoded, or the threads of the arithmetic would wait for those of the decoder.
        has_bytes = settings["pixel_protocol"] != "pyslowfast"
        of_frame = settings | {"do_rescale": False, "do_normalize": False} if has_bytes else settings

        def choose_pixels(height: int, width: int) -> Region:
            """Have as much as possible of a frame left out, or resized, before there is a whole RGB picture of it."""
            if settings["pixel_protocol"] == "libswscale":
                of_frame["do_resize"] = False
                return choose_region(height, width, **settings)
            part = choose_part(height, width, **settings)
            of_frame["size"] = SizeDict(height=part.new_height, width=part.new_width)
            return part._replace(new_height=part.height, new_width=part.width)

        def preprocess_frame(frame: np.ndarray) -> np.ndarray:
            frame = torch.from_numpy(frame).movedim(-1, -3)[None]
            return preprocess_frames(frame, **of_frame)[0].numpy()

        frames, self.metadata = decode_video(
            self.source,
            self.sample_indices,
            convert_frame=preprocess_frame,
            choose_region=choose_pixels if has_bytes else None,
            limits=limits,
        )
        pixel_values = torch.from_numpy(frames)
        if not has_bytes:
            return pixel_values
        done = {"do_resize": False, "do_center_crop": False, "do_flip_channel_order": False}
        return preprocess_frames(pixel_values, **settings | done)


class VTNVideoProcessor(VideoProcessorMixin):
    r"""
    Turns videos into the input of a VTN: decodes them with PyAV, takes `num_frames` frames, resizes the short side,
    crops the centre, rescales and normalises. Works with and without torchvision.

    Args:
        num_frames (`int`, *optional*, defaults to 250):
            Frames to take from each video at most; a shorter video gives all of its frames, none twice.
        fps (`float`, *optional*):
            Frames to take per second, `num_frames` remaining the upper limit.
        do_sample_frames (`bool`, *optional*, defaults to `True`):
            Whether to sample at all; `False` takes every frame.
        frame_sampling (`str`, *optional*, defaults to `"uniform"`):
            `"uniform"` spreads the frames over the whole video; `"pyslowfast"` takes those that the original evaluates
            on: the first `num_frames / 25` seconds, with repeats in shorter videos. Use the latter to reproduce
            published figures, the former for everything else.
        decode_limits (`dict`, *optional*):
            What a file may cost, as fields of [`DecodeLimits`]: `max_pixels` of a frame, `max_duration_sec`,
            `max_bytes` of its pixels, `max_decode_sec`. What is not named has the default.
        do_resize, size, resample, do_center_crop, crop_size, do_rescale, rescale_factor, do_normalize, image_mean,
        image_std, pixel_protocol, do_flip_channel_order:
            As in [`VTNImageProcessor`].

    Example:

    ```python
    >>> import numpy as np
    >>> from vtn_hf import VTNVideoProcessor

    >>> video = np.zeros((40, 120, 160, 3), dtype=np.uint8)
    >>> inputs = VTNVideoProcessor()(video, num_frames=4, return_tensors="pt")
    >>> inputs.pixel_values.shape, inputs.position_ids.tolist()
    (torch.Size([1, 4, 3, 224, 224]), [[0, 13, 26, 39]])

    ```"""

    valid_kwargs = VTNVideoProcessorKwargs
    model_input_names = ["pixel_values", "position_ids", "attention_mask"]
    do_sample_frames = True
    num_frames = 250
    fps = None
    frame_sampling = "uniform"
    decode_limits = None
    # The pixels, and so their settings, are those of the image processor.
    do_resize = VTNImageProcessor.do_resize
    size = VTNImageProcessor.size
    default_to_square = VTNImageProcessor.default_to_square
    resample = VTNImageProcessor.resample
    do_center_crop = VTNImageProcessor.do_center_crop
    crop_size = VTNImageProcessor.crop_size
    do_rescale = VTNImageProcessor.do_rescale
    do_normalize = VTNImageProcessor.do_normalize
    image_mean = VTNImageProcessor.image_mean
    image_std = VTNImageProcessor.image_std
    do_convert_rgb = VTNImageProcessor.do_convert_rgb
    pixel_protocol = VTNImageProcessor.pixel_protocol
    do_flip_channel_order = VTNImageProcessor.do_flip_channel_order

    def __init__(self, **kwargs: Unpack[VTNVideoProcessorKwargs]):
        super().__init__(**kwargs)
        self._set_attributes(**kwargs)

    @classmethod
    def from_backbone_pretrained(cls, backbone_name_or_path: str | os.PathLike, **kwargs) -> "VTNVideoProcessor":
        """The processor for a VTN on a pretrained backbone; see [`read_backbone_preprocessing`]."""
        return cls(**{**read_backbone_preprocessing(backbone_name_or_path), **kwargs})

    @property
    def limits(self) -> DecodeLimits:
        """What a file may cost."""
        return DecodeLimits(**(self.decode_limits or {}))

    def to_uint8_processor(self) -> "VTNVideoProcessor":
        """
        A copy that leaves the pixels as bytes, for workers; `normalize_uint8` of this one does the rest on the device,
        and [`VTNTrainer`] calls it.

        Raises:
            ValueError: If `pixel_protocol` is `"pyslowfast"`, which does not resize bytes.
        """
        check_has_bytes(self.pixel_protocol)
        processor = copy.deepcopy(self)
        processor.do_rescale = processor.do_normalize = False
        return processor

    def to_image_processor(self) -> VTNImageProcessor:
        """The [`VTNImageProcessor`] with the same pixel settings, for frames that are decoded already."""
        return VTNImageProcessor(
            **{
                name: getattr(self, name)
                for name in VTNImageProcessor.valid_kwargs.__annotations__
                if hasattr(self, name)
            }
        )

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """As in transformers, and beside it the image processor with the same settings."""
        files = self.to_image_processor().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        return files + super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def preprocess(self, videos: VideoInput, **kwargs: Unpack[VTNVideoProcessorKwargs]) -> BatchFeature:
        """
        Args:
            videos (`VideoInput`):
                A video or a list of videos, each a path, a URL, the bytes of a file, an [`EncodedVideo`], an array or
                tensor of shape `(frames, height, width, 3)` or `(frames, 3, height, width)`, or a list of PIL images.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`; without it, lists.
            kwargs:
                Overrides for this call of the arguments of the class; `return_metadata=True` adds `video_metadata`
                with frame count, rate, duration, size and the frame numbers taken.

        Returns:
            `BatchFeature`: `pixel_values` of shape `(batch, frames, 3, height, width)`, float32, or uint8 with
            `do_rescale=False, do_normalize=False` (see `normalize_uint8`); `position_ids` of shape
            `(batch, frames)`, int64, the index of each frame in its video; for videos of unequal length
            `attention_mask` of shape `(batch, frames)`, 1 = frame, 0 = padding.

        Raises:
            VideoDecodeError: If a video cannot be opened or decoded; names the file and the reason.
            ValueError: If an argument is wrong or there are no frames.
        """
        return_metadata = kwargs.pop("return_metadata", self.return_metadata)
        return_tensors = kwargs.pop("return_tensors", None)
        batch = super().preprocess(videos, return_metadata=True, **kwargs)
        metadata = [
            video.metadata if isinstance(video, EncodedVideo) else video for video in batch.pop("video_metadata")
        ]
        position_ids = [np.asarray(video.frames_indices) for video in metadata]
        batch = batch_videos(batch["pixel_values"], position_ids, return_tensors)
        if return_metadata:
            batch["video_metadata"] = metadata
        return batch

    def normalize_uint8(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Rescales and normalises, on its device, a batch that this processor has left as bytes:

        ```python
        >>> import torch
        >>> from vtn_hf import VTNVideoProcessor

        >>> processor = VTNVideoProcessor()
        >>> video = torch.zeros(4, 3, 256, 256, dtype=torch.uint8)
        >>> inputs = processor(video, do_rescale=False, do_normalize=False, return_tensors="pt")
        >>> inputs = inputs.to("cuda" if torch.cuda.is_available() else "cpu")
        >>> processor.normalize_uint8(inputs["pixel_values"]).dtype
        torch.float32

        ```

        Args:
            pixel_values (`torch.Tensor` of shape `(..., 3, height, width)`): uint8.

        Returns:
            `torch.Tensor`: float32, of the same shape.

        Raises:
            ValueError: If `pixel_values` are no bytes, or `pixel_protocol` is `"pyslowfast"`, which has none.
        """
        return normalize_uint8(pixel_values, **{name: getattr(self, name) for name in NORMALIZE_SETTINGS})

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        frame_sampling: str = "uniform",
        **kwargs,
    ) -> np.ndarray:
        """
        Says which frames of a video to take.

        Args:
            metadata (`VideoMetadata`): Frame count and, for `fps` and `"pyslowfast"`, frame rate of the video.
            num_frames, fps, frame_sampling: As in the class.

        Returns:
            `np.ndarray` of int64: Frame numbers, never decreasing.

        Raises:
            ValueError: If `frame_sampling` is unknown or the frame rate is needed but not known.
        """
        if frame_sampling not in FRAME_SAMPLINGS:
            raise ValueError(f"`frame_sampling` must be one of {', '.join(FRAME_SAMPLINGS)}, got {frame_sampling!r}.")
        if fps is not None and not fps > 0:
            raise ValueError(f"`fps` must be positive, got {fps}.")
        if metadata.fps is None and (fps is not None or frame_sampling == "pyslowfast"):
            raise ValueError(
                f"Sampling with fps={fps} and frame_sampling={frame_sampling!r} needs the frame rate of the video, "
                "which an array does not tell; pass `video_metadata`."
            )
        if frame_sampling == "pyslowfast":
            return sample_pyslowfast_full_video(metadata.total_num_frames, metadata.fps, num_frames)
        if fps is not None:
            frames_at_fps = max(1, round(metadata.total_num_frames / metadata.fps * fps))
            num_frames = frames_at_fps if num_frames is None else min(num_frames, frames_at_fps)
        return sample_uniform(metadata.total_num_frames, num_frames)

    def fetch_videos(self, video_url_or_urls, sample_indices_fn=None):
        """Decodes one video or a list of them with PyAV: `(frames, metadata)`, or two lists."""
        if isinstance(video_url_or_urls, list):
            return tuple(
                zip(*(self.fetch_videos(video, sample_indices_fn) for video in video_url_or_urls), strict=True)
            )
        return decode_video(video_url_or_urls, sample_indices_fn)

    def _decode_and_sample_videos(
        self, videos, video_metadata=None, do_sample_frames=None, sample_indices_fn=None
    ) -> tuple[Sequence, Sequence[VideoMetadata]]:
        videos = _list_videos(videos)
        arrays = [video for video in videos if not isinstance(video, (*_SOURCES, EncodedVideo))]
        if any(len(array) == 0 for array in arrays):
            raise ValueError(f"Each video needs at least one frame, got {[len(array) for array in arrays]} frames.")
        array_metadata = iter(make_batched_metadata(arrays, video_metadata) if arrays else ())
        taken = []
        for video in videos:
            if isinstance(video, _SOURCES):
                video = EncodedVideo(video, sample_indices_fn)
            if isinstance(video, EncodedVideo):
                taken.append((video, video))  # decoding will tell the metadata
            else:
                taken.append(_take_frames(video, next(array_metadata), sample_indices_fn))
        return tuple(zip(*taken, strict=True))

    def _prepare_input_videos(
        self,
        videos: Sequence["np.ndarray | torch.Tensor | EncodedVideo"],
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: torch.device | str | None = None,
    ) -> "list[torch.Tensor | EncodedVideo]":
        prepared = []
        for video in videos:
            if isinstance(video, EncodedVideo):
                video.device = torch.device(device or "cpu")
            else:
                video = to_channels_first(to_tensor(video, device), do_convert_rgb, input_data_format)
            prepared.append(video)
        return prepared

    def _preprocess(
        self,
        videos: "list[torch.Tensor | EncodedVideo]",
        return_tensors: str | TensorType | None = None,
        decode_limits: dict | None = None,
        **kwargs,
    ) -> BatchFeature:
        limits = DecodeLimits(**(decode_limits or {}))
        pixel_values = [
            video.decode(limits, kwargs)
            if isinstance(video, EncodedVideo)
            else preprocess_frames(video, **kwargs).contiguous()
            for video in videos
        ]
        return BatchFeature(data={"pixel_values": pixel_values})


def _list_videos(videos: VideoInput) -> list:
    """One video or a list of them to a list of sources and of arrays or tensors (frames, …)."""
    if isinstance(videos, (*_SOURCES, EncodedVideo)):
        return [videos]
    if _is_picture(videos):
        return _list_videos([videos])
    if isinstance(videos, (np.ndarray, torch.Tensor)) and videos.ndim in (4, 5):
        return [videos] if videos.ndim == 4 else list(videos)
    if not isinstance(videos, (list, tuple)):
        got = f"{type(videos).__name__} {tuple(videos.shape) if hasattr(videos, 'shape') else ''}"
        raise ValueError(
            "Invalid video input: expected a path, a URL, bytes, an array or tensor of 4 dimensions, a list of PIL "
            f"images, or a list of such videos, got {got}."
        )
    if all(_is_picture(picture) for picture in videos):
        # The frames of one video.
        frames = [np.array(frame.convert("RGB")) if is_pil_image(frame) else frame for frame in videos]
        return [torch.stack(frames) if frames and isinstance(frames[0], torch.Tensor) else np.array(frames)]
    return [video for item in videos for video in _list_videos(item)]


def _is_picture(video) -> bool:
    return is_pil_image(video) or (isinstance(video, (np.ndarray, torch.Tensor)) and video.ndim == 3)


def _take_frames(video, metadata: VideoMetadata, sample_indices_fn) -> tuple:
    """The frames of an array that `sample_indices_fn` asks for, or all, with their numbers in the metadata."""
    if sample_indices_fn is None:
        return video, metadata
    if metadata.total_num_frames != len(video):
        raise ValueError(f"`video_metadata` tells of {metadata.total_num_frames} frames, the video has {len(video)}.")
    metadata.frames_indices = sample_indices_fn(metadata=metadata)
    return video[metadata.frames_indices], metadata


VTNVideoProcessor.register_for_auto_class()

__all__ = ["EncodedVideo", "VTNVideoProcessor"]
