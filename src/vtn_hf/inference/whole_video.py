"""
Videos of any length: from a file to scores for the whole and for its parts, in memory that holds no more than a chunk
of pixels.

A thread decodes while the backbone computes; each different picture goes through the backbone once; the temporal
encoder then reads the features of all frames, and those of windows of them for a timeline.
"""

import hashlib
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers.modeling_utils import PreTrainedModel
from transformers.video_utils import VideoMetadata

from ..frame_sampling_vtn import sample_uniform
from ..modeling_vtn import VTNForVideoClassification
from ..video_decoding_vtn import VideoSource, iter_video_frames
from ..video_processing_vtn import VTNVideoProcessor


# Frames per call of the backbone. For a ViT-B on a CPU 4 to 16 took the same time, one alone a fifth more
# (examples/benchmarks/whole_video.py, part `chunks`, measures it).
FRAMES_PER_CHUNK = 8

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
    """

    features: torch.Tensor
    frame_numbers: torch.Tensor
    num_encoded: int
    fps: float | None = None
    duration: float | None = None


@dataclass
class Segment:
    """
    A part of a video and its classes.

    Args:
        first_frame, last_frame (`int`): Numbers in the video, both included.
        start_sec, end_sec (`float`, *optional*): If the frame rate is known.
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
        kwargs: As in [`encode_video`].

    Raises:
        VideoDecodeError: If the video cannot be decoded.
        ValueError: If an argument is wrong, or there are no frames.
    """
    features = encode_video(model, processor, video, **kwargs)
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
    progress: bool = False,
) -> VideoFeatures:
    """
    Runs the backbone over a video while a thread decodes it.

    Frames with the same pixels share one pass of the backbone, wherever they are in the video.

    Args:
        model (`PreTrainedModel`): A [`VTNModel`] or [`VTNForVideoClassification`] in eval mode.
        processor (`VTNVideoProcessor`): Makes its pixels; its own sampling is not used.
        video: Path, URL, bytes or binary file; or an iterable of frames, uint8 RGB of shape `(height, width, 3)`,
            which is read as it goes along.
        num_frames (`int`, *optional*): Spread so many frames over the video; defaults to all frames.
        fps (`float`, *optional*): Take so many frames per second, `num_frames` remaining the upper limit.
        frames_per_chunk (`int`, *optional*): Frames per call of the backbone; defaults to the model's configuration,
            or 8.
        repeat_threshold (`float`, *optional*): Also take a frame for a repeat of the last one that was encoded if
            their pixels differ by no more than this on average, in grey levels of 255. Off by default, as it is not
            exact.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a bar with the time left.

    Raises:
        VideoDecodeError: If the video cannot be decoded.
        ValueError: If an argument is wrong, or there are no frames.
    """
    if model.training:
        raise ValueError("The model is in training mode; call `model.eval()` first.")
    if repeat_threshold is not None and repeat_threshold < 0:
        raise ValueError(f"`repeat_threshold` must not be negative, got {repeat_threshold}.")
    frames, metadata = _open_frames(processor, video, num_frames, fps)
    chunk_size = frames_per_chunk or model.base_model.frames_per_chunk or FRAMES_PER_CHUNK
    features, places, chunk = [], [], []
    with (
        tqdm(unit="frame", disable=not progress) as bar,
        _Prefetcher(_recognise_repeats(frames, repeat_threshold), chunk_size) as pictures,
    ):
        for picture, place in pictures:
            bar.total = bar.total or len(metadata.frames_indices or ()) or None
            bar.update()
            places.append(place)
            if picture is not None:
                chunk.append(picture)
            if len(chunk) == chunk_size:
                features.append(encode_pictures(model, processor, chunk))
                chunk = []
    if chunk:
        features.append(encode_pictures(model, processor, chunk))
    if not places:
        raise ValueError("The video has no frames.")
    features = torch.cat(features)
    return VideoFeatures(
        features=features if len(features) == len(places) else features[places],
        frame_numbers=torch.as_tensor(metadata.frames_indices or range(len(places))),
        num_encoded=len(features),
        fps=metadata.fps,
        duration=metadata.duration,
    )


def encode_pictures(model: PreTrainedModel, processor: VTNVideoProcessor, pictures: list[np.ndarray]) -> torch.Tensor:
    """Pictures of one size, uint8 RGB `(height, width, 3)`, to their features `(pictures, backbone features)`."""
    pixel_values = processor(np.stack(pictures), do_sample_frames=False, return_tensors="pt").pixel_values
    return model.base_model.get_frame_features(pixel_values.to(model.device, model.dtype))[0]


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
    numbers = video.frame_numbers.tolist()
    ends = [numbers[border] if border < total else numbers[-1] + 1 for border in borders]
    seconds = [None if video.fps is None else end / video.fps for end in ends]
    return [
        Segment(ends[i], ends[i + 1] - 1, seconds[i], seconds[i + 1], window_scores)
        for i, window_scores in enumerate(scores)
    ]


def to_scores(model: VTNForVideoClassification, logits: torch.Tensor) -> torch.Tensor:
    """Logits to scores as `pipeline()` does: one class per video, or any number of them."""
    if model.config.problem_type == "multi_label_classification":
        return logits.sigmoid()
    return logits.softmax(dim=-1)


def _open_frames(
    processor: VTNVideoProcessor, video: VideoSource | Iterable[np.ndarray], num_frames: int | None, fps: float | None
) -> tuple[Iterator[np.ndarray], VideoMetadata]:
    """Frames of any source, and metadata that are filled in when the first frame is taken."""
    metadata = VideoMetadata(total_num_frames=0)
    if not isinstance(video, (str, bytes)) and not hasattr(video, "__fspath__") and not hasattr(video, "read"):
        if fps is not None:
            raise ValueError(f"fps={fps} needs a video with a frame rate, which frames do not tell.")
        if num_frames is not None and not hasattr(video, "__len__"):
            raise ValueError(f"num_frames={num_frames} needs a video with a length, got {type(video).__name__}.")
        if num_frames is not None:
            metadata.frames_indices = sample_uniform(len(video), num_frames).tolist()
            return (video[number] for number in metadata.frames_indices), metadata
        return iter(video), metadata

    def choose(found: VideoMetadata) -> list[int]:
        metadata.fps, metadata.duration = found.fps, found.duration
        metadata.frames_indices = processor.sample_frames(found, num_frames=num_frames, fps=fps).tolist()
        return metadata.frames_indices

    return iter_video_frames(video, choose), metadata


def _recognise_repeats(
    frames: Iterable[np.ndarray], threshold: float | None
) -> Iterator[tuple[np.ndarray | None, int]]:
    """
    Gives each frame that was not there before, or `None` for one that was, and the place of it or its equal among the
    different ones.
    """
    places: dict[bytes, int] = {}
    num_different, last = 0, None
    for frame in frames:
        # Equal pictures have equal digests; two different pictures with equal ones are not known to exist.
        picture_hash = hashlib.blake2b(repr(frame.shape).encode(), digest_size=16)
        picture_hash.update(np.ascontiguousarray(frame))
        digest = picture_hash.digest()
        place = places.get(digest)
        if place is None and threshold is not None and last is not None and is_close(frame, last, threshold):
            place = num_different - 1
        if place is None:
            place, last = num_different, frame
            num_different += 1
            yield frame, place
        else:
            yield None, place
        places[digest] = place


def is_close(frame: np.ndarray, other: np.ndarray, threshold: float) -> bool:
    """Whether two uint8 pictures are of one size and differ by at most `threshold` grey levels on average."""
    return frame.shape == other.shape and np.abs(np.subtract(frame, other, dtype=np.int16)).mean() <= threshold


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
