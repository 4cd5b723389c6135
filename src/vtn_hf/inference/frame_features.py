"""From a video to features: each different picture goes through the backbone once, while a thread decodes the next."""

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers.image_utils import SizeDict
from transformers.modeling_utils import PreTrainedModel

from ..backbone_vtn import choose_frames_per_chunk
from ..data.video_frames import iter_frame_rounds, iter_video_frames
from ..frame_sampling_vtn import sample_uniform
from ..modeling_vtn import VTNForVideoClassification
from ..optimization import optimize_once
from ..pixels_vtn import PixelSettings
from ..video_decoding_vtn import TimedVideoMetadata, VideoSource, is_source
from ..video_processing_vtn import PictureTaker, VTNVideoProcessor
from .repeats import RepeatFinder


@dataclass
class VideoFeatures:
    """
    What the backbone makes of the frames of a video.

    Args:
        features (`torch.Tensor` of shape `(frames, backbone features)`, or with a grid `(frames, tokens, backbone
            features)`): What the backbone gives per frame: `inputs_embeds`.
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

    @torch.no_grad()
    def classify(self, model: VTNForVideoClassification) -> torch.Tensor:
        """Classifies the frames in one pass: logits `(num_labels,)`."""
        position_ids = self.frame_numbers.to(model.device)[None]
        return model(inputs_embeds=self.features[None], position_ids=position_ids).logits[0]


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
        processor (`VTNVideoProcessor`): Gives the pixels and the limits; its sampling settings are not used.
        video: Path, URL, bytes or binary file; or an iterable of frames, uint8 RGB of shape `(height, width, 3)`,
            which is read as it goes along.
        num_frames (`int`, *optional*): Frames to take, spread over the video; defaults to all.
        fps (`float`, *optional*): Frames to take per second, `num_frames` remaining the upper limit.
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
    chunk_size = choose_chunk_size(model, processor.pixel_settings, frames_per_chunk)
    finder = RepeatFinder(repeat_threshold)
    pictures = PictureSource(processor, video, num_frames, fps)
    encoder, places = ChunkEncoder(model, pictures.pixels, chunk_size), []
    with (
        tqdm(unit="frame", disable=not progress) as bar,
        Prefetcher(((picture, *finder.find(picture)) for picture in pictures), chunk_size) as numbered,
    ):
        for picture, place, is_new in numbered:
            bar.total = bar.total or len(pictures.metadata.frames_indices or ()) or None
            bar.update()
            places.append(place)
            if is_new:
                encoder.add(picture)
    if not places:
        raise ValueError("The video has no frames.")
    pictures.metadata.frames_indices = pictures.metadata.frames_indices or list(range(len(places)))
    encoder.flush()
    return gather_features(encoder.features, places, pictures.metadata)


def gather_features(features: torch.Tensor, places: list[int], metadata: TimedVideoMetadata) -> VideoFeatures:
    """
    Puts together the features of the frames that `metadata.frames_indices` names; `places` says which of the different
    pictures, whose features are given, each of them shows.
    """
    is_timed = metadata.frame_times is not None or metadata.fps is not None
    return VideoFeatures(
        features=features if places == list(range(len(features))) else features[places],
        frame_numbers=torch.as_tensor(metadata.frames_indices),
        num_encoded=len(features),
        fps=metadata.fps,
        duration=metadata.duration,
        times=torch.tensor(metadata.timestamps, dtype=torch.float64) if is_timed else None,
    )


def choose_chunk_size(model: PreTrainedModel, pixels: PixelSettings, frames_per_chunk: int | None) -> int:
    """
    Pictures to pass at once: `frames_per_chunk`, or else the model's number for their size, as far as the settings
    tell it, but never a whole long video.
    """
    if frames_per_chunk is not None and frames_per_chunk < 1:
        raise ValueError(f"`frames_per_chunk` must be at least 1, got {frames_per_chunk}.")
    size = pixels.crop_size if pixels.do_center_crop else pixels.size if pixels.do_resize else None
    size = size or SizeDict(shortest_edge=224)
    height, width = (side or size.shortest_edge for side in (size.height, size.width))
    setting = frames_per_chunk or model.config.frames_per_chunk or "auto"
    return choose_frames_per_chunk(setting, model.base_model.backbone, height * width)


class ChunkEncoder:
    """
    Runs the backbone over pictures, `chunk_size` at a time.

    Attributes:
        chunk_size (`int`): May be changed at any time.
        num_encoded (`int`): Pictures encoded so far.
        sec_per_picture (`float`): Of the last chunk; 0 before the first one.
    """

    def __init__(self, model: PreTrainedModel, pixels: PixelSettings, chunk_size: int):
        self._model, self._pixels, self.chunk_size = model, pixels, chunk_size
        self.sec_per_picture = 0.0
        self._chunk: list[torch.Tensor] = []
        self._features: list[torch.Tensor] = []
        self.num_encoded = 0

    def add(self, picture: torch.Tensor):
        """Takes a picture `(3, height, width)`, and encodes it when a chunk is full."""
        self._chunk.append(picture)
        if len(self._chunk) >= self.chunk_size:
            self.flush()

    def flush(self):
        """Encodes the pictures that still wait for a full chunk."""
        if self._chunk:
            start = time.monotonic()
            self._features.append(encode_pictures(self._model, self._pixels, self._chunk))
            self.sec_per_picture = (time.monotonic() - start) / len(self._chunk)
            self.num_encoded += len(self._chunk)
            self._chunk = []

    @property
    def features(self) -> torch.Tensor:
        """Of all pictures encoded so far: `(num_encoded, backbone features)`."""
        self._features = [torch.cat(self._features)]
        return self._features[0]


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


class PictureSource:
    """
    The pictures of a video, uint8 `(3, height, width)`, as the processor resizes and crops them.

    Args:
        processor, video, num_frames, fps: As in [`encode_video`].

    Attributes:
        metadata (`TimedVideoMetadata`): Filled in when the first picture is taken.

    Raises:
        ValueError: If the video is given as frames, and they do not tell the rate or the length that is needed.
    """

    def __init__(
        self,
        processor: VTNVideoProcessor,
        video: VideoSource | Iterable[np.ndarray],
        num_frames: int | None,
        fps: float | None,
    ):
        self.metadata = TimedVideoMetadata(total_num_frames=0)
        self.pixels, self._limits = processor.pixel_settings, processor.limits
        self._sample = partial(processor.sample_frames, num_frames=num_frames, fps=fps)
        self._video, self._is_file = video, is_source(video)
        if self._is_file:
            return
        if fps is not None:
            raise ValueError(f"fps={fps} needs a video with a frame rate, which frames do not tell.")
        if num_frames is not None:
            self._check_length(f"num_frames={num_frames}")
            self.metadata.frames_indices = sample_uniform(len(video), num_frames).tolist()

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yields the pictures in the order of the video."""
        if self._is_file:
            frames = iter_video_frames(self._video, self._choose, **self._make_arguments())
            yield from map(torch.from_numpy, frames)
            return
        numbers = self.metadata.frames_indices
        for frame in self._video if numbers is None else (self._video[number] for number in numbers):
            yield to_picture(frame, self.pixels)

    def iter_rounds(self, plan_rounds: Callable[[list[int]], list[list[int]]]) -> Iterator[tuple[int, torch.Tensor]]:
        """
        Yields frame numbers and pictures in rounds.

        Args:
            plan_rounds (`Callable`): Called with the numbers of the frames to take; returns them in rounds, ascending
                in each. Called again if the video turns out to have another number of frames.
        """
        if self._is_file:
            frames = iter_frame_rounds(
                self._video, lambda found: plan_rounds(self._choose(found)), **self._make_arguments()
            )
            yield from ((number, torch.from_numpy(picture)) for number, picture in frames)
            return
        self._check_length("To look at a few frames first")
        if len(self._video) == 0:
            raise ValueError("The video has no frames.")
        self.metadata.frames_indices = self.metadata.frames_indices or list(range(len(self._video)))
        for number in itertools.chain(*plan_rounds(self.metadata.frames_indices)):
            yield number, to_picture(self._video[number], self.pixels)

    def _make_arguments(self) -> dict[str, Any]:
        """For the decoder, which gives pictures that are still to be normalised."""
        return PictureTaker(replace(self.pixels, do_rescale=False, do_normalize=False), self._limits).arguments

    def _choose(self, found: TimedVideoMetadata) -> list[int]:
        self.metadata.update(found)
        self.metadata.frames_indices = self._sample(found).tolist()
        return self.metadata.frames_indices

    def _check_length(self, what: str):
        if not (hasattr(self._video, "__len__") and hasattr(self._video, "__getitem__")):
            raise ValueError(f"{what} needs a video with a length, got {type(self._video).__name__}.")


