"""
Videos of any length: from a file to scores for the whole and for its parts, in memory that holds no more than a chunk
of pixels.

A thread decodes while the backbone computes; each different picture goes through the backbone once; the temporal
encoder then reads the features of all frames, and those of windows of them for a timeline.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers.modeling_utils import PreTrainedModel

from ..backbone_vtn import choose_frames_per_chunk
from ..frame_sampling_vtn import sample_uniform
from ..modeling_vtn import VTNForVideoClassification
from ..optimization import optimize_once
from ..pixels_vtn import PixelSettings
from ..video_decoding_vtn import TimedVideoMetadata, VideoSource
from ..video_processing_vtn import VTNVideoProcessor, is_source, iter_video
from .repeats import RepeatFinder


_WINDOWS_PER_BATCH = 8


@dataclass
class VideoFeatures:
    """
    The frames of a video after the backbone.

    Args:
        features (`torch.Tensor` of shape `(frames, backbone features)`): One vector per frame: `inputs_embeds`.
        frame_numbers (`torch.LongTensor` of shape `(frames,)`): Index of each frame in its video: `position_ids`.
        num_encoded (`int`): Frames that went through the backbone; the others were repeats.
        fps (`float`, *optional*): Frames per second of the video, if known.
        duration (`float`, *optional*): Seconds, if known.
        times (`torch.DoubleTensor` of shape `(frames,)`, *optional*): Seconds from the start of the video to each
            frame, by its timestamp, if known.
    """

    features: torch.Tensor
    frame_numbers: torch.Tensor
    num_encoded: int
    fps: float | None = None
    duration: float | None = None
    times: torch.Tensor | None = None

    @property
    def starts(self) -> list[float | None]:
        """Seconds at which each frame begins, and at which the last one ends."""
        if self.times is not None:
            times = self.times.tolist()
            return [*times, max(times[-1], self.duration or 0)]
        numbers = self.frame_numbers.tolist()
        return [None if self.fps is None else number / self.fps for number in (*numbers, numbers[-1] + 1)]


@dataclass
class Segment:
    """
    A part of a video and its classes.

    Args:
        first_frame, last_frame (`int`): Numbers in the video, both included.
        start_sec, end_sec (`float`, *optional*): By the timestamps of the frames, if known.
        scores (`torch.Tensor` of shape `(num_labels,)`): Of the window of frames with this part in its middle.
    """

    first_frame: int
    last_frame: int
    start_sec: float | None
    end_sec: float | None
    scores: torch.Tensor


@dataclass
class VideoClassification:
    """
    What [`classify_video`] returns.

    Args:
        logits (`torch.Tensor` of shape `(num_labels,)`): Of the whole video in one pass.
        scores (`torch.Tensor` of shape `(num_labels,)`): Their softmax, or sigmoid for several labels per video.
        timeline (`list[Segment]`): Parts that follow each other without gaps.
        video (`VideoFeatures`): What both were computed from.
    """

    logits: torch.Tensor
    scores: torch.Tensor
    timeline: list[Segment]
    video: VideoFeatures


def classify_video(
    model: VTNForVideoClassification,
    processor: VTNVideoProcessor,
    video: VideoSource | Iterable[np.ndarray],
    *,
    window: int | None = None,
    stride: int | None = None,
    optimize: bool = True,
    **kwargs,
) -> VideoClassification:
    """
    Classifies a video of any length, as a whole and over time.

    Args:
        model (`VTNForVideoClassification`): In eval mode.
        processor (`VTNVideoProcessor`): Its.
        video: As in [`encode_video`].
        window (`int`, *optional*): Frames that the scores at one time are computed from, as if they were a video of
            their own; defaults to `model.config.num_frames`.
        stride (`int`, *optional*): Frames between windows; defaults to half a window.
        optimize (`bool`, *optional*, defaults to `True`): Whether to compute with `vtn_hf.optimize(model)`.
        kwargs: As in [`encode_video`].

    Raises:
        VideoDecodeError: If the video cannot be decoded.
        ValueError: If an argument is wrong, or there are no frames.
    """
    model = optimize_once(model) if optimize else model
    features = encode_video(model, processor, video, optimize=optimize, **kwargs)
    with torch.no_grad():
        logits = model(
            inputs_embeds=features.features[None], position_ids=features.frame_numbers.to(model.device)[None]
        ).logits[0]
    timeline = make_timeline(model, features, window=window, stride=stride)
    return VideoClassification(logits, to_scores(model, logits), timeline, features)


@torch.no_grad()
def encode_video(
    model: PreTrainedModel,
    processor: VTNVideoProcessor,
    video: VideoSource | Iterable[np.ndarray],
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    frames_per_chunk: int | None = None,
    repeat_threshold: float | None = None,
    optimize: bool = True,
    progress: bool = False,
) -> VideoFeatures:
    """
    Runs the backbone over a video while a thread decodes it.

    Frames with the same pixels share one pass of the backbone, wherever they are in the video.

    Args:
        model (`PreTrainedModel`): A [`VTNModel`] or [`VTNForVideoClassification`] in eval mode.
        processor (`VTNVideoProcessor`): Makes its pixels, within its limits; its own sampling is not used.
        video: Path, URL, bytes or binary file; or an iterable of frames, uint8 RGB of shape `(height, width, 3)`,
            which is read as it goes along.
        num_frames (`int`, *optional*): Spread so many frames over the video; defaults to all frames.
        fps (`float`, *optional*): Take so many frames per second, `num_frames` remaining the upper limit.
        frames_per_chunk (`int`, *optional*): Frames that the backbone gets at once, and that are decoded ahead of it;
            defaults to the model's.
        repeat_threshold (`float`, *optional*): Also take a frame for a repeat of the last one that was encoded if
            their pictures, resized and cropped, differ by no more than this on average, in levels of 255. Off by
            default, as it is not exact.
        optimize (`bool`, *optional*, defaults to `True`): Whether to compute with `vtn_hf.optimize(model)`.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a bar with the time left.

    Raises:
        VideoDecodeError: If the video cannot be decoded, or costs more than the processor's `decode_limits`.
        ValueError: If an argument is wrong, or there are no frames.
    """
    if model.training:
        raise ValueError("The model is in training mode; call `model.eval()` first.")
    model = optimize_once(model) if optimize else model
    chunk_size = _choose_chunk_size(model, frames_per_chunk)
    finder = RepeatFinder(repeat_threshold)
    pictures, metadata = _open_pictures(processor, video, num_frames, fps)
    pixels = processor.pixel_settings
    features, places, chunk = [], [], []
    with (
        tqdm(unit="frame", disable=not progress) as bar,
        _Prefetcher(((picture, *finder.find(picture)) for picture in pictures), chunk_size) as numbered,
    ):
        for picture, place, is_new in numbered:
            bar.total = bar.total or len(metadata.frames_indices or ()) or None
            bar.update()
            places.append(place)
            if is_new:
                chunk.append(picture)
            if len(chunk) == chunk_size:
                features.append(encode_pictures(model, pixels, chunk))
                chunk = []
    if chunk:
        features.append(encode_pictures(model, pixels, chunk))
    if not places:
        raise ValueError("The video has no frames.")
    return _gather_features(torch.cat(features), places, metadata)


def _gather_features(features: torch.Tensor, places: list[int], metadata: TimedVideoMetadata) -> VideoFeatures:
    """The features of all frames: each has those of the different picture at its place."""
    is_timed = metadata.frame_times is not None or metadata.fps is not None
    return VideoFeatures(
        features=features if len(features) == len(places) else features[places],
        frame_numbers=torch.as_tensor(metadata.frames_indices or range(len(places))),
        num_encoded=len(features),
        fps=metadata.fps,
        duration=metadata.duration,
        times=torch.tensor(metadata.timestamps, dtype=torch.float64) if is_timed else None,
    )


def _choose_chunk_size(model: PreTrainedModel, frames_per_chunk: int | None) -> int:
    """Frames to pass at once: the number asked for, else the model's, and never all of a long video."""
    if frames_per_chunk is not None and frames_per_chunk < 1:
        raise ValueError(f"`frames_per_chunk` must be at least 1, got {frames_per_chunk}.")
    model = model.base_model
    return frames_per_chunk or model.frames_per_chunk or choose_frames_per_chunk("auto", model.backbone)


