"""
Live video: frames come one by one, class scores every so many frames.

A stream keeps the features of at most `num_frames` frames, so that the backbone sees each frame once and the memory is
bounded. A prediction is exactly what the model says of the frames that the stream holds, with their positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers.utils import logging

from ..modeling_vtn import VTNForVideoClassification
from ..video_processing_vtn import VTNVideoProcessor
from .whole_video import encode_pictures, is_close, to_scores


logger = logging.get_logger(__name__)

MEMORIES = ("last", "all")


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


class _Stream:
    """The frames that one stream holds."""

    def __init__(self, feature_size: int, device: torch.device, dtype: torch.dtype):
        self.features = torch.empty(0, feature_size, device=device, dtype=dtype)
        self.numbers = torch.empty(0, dtype=torch.long)  # index of each frame held, or its time in frames
        self.times: list[float | None] = []
        self.num_seen = 0
        self.step = 1  # every how many frames one is held
        self.num_repeats = 0
        self.num_size_changes = 0
        self.last_picture: np.ndarray | None = None
        self.last_feature: torch.Tensor | None = None
        self.last_time: float | None = None
        self.first_time: float | None = None


class StreamingClassifier:
    """
    Classifies one or several live streams with one model.

    Args:
        model (`VTNForVideoClassification`): In eval mode.
        processor (`VTNVideoProcessor`): Its.
        num_streams (`int`, *optional*, defaults to 1): Streams that are pushed together.
        num_frames (`int`, *optional*): Frames that a stream holds at most; defaults to `model.config.num_frames`.
        predict_every (`int`, *optional*, defaults to 8): Frames of a stream between two predictions.
        memory (`str`, *optional*, defaults to `"last"`): `"last"` holds the last `num_frames` frames. `"all"` covers
            the stream since its start: each time the memory is full, every other frame is given up, and from then on
            only every other one is taken.
        fps (`float`, *optional*): Frames per second of the videos that the model was trained on. With it and with
            times, the position of a frame is its time, and dropped frames leave a gap; without, frames are counted.
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
    >>> model = VTNForVideoClassification(VTNConfig(backbone_config=backbone, num_attention_heads=4)).eval()
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
        if fps is not None and not fps > 0:
            raise ValueError(f"`fps` must be positive, got {fps}.")
        self.model = model
        self.processor = processor
        self.predict_every = predict_every
        self.memory = memory
        self.fps = fps
        self.repeat_threshold = repeat_threshold
        self._streams = [self._make_stream() for _ in range(num_streams)]

    def _make_stream(self) -> _Stream:
        return _Stream(self.model.vtn.feature_size, self.model.device, self.model.dtype)

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
                runs backwards; the streams are then as before.
        """
        times = [None] * len(self._streams) if times is None else times
        self._check(frames, times)
        self._encode(frames)
        due = []
        for stream, frame, time in zip(self._streams, frames, times, strict=True):
            if frame is None:
                continue
            self._hold(stream, time)
            if stream.num_seen % self.predict_every == 0:
                due.append(stream)
        predictions = iter(self._predict(due) if due else ())
        return [next(predictions) if any(stream is one for one in due) else None for stream in self._streams]

    def predict(self) -> list[StreamPrediction | None]:
        """Class scores of all streams now, due or not; `None` for those without a frame."""
        with torch.no_grad():
            predictions = iter(self._predict([stream for stream in self._streams if stream.num_seen]))
        return [next(predictions) if stream.num_seen else None for stream in self._streams]

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
        return [
            {
                name: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
                for name, value in {**vars(stream), "times": list(stream.times)}.items()
            }
            for stream in self._streams
        ]

    def load_state_dict(self, state: list[dict]):
        """
        Goes on where [`state_dict`] was taken, by a classifier with the same settings and the same model.

        Raises:
            ValueError: If the state is of another number of streams, or of another model.
        """
        if len(state) != len(self._streams):
            raise ValueError(f"The state is of {len(state)} streams, but there are {len(self._streams)}.")
        streams = []
        for values in state:
            if values["features"].shape[1] != self.model.vtn.feature_size:
                raise ValueError(
                    f"The state holds {values['features'].shape[1]} features per frame, but the backbone gives "
                    f"{self.model.vtn.feature_size}."
                )
            stream = self._make_stream()
            vars(stream).update(values, times=list(values["times"]))
            stream.features = stream.features.to(self.model.device)
            if stream.last_picture is not None:
                stream.last_picture = stream.last_picture.numpy()
                stream.last_feature = stream.last_feature.to(self.model.device)
            streams.append(stream)
        self._streams = streams

    def _check(self, frames: Sequence[np.ndarray | None], times: Sequence[float | None]):
        for name, items in (("frames", frames), ("times", times)):
            if len(items) != len(self._streams):
                raise ValueError(f"Got {len(items)} {name} for {len(self._streams)} streams.")
        for index, (stream, frame, time) in enumerate(zip(self._streams, frames, times, strict=True)):
            if frame is None:
                continue
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                raise ValueError(
                    f"Frames must be uint8 of shape (height, width, 3), stream {index} has {frame.dtype} "
                    f"{frame.shape}."
                )
            if stream.num_seen and (time is None) != (stream.last_time is None):
                raise ValueError(f"Stream {index} has frames with times and frames without.")
            if time is not None and stream.last_time is not None and time < stream.last_time:
                raise ValueError(f"Time runs backwards in stream {index}: {time} s after {stream.last_time} s.")

    def _encode(self, frames: Sequence[np.ndarray | None]):
        """Sets each stream's last picture and feature; new pictures of one size share a call of the backbone."""
        groups: dict[tuple, list[tuple[_Stream, np.ndarray]]] = {}
        for index, (stream, frame) in enumerate(zip(self._streams, frames, strict=True)):
            if frame is None or stream.num_seen % stream.step:  # in the latter case it will not be held
                continue
            last = stream.last_picture
            if last is not None and (
                np.array_equal(frame, last)
                or (self.repeat_threshold is not None and is_close(frame, last, self.repeat_threshold))
            ):
                stream.num_repeats += 1
                continue
            if last is not None and frame.shape != last.shape:
                stream.num_size_changes += 1
                (old_height, old_width), (height, width) = last.shape[:2], frame.shape[:2]
                logger.warning(f"Stream {index} changes from {old_width}x{old_height} to {width}x{height}.")
            groups.setdefault(frame.shape, []).append((stream, frame))
        for group in groups.values():
            features = encode_pictures(self.model, self.processor, [frame for _, frame in group])
            for (stream, frame), feature in zip(group, features, strict=True):
                stream.last_picture, stream.last_feature = frame.copy(), feature

    def _hold(self, stream: _Stream, time: float | None):
        """Adds the last frame of a stream to those it holds, and gives up what is too much."""
        number = stream.num_seen
        stream.num_seen += 1
        stream.last_time = time
        if stream.first_time is None:
            stream.first_time = time
        if number % stream.step:
            return
        position = number
        if self.fps is not None and time is not None:
            position = round((time - stream.first_time) * self.fps)
        stream.features = torch.cat([stream.features, stream.last_feature[None]])
        stream.numbers = torch.cat([stream.numbers, torch.tensor([position])])
        stream.times.append(time)
        if len(stream.times) > self.num_frames:
            kept = slice(1, None) if self.memory == "last" else slice(None, None, 2)
            stream.step *= 1 if self.memory == "last" else 2
            stream.features = stream.features[kept].clone()
            stream.numbers = stream.numbers[kept].clone()
            stream.times = stream.times[kept]

    def _predict(self, streams: list[_Stream]) -> list[StreamPrediction]:
        lengths = torch.tensor([len(stream.numbers) for stream in streams])
        mask = None
        if len(set(lengths.tolist())) > 1:
            mask = (torch.arange(lengths.max()) < lengths[:, None]).long().to(self.model.device)
        features = nn.utils.rnn.pad_sequence([stream.features for stream in streams], batch_first=True)
        numbers = [stream.numbers - stream.numbers[:1] for stream in streams]
        position_ids = nn.utils.rnn.pad_sequence(numbers, batch_first=True).to(self.model.device)
        logits = self.model(inputs_embeds=features, position_ids=position_ids, attention_mask=mask).logits
        return [
            StreamPrediction(scores, row, stream.num_seen, stream.times[0], stream.times[-1])
            for stream, row, scores in zip(streams, logits, to_scores(self.model, logits), strict=True)
        ]
