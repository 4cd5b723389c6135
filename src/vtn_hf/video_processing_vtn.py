"""
From videos to the input of a VTN: the one road from a file, and a plan of frames, to pixels and times; and the
pipeline for videos of any length.
"""

import copy
import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import VideoClassificationPipeline
from transformers.configuration_utils import PreTrainedConfig
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import is_pil_image
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.utils import logging
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoInput, VideoMetadata, make_batched_metadata

from .frame_sampling_vtn import is_steady, sample_pyslowfast_full_video, sample_uniform
from .image_processing_vtn import PixelProcessorMixin, VTNImageProcessor, batch_videos
from .pixels_vtn import PixelSettings, Region, Span, View, is_number, to_frames
from .video_decoding_vtn import DecodeLimits, SampleIndices, VideoDecodeError, VideoSource, decode_video, is_source


logger = logging.get_logger(__name__)

FRAME_SAMPLINGS = ("uniform", "pyslowfast")
# Of the pictures that the pipeline gives the model at a time: 64 of 224 x 224.
_BYTES_AT_ONCE = 64 * 3 * 224 * 224

ChooseView = Callable[[int, int], View]


def load_video(
    source: VideoSource,
    sample_indices: SampleIndices | None,
    pixels: PixelSettings,
    limits: DecodeLimits | None = None,
    *,
    choose_view: ChooseView | None = None,
) -> tuple[torch.Tensor, VideoMetadata]:
    """
    The one road from a file to pixels: decodes the frames asked for, one by one.

    Args:
        source (`VideoSource`): Path, URL, the bytes of a file or a binary file.
        sample_indices (`Callable`, *optional*): Chooses the frames, as in [`decode_video`]; `None` takes all.
        pixels (`PixelSettings`): The pixels wanted, and the device for them.
        limits (`DecodeLimits`, *optional*): What the video, and what comes out, may cost.
        choose_view (`Callable`, *optional*): Called with height and width of the video; says what is taken of its
            pictures in place of the centre crop.

    Returns:
        `pixel_values` of shape `(frames, 3, height, width)`, and the metadata with the numbers of the frames
        (`frames_indices`) and their seconds (`timestamps`).

    Raises:
        VideoDecodeError: If the video cannot be decoded, or costs more than the limits.
        ValueError: If a frame number lies outside the video, or none is asked for.
    """
    taker = PictureTaker(pixels, limits, choose_view)

    def choose(metadata: VideoMetadata):
        indices = range(metadata.total_num_frames) if sample_indices is None else sample_indices(metadata)
        taker.num_frames = len(indices)
        return indices

    pictures, metadata = decode_video(source, choose, **taker.arguments)
    pictures = torch.from_numpy(pictures).to(pixels.device)
    # Bytes until all is decoded, or the threads of the arithmetic would wait for those of the decoder.
    return (pixels.normalize(pictures) if pixels.has_bytes else pictures), metadata


class PictureTaker:
    """
    Makes pictures of the frames of one video while it is decoded, within the limits. The arguments are those of
    [`load_video`]; `arguments` are for the functions that decode, `num_frames` is how many pictures are kept together.
    """

    def __init__(self, pixels: PixelSettings, limits: DecodeLimits | None, choose_view: ChooseView | None = None):
        self.num_frames = 1
        self._pixels, self._limits = pixels, limits or DecodeLimits()
        self._choose_view = cache(choose_view or pixels.view)
        self._rest: View | None = None  # what is left to do with what the decoder gives
        self.arguments = {"convert_frame": self.take, "choose_region": self._choose_region, "limits": self._limits}

    def _choose_region(self, height: int, width: int) -> Region:
        # Asked again where the pixel format changes on the way.
        region, self._rest = self._pixels.divide(self._choose_view(height, width), height, width)
        self._check_cost(*self._rest)
        return region

    def _check_cost(self, rows: Span, columns: Span):
        """Refuses, before the memory is taken, what comes out larger than the limits."""
        pixels, limits = self._pixels, self._limits
        for height, width in ((rows.new_length, columns.new_length), (rows.crop_length, columns.crop_length)):
            if height * width > limits.max_pixels:
                raise ValueError(f"a frame resized to {width}x{height} has more than max_pixels={limits.max_pixels:,}")
        are_floats = not pixels.has_bytes or pixels.do_rescale or pixels.do_normalize
        num_bytes = self.num_frames * 3 * height * width * (4 if are_floats else 1)
        if num_bytes > limits.max_bytes:
            frames = f"the {self.num_frames} frames of {width}x{height} asked for"
            raise ValueError(f"{frames} take {num_bytes:,} bytes, max_bytes is {limits.max_bytes:,}")

    def take(self, frame: np.ndarray) -> np.ndarray:
        picture = self._pixels.take(torch.from_numpy(frame).movedim(-1, -3)[None], self._rest)[0]
        return (picture if self._pixels.has_bytes else self._pixels.normalize(picture)).numpy()