def encode_pictures(model: PreTrainedModel, pixels: PixelSettings, pictures: list[torch.Tensor]) -> torch.Tensor:
    """Pictures `(3, height, width)` to their features `(pictures, backbone features)`."""
    if len({picture.shape for picture in pictures}) > 1:
        sizes = sorted({tuple(picture.shape[1:]) for picture in pictures})
        raise ValueError(f"Pictures must have one size, got {sizes} (height, width); let the processor crop them.")
    pixel_values = pixels.normalize(torch.stack(pictures).to(model.device))
    return model.base_model.get_frame_features(pixel_values[None].to(model.dtype))[0]


def check_frame(frame: np.ndarray, name: str = "the video"):
    """Raises `ValueError` if a frame that is decoded already is anything but uint8 RGB of shape (height, width, 3)."""
    is_frame = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
    if not is_frame or frame.size == 0:
        got = f"{frame.dtype} {tuple(frame.shape)}" if hasattr(frame, "shape") else type(frame).__name__
        raise ValueError(f"Frames must be NumPy arrays, uint8 of shape (height, width, 3), {name} has {got}.")


def to_picture(frame: np.ndarray, pixels: PixelSettings) -> torch.Tensor:
    """A frame that is decoded already, uint8 RGB of shape `(height, width, 3)`, to a picture `(3, height, width)`."""
    check_frame(frame)
    frame = torch.from_numpy(np.ascontiguousarray(frame)).movedim(-1, -3)[None]
    return pixels.take(frame, pixels.view(*frame.shape[-2:]))[0].contiguous()