class Prefetcher:
    """
    Runs a generator in a thread that is at most `size` items ahead; what it raises is raised where it is read.

    Args:
        items (`Generator`): What is run.
        size (`int`): Items that wait to be read.
        pauses_after (`Callable`, *optional*): Whether nobody may want what follows an item; it is begun only when it
            is asked for.
    """

    def __init__(self, items: Generator, size: int, pauses_after: Callable[[Any], bool] = lambda item: False):
        self._items, self._pauses_after = items, pauses_after
        self._queue = queue.Queue(size)
        self._is_closed, self._goes_on = threading.Event(), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Iterator:
        self._thread.start()
        return self._read()

    def __exit__(self, *exception):
        self._is_closed.set()
        self._goes_on.release()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()  # the thread may be waiting for a place
        self._thread.join()

    def _run(self):
        try:
            for item in self._items:
                self._put(item, None)
                if self._pauses_after(item):
                    self._goes_on.acquire()
                if self._is_closed.is_set():
                    return
            self._put(None, StopIteration())
        except Exception as error:
            self._put(None, error)
        finally:
            # Here, in the thread that ran it, and at once: it may hold a decoder.
            self._items.close()

    def _put(self, item: Any, error: Exception | None):
        """Waits for a free place, unless nobody reads any more."""
        if not self._is_closed.is_set():
            self._queue.put((item, error))

    def _read(self) -> Iterator:
        while True:
            item, error = self._queue.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
            if self._pauses_after(item):
                self._goes_on.release()
