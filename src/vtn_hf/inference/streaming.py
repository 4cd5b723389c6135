"""
Live video: frames come one by one, class scores every so many frames.

A stream keeps the features of at most `num_frames` frames, so that the backbone sees each frame once and the memory is
bounded. A prediction is exactly what the model says of the frames that the stream holds, with their positions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Real

import numpy as np
import torch
from torch import nn
from transformers.utils import logging

from ..modeling_vtn import VTNForVideoClassification
from ..optimization import optimize_once
from ..video_processing_vtn import VTNVideoProcessor
from .frame_features import check_frame, encode_pictures, to_picture
from .repeats import RepeatFinder
from .scores import to_scores


logger = logging.get_logger(__name__)

MEMORIES = ("last", "all")

# Three thousand years: a later time is in another unit, such as milliseconds, and no frame could follow it.
_MAX_SECONDS = 1e11


@dataclass
class StreamPrediction:
    """
    Class scores of one stream.

    Args:
        scores (`torch.Tensor` of shape `(num_labels,)`): Softmax, or sigmoid for several labels per video.
        logits (`torch.Tensor` of shape `(num_labels,)`): What they are computed from.
        num_frames_seen (`int`): Frames of the stream so far.
        start_sec, end_sec (`float`, *optional*): Times of the first and the last frame that the scores are about, if
            the frames came with times.
    """

    scores: torch.Tensor
    logits: torch.Tensor
    num_frames_seen: int
    start_sec: float | None
    end_sec: float | None


@dataclass
class _Stream:
    """
    What one stream holds. It is never changed, only replaced, so that an error leaves the stream as it was.

    Args:
        features (`torch.Tensor` of shape `(frames, features)`): Of the frames held.
        numbers (`torch.LongTensor` of shape `(frames,)`): Index of each frame held, or its time in frames.
        times (`tuple[float | None]`): Seconds of each frame held.
        num_seen (`int`): Frames pushed.
        step (`int`): Every how many frames one is held.
        num_repeats, num_size_changes (`int`): Of the frames looked at.
        size (`tuple[int, int]`, *optional*): Height and width of the last frame looked at.
        last_picture (`torch.Tensor` of shape `(3, height, width)`, *optional*): The last one that was encoded.
        last_feature (`torch.Tensor` of shape `(features,)`, *optional*): What the backbone made of it.
        first_time, last_time (`float`, *optional*): Seconds of the first and the last frame pushed.
    """

    features: torch.Tensor
    numbers: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    times: tuple[float | None, ...] = ()
    num_seen: int = 0
    step: int = 1
    num_repeats: int = 0
    num_size_changes: int = 0
    size: tuple[int, int] | None = None
    last_picture: torch.Tensor | None = None
    last_feature: torch.Tensor | None = None
    first_time: float | None = None
    last_time: float | None = None

    def check(self, feature_shape: tuple[int, ...], max_frames: int):
        """Raises `ValueError` for what no stream of features of this shape could hold."""
        held = len(self.times) if isinstance(self.times, (tuple, list)) else -1
        counts = (self.num_seen, self.step, self.num_repeats, self.num_size_changes)
        last = (self.last_picture, self.last_feature)
        is_whole = (
            torch.is_tensor(self.features)
            and self.features.is_floating_point()
            and torch.is_tensor(self.numbers)
            and self.numbers.dtype == torch.long
            and self.numbers.shape == (held,)
            and bool((self.numbers.diff() >= 0).all())
            and all(isinstance(count, int) and count >= 0 for count in counts)
            and self.step > 0
            and held <= self.num_seen
            and (last == (None, None) if self.num_seen == 0 else all(map(torch.is_tensor, last)))
            and (self.num_seen == 0 or (last[0].ndim == 3 and last[1].shape == self.features.shape[1:]))
        )
        if not is_whole:
            raise ValueError("The state of a stream is damaged: its parts do not fit together.")
        if self.features.shape != (held, *feature_shape):
            got, expected = (" x ".join(map(str, shape)) for shape in (self.features.shape[1:], feature_shape))
            raise ValueError(
                f"The state holds {got} features per frame, but the backbone gives {expected}."
                if len(self.features) == held
                else f"The state of a stream is damaged: {len(self.features)} features of {held} frames."
            )
        if held > max_frames:
            raise ValueError(f"The state holds {held} frames, but `num_frames` is {max_frames}.")
        times = [time for time in (*self.times, self.first_time, self.last_time) if time is not None]
        if not (self.features.isfinite().all() and all(map(_is_time, times))):
            raise ValueError("The state of a stream is damaged: features or times are no finite numbers.")


class StreamingClassifier:
    """
    Classifies one or several live streams with one model.

    Args:
        model (`VTNForVideoClassification`): In eval mode.
        processor (`VTNVideoProcessor`): The model's.
        num_streams (`int`, *optional*, defaults to 1): Streams that are pushed together.
        num_frames (`int`, *optional*): Frames that a stream holds at most; defaults to `model.config.num_frames`.
        predict_every (`int`, *optional*, defaults to 8): Frames of a stream between two predictions.
        memory (`str`, *optional*, defaults to `"last"`): `"last"` holds the last `num_frames` frames. `"all"` covers
            the stream since its start: each time the memory is full, every other frame is given up, and from then on
            only every other one is taken.
        fps (`float`, *optional*): Frames per second of the videos that the model was trained on. With it and with
            times, the position of a frame is its time, and dropped frames leave a gap; without, frames are counted.
        optimize (`bool`, *optional*, defaults to `True`): Whether to compute with `vtn_hf.optimize(model)`.
        repeat_threshold (`float`, *optional*): As in [`encode_video`]. A frame with the very pixels of the one before
            shares its features in any case.

    Raises:
        ValueError: If an argument is wrong.

    Example:

    ```python
    >>> import numpy as np
    >>> from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor
    >>> from vtn_hf.inference.streaming import StreamingClassifier

    >>> backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 16, 24]}
    >>> model = VTNForVideoClassification(VTNConfig(backbone_config=backbone)).eval()
    >>> stream = StreamingClassifier(model, VTNVideoProcessor(), predict_every=4)
    >>> for number in range(8):
    ...     [prediction] = stream.push([np.full((120, 160, 3), number, dtype=np.uint8)], [number / 25])
    >>> prediction.num_frames_seen, prediction.end_sec, prediction.scores.shape
    (8, 0.28, torch.Size([2]))

    ```"""

    def __init__(
        self,
        model: VTNForVideoClassification,
        processor: VTNVideoProcessor,
        *,
        num_streams: int = 1,
        num_frames: int | None = None,
        predict_every: int = 8,
        memory: str = "last",
        fps: float | None = None,
        repeat_threshold: float | None = None,
        optimize: bool = True,
    ):
        if model.training:
            raise ValueError("The model is in training mode; call `model.eval()` first.")
        self.num_frames = model.config.num_frames if num_frames is None else num_frames
        for name, number, least in (
            ("num_streams", num_streams, 1),
            ("num_frames", self.num_frames, 2),
            ("predict_every", predict_every, 1),
        ):
            if number < least:
                raise ValueError(f"`{name}` must be at least {least}, got {number}.")
        if memory not in MEMORIES:
            raise ValueError(f"`memory` must be one of {', '.join(MEMORIES)}, got {memory!r}.")
        if fps is not None and not 0 < fps < math.inf:
            raise ValueError(f"`fps` must be positive, got {fps}.")
        self.model = model
        self.optimize = optimize
        self.processor = processor
        self.predict_every = predict_every
        self.memory = memory
        self.fps = fps
        self.repeat_threshold = repeat_threshold
        RepeatFinder(repeat_threshold)  # checks it
        self._streams = [self._make_stream() for _ in range(num_streams)]

    @property
    def _faster_model(self) -> VTNForVideoClassification:
        return optimize_once(self.model) if self.optimize else self.model

    @property
    def _feature_shape(self) -> tuple[int, ...]:
        return self.model.vtn.feature_shape

    def _make_stream(self) -> _Stream:
        return _Stream(torch.empty(0, *self._feature_shape, device=self.model.device, dtype=self.model.dtype))

    def reset(self, index: int = 0):
        """Forgets everything about one stream, as when its source starts anew."""
        self._streams[index] = self._make_stream()

    @torch.no_grad()
    def push(
        self, frames: Sequence[np.ndarray | None], times: Sequence[float | None] | None = None
    ) -> list[StreamPrediction | None]:
        """
        Takes the next frame of each stream.

        Args:
            frames (`Sequence`): One per stream, uint8 RGB of shape `(height, width, 3)`, or `None` if a stream has
                none now. The size may differ between streams and may change.
            times (`Sequence[float]`, *optional*): Of each frame, in seconds; not before that of the frame before.

        Returns:
            `list`: A [`StreamPrediction`] for each stream that is due, `None` for the others.

        Raises:
            ValueError: If there are more or fewer frames than streams, a frame has another shape or dtype, or a time
                is no finite number of seconds or runs backwards. Whatever is raised, the streams are as before.
        """
        times = [None] * len(self._streams) if times is None else times
        self._check(frames, times)
        streams = self._look(frames)
        streams = [
            stream if frame is None else self._hold(stream, time)
            for stream, frame, time in zip(streams, frames, times, strict=True)
        ]
        is_due = [
            frame is not None and stream.num_seen % self.predict_every == 0
            for stream, frame in zip(streams, frames, strict=True)
        ]
        predictions = self._predict(streams, is_due)
        self._streams = streams
        return predictions

    def predict(self) -> list[StreamPrediction | None]:
        """Class scores of all streams now, due or not; `None` for those without a frame."""
        with torch.no_grad():
            return self._predict(self._streams, [stream.num_seen > 0 for stream in self._streams])

    def get_inputs(self, index: int = 0) -> dict[str, torch.Tensor]:
        """`inputs_embeds` and `position_ids` of what one stream holds, as the model takes them."""
        stream = self._streams[index]
        numbers = stream.numbers - stream.numbers[:1]
        return {"inputs_embeds": stream.features[None], "position_ids": numbers.to(self.model.device)[None]}

    def get_statistics(self, index: int = 0) -> dict[str, int]:
        """Counts of one stream: frames seen, held and repeated, and changes of the picture's size."""
        stream = self._streams[index]
        return {
            "seen": stream.num_seen,
            "held": len(stream.numbers),
            "repeated": stream.num_repeats,
            "size_changes": stream.num_size_changes,
        }

    def state_dict(self) -> list[dict]:
        """All that the streams hold, to be saved with `torch.save` and loaded again with `weights_only=True`."""
        return [vars(stream).copy() for stream in self._streams]

    def load_state_dict(self, state: list[dict]):
        """
        Goes on where [`state_dict`] was taken, by a classifier with the same settings and the same model.

        Raises:
            ValueError: If the state is of another number of streams, of another model, or damaged; the streams are
                then as before.
        """
        if len(state) != len(self._streams):
            raise ValueError(f"The state is of {len(state)} streams, but there are {len(self._streams)}.")
        names = {each.name for each in fields(_Stream)}
        streams = []
        for values in state:
            if values.keys() != names:
                difference = sorted(values.keys() ^ names)
                raise ValueError(f"The state of a stream holds {sorted(names)}, this one differs in {difference}.")
            stream = _Stream(**values)
            stream.check(self._feature_shape, self.num_frames)
            last = stream.last_feature
            streams.append(
                replace(
                    stream,
                    features=stream.features.to(self.model.device, self.model.dtype),
                    last_feature=None if last is None else last.to(self.model.device, self.model.dtype),
                )
            )
        self._streams = streams

    def _check(self, frames: Sequence[np.ndarray | None], times: Sequence[float | None]):
        for name, items in (("frames", frames), ("times", times)):
            if len(items) != len(self._streams):
                raise ValueError(f"Got {len(items)} {name} for {len(self._streams)} streams.")
        for index, (stream, frame, time) in enumerate(zip(self._streams, frames, times, strict=True)):
            if frame is None:
                continue
            check_frame(frame, f"stream {index}")
            if stream.num_seen and (time is None) != (stream.last_time is None):
                raise ValueError(f"Stream {index} has frames with times and frames without.")
            if time is None:
                continue
            if not _is_time(time):
                raise ValueError(
                    f"Times must be seconds, finite and below {_MAX_SECONDS:g}, stream {index} has {time!r}."
                )
            if stream.last_time is not None and time < stream.last_time:
                raise ValueError(f"Time runs backwards in stream {index}: {time} s after {stream.last_time} s.")

    def _look(self, frames: Sequence[np.ndarray | None]) -> list[_Stream]:
        """Returns the streams with their newest picture and its feature; new pictures share a call of the backbone."""
        pixels = self.processor.pixel_settings
        streams = list(self._streams)
        new: dict[torch.Size, list[tuple[int, torch.Tensor]]] = {}
        for index, (stream, frame) in enumerate(zip(self._streams, frames, strict=True)):
            if frame is None or stream.num_seen % stream.step:  # in the latter case it will not be held
                continue
            size, picture = frame.shape[:2], to_picture(frame, pixels)
            finder = RepeatFinder(self.repeat_threshold, stream.last_picture)
            is_new = finder.find(picture)[1]
            if is_new:
                new.setdefault(picture.shape, []).append((index, picture))
            has_changed = stream.size is not None and size != stream.size
            if has_changed:
                (old_height, old_width), (height, width) = stream.size, size
                logger.warning(f"Stream {index} changes from {old_width}x{old_height} to {width}x{height}.")
            streams[index] = replace(
                stream,
                size=size,
                num_repeats=stream.num_repeats + (not is_new),
                num_size_changes=stream.num_size_changes + has_changed,
            )
        for group in new.values():
            features = encode_pictures(self._faster_model, pixels, [picture for _, picture in group])
            for (index, picture), feature in zip(group, features, strict=True):
                streams[index] = replace(streams[index], last_picture=picture, last_feature=feature)
        return streams

    def _hold(self, stream: _Stream, time: float | None) -> _Stream:
        """Returns the stream with its newest frame among those it holds, and without those that are too many."""
        number = stream.num_seen
        first_time = time if stream.num_seen == 0 else stream.first_time
        seen = replace(stream, num_seen=number + 1, first_time=first_time, last_time=time)
        if number % stream.step:
            return seen
        position = number
        if self.fps is not None and time is not None:
            position = round((time - first_time) * self.fps)
        features = torch.cat([stream.features, stream.last_feature[None]])
        numbers = torch.cat([stream.numbers, torch.tensor([position])])
        times, step = (*stream.times, time), stream.step
        if len(times) > self.num_frames:
            kept = slice(1, None) if self.memory == "last" else slice(None, None, 2)
            step *= 1 if self.memory == "last" else 2
            features, numbers, times = features[kept].clone(), numbers[kept].clone(), times[kept]
        return replace(seen, features=features, numbers=numbers, times=times, step=step)

    def _predict(self, streams: list[_Stream], is_due: list[bool]) -> list[StreamPrediction | None]:
        """Predictions of the streams that are due, `None` for the others."""
        due = [stream for stream, is_one in zip(streams, is_due, strict=True) if is_one]
        if not due:
            return [None] * len(streams)
        lengths = torch.tensor([len(stream.numbers) for stream in due])
        mask = None
        if len(set(lengths.tolist())) > 1:
            mask = (torch.arange(lengths.max()) < lengths[:, None]).long().to(self.model.device)
        features = nn.utils.rnn.pad_sequence([stream.features for stream in due], batch_first=True)
        numbers = [stream.numbers - stream.numbers[:1] for stream in due]
        position_ids = nn.utils.rnn.pad_sequence(numbers, batch_first=True).to(self.model.device)
        logits = self._faster_model(inputs_embeds=features, position_ids=position_ids, attention_mask=mask).logits
        rows = zip(due, logits, to_scores(self.model, logits), strict=True)
        predictions = (
            StreamPrediction(scores, row, stream.num_seen, stream.times[0], stream.times[-1])
            for stream, row, scores in rows
        )
        return [next(predictions) if is_one else None for is_one in is_due]


def _is_time(time: float) -> bool:
    return isinstance(time, Real) and not isinstance(time, bool) and math.isfinite(time) and abs(time) < _MAX_SECONDS