class VTNVideoProcessorKwargs(VideosKwargs, total=False):
    """Arguments that [`VTNVideoProcessor`] takes beside those of every video processor, which describes them."""

    frame_sampling: str
    decode_limits: dict | None
    pixel_protocol: str
    do_flip_channel_order: bool


class VTNVideoProcessor(PixelProcessorMixin, VideoProcessorMixin):
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
            What a file may cost, as fields of [`DecodeLimits`]: `max_pixels` of a frame, before and after resizing,
            `max_bytes` of the pixels of a call, `max_decode_sec`, … What is not named has the default.
        kwargs:
            Settings of the pixels, as in [`VTNImageProcessor`].

    Raises:
        ValueError: If a setting is unknown or impossible.

    Example:

    ```python
    >>> import numpy as np
    >>> from vtn_hf import VTNVideoProcessor

    >>> video = np.zeros((40, 120, 160, 3), dtype=np.uint8)
    >>> inputs = VTNVideoProcessor()(video, num_frames=4, return_tensors="pt")
    >>> inputs.pixel_values.shape, inputs.position_ids.tolist()
    (torch.Size([1, 4, 3, 224, 224]), [[0, 13, 26, 39]])

    ```"""

    # The image processor with the same pixel settings, for frames that are decoded already; the installed package adds
    # it.
    to_image_processor: Callable[[], VTNImageProcessor]

    valid_kwargs = VTNVideoProcessorKwargs
    model_input_names = ["pixel_values", "position_ids", "attention_mask"]
    do_sample_frames = True
    num_frames = 250
    frame_sampling = "uniform"

    def check_settings(self):
        super().check_settings()
        _check_sampling(vars(self))
        DecodeLimits.from_settings(self.decode_limits)

    @property
    def limits(self) -> DecodeLimits:
        """What a file may cost."""
        return DecodeLimits.from_settings(self.decode_limits)

    @classmethod
    def get_video_processor_dict(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> tuple[dict, dict]:
        """As in transformers, with the number of frames that the model beside it takes."""
        settings, unused = super().get_video_processor_dict(pretrained_model_name_or_path, **kwargs)
        if "num_frames" not in kwargs:
            num_frames = settings.get("num_frames", cls.num_frames)
            settings["num_frames"] = _choose_num_frames(num_frames, pretrained_model_name_or_path, **kwargs)
        return settings, unused

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """As in transformers, and beside it the image processor with the same settings."""
        num_frames = _choose_num_frames(self.num_frames, save_directory)
        if num_frames != self.num_frames:
            self = copy.copy(self)
            self.num_frames = num_frames
        image_processor = VTNImageProcessor.from_dict(self.to_dict())
        # What saves an image processor only, as `Pipeline.save_pretrained` does, then saves what `AutoVideoProcessor`
        # reads where there is no other file.
        image_processor.auto_map = {"AutoVideoProcessor": "video_processing_vtn.VTNVideoProcessor"}
        files = image_processor.save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        return files + super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def preprocess(self, videos: VideoInput, **kwargs: Unpack[VTNVideoProcessorKwargs]) -> BatchFeature:
        """
        Args:
            videos (`VideoInput`):
                A video or a list of videos, each a path, a URL, the bytes of a file, a binary file, a segment of one
                of these, an array or tensor of shape `(frames, height, width, 3)` or `(frames, 3, height, width)`, or
                a list of frames.
            kwargs:
                Overrides for this call of the arguments of the class; `return_tensors` is `"pt"` or `"np"`, without it
                there are lists; `return_metadata=True` adds `video_metadata` with frame count, rate, duration, size,
                and numbers (`frames_indices`) and seconds (`timestamps`) of the frames taken.

        Returns:
            `BatchFeature`: `pixel_values` of shape `(batch, frames, 3, height, width)`, float32, or uint8 with
            `do_rescale=False, do_normalize=False`; `position_ids` of shape `(batch, frames)`, the number of each frame
            in its video; for videos of unequal length `attention_mask` of this shape, with 0 for padding.

        Raises:
            VideoDecodeError: If a video cannot be opened or decoded; names the file and the reason.
            ValueError: If an argument is wrong or there are no frames.
        """
        settings = self.merge_settings(kwargs)
        _check_sampling(settings)
        pixels, limits = PixelSettings.select(settings), DecodeLimits.from_settings(settings["decode_limits"])
        sample_indices = partial(self.sample_frames, **settings) if settings["do_sample_frames"] else None
        videos = _list_videos(videos)
        described = iter(_describe_arrays(videos, settings["video_metadata"]))
        pixel_values, metadata = [], []
        for video in videos:
            if is_source(video):
                loaded, found = load_video(video, sample_indices, pixels, limits)
                _check_batch([*pixel_values, loaded], len(videos), limits)
            else:
                loaded, found = _load_frames(video, next(described), sample_indices, pixels)
            pixel_values.append(loaded)
            metadata.append(found)
        position_ids = [torch.as_tensor(np.asarray(found.frames_indices)) for found in metadata]
        batch = batch_videos({"pixel_values": pixel_values, "position_ids": position_ids}, settings["return_tensors"])
        if settings["return_metadata"]:
            batch["video_metadata"] = metadata
        return batch

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        frame_sampling: str = "uniform",
        **kwargs,
    ) -> np.ndarray:
        """
        The numbers of the frames to take of a video, never decreasing. `metadata` tells its number of frames and, for
        `fps` and `"pyslowfast"`, its frame rate; where it has `frame_times`, `fps` goes by them. The other arguments
        are those of the class.

        Raises:
            ValueError: If an argument is wrong or the frame rate is needed but not known.
        """
        total = metadata.total_num_frames
        if metadata.fps is None and (fps is not None or frame_sampling == "pyslowfast"):
            needs = f"Sampling with fps={fps} and frame_sampling={frame_sampling!r} needs the frame rate of the video"
            raise ValueError(f"{needs}, which an array does not tell; pass `video_metadata`.")
        if frame_sampling == "pyslowfast":
            return sample_pyslowfast_full_video(total, metadata.fps, num_frames)
        if fps is None:
            return sample_uniform(total, num_frames)
        frame_times = getattr(metadata, "frame_times", None)
        # Where frames come when they like, one at the start of each part of a second, and the last one.
        frames_at_fps = round(total / metadata.fps * fps) if is_steady(frame_times) else int(frame_times[-1] * fps) + 1
        num_frames = max(1, frames_at_fps if num_frames is None else min(num_frames, frames_at_fps))
        return sample_uniform(total, num_frames, frame_times)

    def fetch_videos(self, video_url_or_urls, sample_indices_fn=None):
        """Decodes one video or a list of them, within the limits: `(frames, metadata)`, or two lists."""
        if isinstance(video_url_or_urls, list):
            return [*zip(*(self.fetch_videos(video, sample_indices_fn) for video in video_url_or_urls), strict=True)]
        return decode_video(video_url_or_urls, sample_indices_fn, limits=self.limits)


def _choose_num_frames(num_frames: int, name_or_path: str | os.PathLike, **kwargs) -> int:
    """The number of frames of the model at this place, which `pipeline()` takes; without a model, the one given."""
    try:
        config, _ = PreTrainedConfig.get_config_dict(name_or_path, **kwargs)
    except OSError:
        return num_frames
    of_model = config.get("num_frames", num_frames) if config.get("model_type") == "vtn" else num_frames
    if of_model != num_frames:
        change = f"num_frames={num_frames} gives way to num_frames={of_model} of the model in {name_or_path}"
        logger.warning(f"The processor's {change}; to change it, change the model's configuration.")
    return of_model


def _check_sampling(settings: dict[str, Any]):
    num_frames, fps, frame_sampling = (settings[name] for name in ("num_frames", "fps", "frame_sampling"))
    if frame_sampling not in FRAME_SAMPLINGS:
        raise ValueError(f"`frame_sampling` must be one of {', '.join(FRAME_SAMPLINGS)}, got {frame_sampling!r}.")
    if num_frames is not None and not (is_number(num_frames) and num_frames == int(num_frames) and num_frames > 0):
        raise ValueError(f"`num_frames` must be positive, got {num_frames}.")
    if fps is not None and not (is_number(fps) and fps > 0):
        raise ValueError(f"`fps` must be positive, got {fps}.")


def _check_batch(loaded: list[torch.Tensor], num_videos: int, limits: DecodeLimits):
    """Refuses a batch, in which all videos are as long as the longest, before the memory is taken."""
    num_bytes = num_videos * max(video.nbytes for video in loaded)
    if num_bytes > limits.max_bytes:
        videos = f"{num_videos} videos, as long as the longest, take {num_bytes:,} bytes or more"
        raise VideoDecodeError(f"{videos}, max_bytes is {limits.max_bytes:,}; pass fewer at once.")


def _list_videos(videos: VideoInput) -> list:
    """One video or a list of them to a list of sources and of arrays, tensors or lists of frames."""
    num_axes = _count_axes(videos)
    if is_source(videos) or num_axes == 4:
        return [videos]
    if num_axes == 3:
        return [[videos]]
    if num_axes != 5 and not isinstance(videos, (list, tuple)):
        got = f"{type(videos).__name__} {tuple(videos.shape) if hasattr(videos, 'shape') else ''}"
        expected = "a path, a URL, bytes, a binary file, an array or tensor of 4 dimensions, a list of frames"
        raise ValueError(f"Invalid video input: expected {expected}, or a list of such videos, got {got}.")
    if all(_count_axes(picture) == 3 for picture in videos):
        return [list(videos)]  # the frames of one video
    return [video for item in videos for video in _list_videos(item)]


def _count_axes(video: Any) -> int | None:
    """Of a picture three, of a video four, of a batch five; of what is none of them `None`."""
    if is_pil_image(video):
        return 3
    return video.ndim if isinstance(video, (np.ndarray, torch.Tensor)) else None


def _describe_arrays(videos: list, video_metadata: Any) -> list[VideoMetadata]:
    """What is known of those videos that are decoded already."""
    arrays = [video for video in videos if not is_source(video)]
    lengths = [len(array) for array in arrays]
    if 0 in lengths:
        raise ValueError(f"Each video needs at least one frame, got {lengths} frames.")
    known = [VideoMetadata(total_num_frames=length, frames_indices=list(range(length))) for length in lengths]
    return make_batched_metadata(arrays, video_metadata or known) if arrays else []


def _load_frames(
    frames: Any, metadata: VideoMetadata, sample_indices: SampleIndices | None, pixels: PixelSettings
) -> tuple[torch.Tensor, VideoMetadata]:
    """As [`load_video`], from an array, tensor or list of frames."""
    if sample_indices is not None:
        total = metadata.total_num_frames
        if total != len(frames):
            raise ValueError(f"`video_metadata` tells of {total} frames, the video has {len(frames)}.")
        metadata.frames_indices = numbers = sample_indices(metadata)
        frames = [frames[number] for number in numbers] if isinstance(frames, list) else frames[numbers]
    frames = to_frames(frames, pixels)
    metadata.height, metadata.width = frames[0].shape[-2:]
    return pixels.preprocess(frames), metadata


class VTNVideoClassificationPipeline(VideoClassificationPipeline):
    """
    `pipeline("video-classification")` for videos of any length: pictures go through the backbone while the video is
    decoded, so that a few of them are in memory at a time. Takes whatever [`VTNVideoProcessor`] takes, lists,
    generators and data sets; `batch_size` videos of any lengths go through the temporal encoder together.

    Arguments, when it is made or called, beside those of transformers, whose `num_frames` is `config.num_frames` by
    default:

    - `fps` (`float`): Look at so many frames per second, `num_frames`, if it is given, remaining the upper limit.
    - `timeline` (`bool`): Give, for each video, `{"scores": …, "timeline": [{"start_sec", "end_sec", "scores"}, …]}`:
      what windows of `config.num_frames` frames show, which overlap by half. Times are those of the frames; `None`
      where a video does not tell them.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Into what the checkpoint says of this pipeline, transformers puts classes, which no file can hold.
        vars(self.model.config).pop("custom_pipelines", None)

    def _sanitize_parameters(self, num_frames=None, fps=None, timeline=None, **kwargs):
        _, forward, postprocess = super()._sanitize_parameters(**kwargs)
        given = {"num_frames": num_frames, "fps": fps, "timeline": timeline}
        return {}, forward | {name: value for name, value in given.items() if value is not None}, postprocess

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """As in transformers, with the video processor."""
        # First, because it brings an image processor, which need not be the one of the pipeline.
        if self.video_processor is not None:
            self.video_processor.save_pretrained(save_directory, **kwargs)
        super().save_pretrained(save_directory, **kwargs)

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        """Results one by one, of `batch_size` videos at a time; they are decoded in this process."""
        videos = iter(inputs[number] for number in range(len(inputs))) if hasattr(inputs, "__len__") else iter(inputs)
        while batch := list(itertools.islice(videos, batch_size)):
            outputs = self.forward({"videos": batch}, **forward_params)
            for logits, windows in zip(outputs["logits"], outputs["windows"], strict=True):
                output = {"logits": logits[None], "windows": [windows]}
                yield self.postprocess(output, **postprocess_params)

    def preprocess(self, video: VideoInput) -> dict[str, list]:
        return {"videos": [video]}

    def _forward(
        self, inputs: dict[str, list], num_frames: int | None = None, fps: float | None = None, timeline: bool = False
    ) -> dict[str, Any]:
        encoded = [self._encode(video, num_frames, fps) for video in inputs["videos"]]
        features, numbers, _ = zip(*encoded, strict=True)
        masks = [torch.ones_like(each) for each in numbers]
        features, numbers, masks = (pad_sequence(each, batch_first=True) for each in (features, numbers, masks))
        outputs = self.model(inputs_embeds=features, position_ids=numbers, attention_mask=masks)
        windows = [self._classify_windows(*each) if timeline else None for each in encoded]
        return {"logits": outputs.logits.float(), "windows": windows}

    def _encode(
        self, video: VideoInput, num_frames: int | None, fps: float | None
    ) -> tuple[torch.Tensor, torch.Tensor, list[float | None]]:
        """Of the frames to look at: features, numbers, and the seconds at which they begin and the last one ends."""
        processor = self.video_processor or VTNVideoProcessor.from_dict(self.image_processor.to_dict())
        if num_frames is None and fps is None:
            num_frames = self.model.config.num_frames
        sampling = {"num_frames": num_frames, "fps": fps or processor.fps, "frame_sampling": processor.frame_sampling}
        if isinstance(video, dict):  # as data sets have them
            video = video.get("path") if video.get("bytes") is None else video["bytes"]
        if is_source(video):
            features, metadata = self._encode_file(video, partial(processor.sample_frames, **sampling), processor)
        else:
            inputs = processor(video, **sampling, do_sample_frames=True, return_tensors="pt", return_metadata=True)
            features, metadata = self._encode_pixels(inputs["pixel_values"][0]), inputs["video_metadata"][0]
        numbers = torch.as_tensor(np.asarray(metadata.frames_indices))
        return features, numbers.to(self.device), _find_starts(metadata)

    def _encode_file(
        self, source: VideoSource, sample_indices: SampleIndices, processor: VTNVideoProcessor
    ) -> tuple[torch.Tensor, VideoMetadata]:
        """The features of the frames that `sample_indices` chooses, made while they are decoded, and the metadata."""
        pixels, pictures, features = processor.pixel_settings, [], []
        taker = PictureTaker(replace(pixels, do_rescale=False, do_normalize=False), processor.limits)

        def choose(metadata: VideoMetadata):
            # Asked again where the number of frames turns out to be another one.
            pictures.clear()
            features.clear()
            return sample_indices(metadata)

        def encode():
            features.append(self._encode_pixels(pixels.normalize(torch.stack(pictures))))
            pictures.clear()

        def convert(frame: np.ndarray) -> np.ndarray:
            pictures.append(torch.from_numpy(taker.take(frame).copy()))
            if len(pictures) * pictures[0].numel() >= _BYTES_AT_ONCE:
                encode()
            return np.empty(0, dtype=np.uint8)

        _, metadata = decode_video(source, choose, **taker.arguments | {"convert_frame": convert})
        if pictures:
            encode()
        # A frame that is asked for several times is decoded once.
        places = np.unique(metadata.frames_indices, return_inverse=True)[1]
        return torch.cat(features)[torch.from_numpy(places)], metadata

    def _encode_pixels(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model.vtn.get_frame_features(pixel_values[None].to(self.device, self.model.dtype))[0]

    def _classify_windows(
        self, features: torch.Tensor, numbers: torch.Tensor, starts: list[float | None]
    ) -> list[tuple[float | None, float | None, torch.Tensor]]:
        """Start, end and logits of parts that follow each other, each from a window with the part in its middle."""
        total, size = len(features), min(self.model.config.num_frames, len(features))
        firsts = [*range(0, total - size, max(size // 2, 1)), total - size]
        borders = [0, *((a + b + size) // 2 for a, b in itertools.pairwise(firsts)), total]
        parts = []
        for first, begin, end in zip(firsts, borders[:-1], borders[1:], strict=True):
            window = slice(first, first + size)
            position_ids = numbers[window] - numbers[first]
            logits = self.model(inputs_embeds=features[None, window], position_ids=position_ids[None]).logits[0]
            parts.append((starts[begin], starts[end], logits.float()))
        return parts

    def postprocess(self, outputs: dict[str, Any], **kwargs) -> list[dict] | dict[str, list]:
        rank = partial(super().postprocess, **kwargs)
        scores = rank(SimpleNamespace(logits=outputs["logits"]))
        if outputs["windows"][0] is None:
            return scores
        timeline = [
            {"start_sec": start, "end_sec": end, "scores": rank(SimpleNamespace(logits=logits[None]))}
            for start, end, logits in outputs["windows"][0]
        ]
        return {"scores": scores, "timeline": timeline}


def _find_starts(metadata: VideoMetadata) -> list[float | None]:
    """Seconds at which the frames begin, and at which the last one ends."""
    if metadata.fps is None:
        return [None] * (len(metadata.frames_indices) + 1)
    times = list(metadata.timestamps)
    return [*times, max(times[-1], metadata.duration or 0)]


VTNVideoProcessor.register_for_auto_class()

__all__ = ["VTNVideoProcessor"]