@torch.no_grad()
def make_timeline(
    model: VTNForVideoClassification, video: VideoFeatures, *, window: int | None = None, stride: int | None = None
) -> list[Segment]:
    """
    Says which class when, from windows over features that are there already.

    Args:
        model, window, stride: As in [`classify_video`].
        video (`VideoFeatures`): What [`encode_video`] gives.

    Returns:
        `list[Segment]`: Together they are the whole video; each reaches half way to the middles of its neighbours'
        windows.

    Raises:
        ValueError: If `window` or `stride` is not positive.
    """
    total = len(video.features)
    window = min(model.config.num_frames if window is None else window, total)
    stride = max(window // 2, 1) if stride is None else stride
    if window < 1 or stride < 1:
        raise ValueError(f"`window` and `stride` must be positive, got {window} and {stride}.")
    starts = list(range(0, total - window, stride)) + [total - window]
    scores = []
    for first in range(0, len(starts), _WINDOWS_PER_BATCH):
        index = torch.tensor(starts[first : first + _WINDOWS_PER_BATCH])[:, None] + torch.arange(window)
        numbers = video.frame_numbers[index]
        logits = model(
            inputs_embeds=video.features[index], position_ids=(numbers - numbers[:, :1]).to(model.device)
        ).logits
        scores.extend(to_scores(model, logits))
    # Half way between the middles of two windows is half way between their starts, half a window later.
    borders = [0, *((a + b + window) // 2 for a, b in zip(starts[:-1], starts[1:], strict=True)), total]
    numbers, starts = video.frame_numbers.tolist(), video.starts
    ends = [numbers[border] if border < total else numbers[-1] + 1 for border in borders]
    seconds = [starts[border] for border in borders]
    return [
        Segment(ends[i], ends[i + 1] - 1, seconds[i], seconds[i + 1], window_scores)
        for i, window_scores in enumerate(scores)
    ]


def to_scores(model: VTNForVideoClassification, logits: torch.Tensor) -> torch.Tensor:
    """Logits to scores as `pipeline()` does: one class per video, or any number of them."""
    if model.config.problem_type == "multi_label_classification":
        return logits.sigmoid()
    return logits.softmax(dim=-1)


def _open_pictures(
    processor: VTNVideoProcessor, video: VideoSource | Iterable[np.ndarray], num_frames: int | None, fps: float | None
) -> tuple[Iterator[torch.Tensor], TimedVideoMetadata]:
    """Pictures of any source, and metadata that are filled in when the first picture is taken."""
    pixels = processor.pixel_settings
    metadata = TimedVideoMetadata(total_num_frames=0)
    if not is_source(video):
        if fps is not None:
            raise ValueError(f"fps={fps} needs a video with a frame rate, which frames do not tell.")
        if num_frames is not None and not hasattr(video, "__len__"):
            raise ValueError(f"num_frames={num_frames} needs a video with a length, got {type(video).__name__}.")
        frames = video
        if num_frames is not None:
            metadata.frames_indices = sample_uniform(len(video), num_frames).tolist()
            frames = (video[number] for number in metadata.frames_indices)
        return (to_picture(frame, pixels) for frame in frames), metadata

    def choose(found: TimedVideoMetadata) -> list[int]:
        metadata.update(found)
        metadata.frames_indices = processor.sample_frames(found, num_frames=num_frames, fps=fps).tolist()
        return metadata.frames_indices

    return iter_video(video, choose, pixels, processor.limits), metadata


class _Prefetcher:
    """Runs an iterator in a thread that is at most `size` items ahead; what it raises is raised where it is read."""

    def __init__(self, items: Iterator, size: int):
        self._items = items
        self._queue = queue.Queue(size)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Iterator:
        self._thread.start()
        return self._read()

    def __exit__(self, *exception):
        self._is_closed.set()
        self._thread.join()

    def _run(self):
        try:
            for item in self._items:
                if not self._put((item, None)):
                    return
            self._put((None, StopIteration()))
        except Exception as error:
            self._put((None, error))

    def _put(self, entry: tuple) -> bool:
        """Waits for a free place; false if nobody reads any more."""
        while not self._is_closed.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _read(self) -> Iterator:
        while True:
            item, error = self._queue.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
