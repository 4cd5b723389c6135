"""
Classification within the engines that process tables on many machines: Ray Data, Spark, Daft.

[`VideoScorer`] is a plain callable from a batch of rows to a batch of rows, and needs none of them:

    ray.data.read_parquet("videos.parquet").map_batches(
        VideoScorer, fn_constructor_args=["RUN"], compute=ray.data.ActorPoolStrategy(size=8), batch_size=16
    ).write_parquet("scores")
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..data.rows import find_source
from ..modeling_vtn import VTNForVideoClassification
from ..video_decoding_vtn import VideoDecodeError, VideoSource
from ..video_processing_vtn import VTNVideoProcessor
from .frame_features import encode_video
from .whole_video import classify_video


class VideoScorer:
    """
    Classifies the videos of a batch of rows, and adds the results as columns. A video that cannot be read costs its
    own row only: its `error` says why, and the other new columns are empty there.

    Args:
        model (`str`): A VTN with its processor: a folder that all machines can read, or a repository on the Hub.
        column (`str`, *optional*, defaults to `"path"`): Holds the videos: paths, URLs, or the bytes of files. Where
            there are columns `start_sec` and `end_sec`, a row is this part of its video.
        features (`bool`, *optional*, defaults to `False`): Give the features of the frames instead of scores.
        device (`str`, *optional*): Where to compute; defaults to an accelerator if there is one.
        dtype (`str`, *optional*, defaults to `"float32"`): Numbers to compute with, such as `"bfloat16"`.
        kwargs: As in [`classify_video`], or [`encode_video`] for features: `num_frames`, `fps`, `confidence`, …

    Example:

    ```python
    scorer = VideoScorer("RUN", num_frames=250)
    scorer({"path": ["a.mp4", "b.mp4"]})["label"]           # array(["running", "walking"])
    ```
    """

    def __init__(
        self,
        model: str,
        column: str = "path",
        features: bool = False,
        device: str | None = None,
        dtype: str = "float32",
        **kwargs,
    ):
        device = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
        self.model = VTNForVideoClassification.from_pretrained(model, dtype=dtype).to(device).eval()
        self.processor = VTNVideoProcessor.from_pretrained(model)
        self.column = column
        self.features = features
        self.kwargs = kwargs

    def __call__(self, rows: Mapping[str, Sequence]) -> dict[str, np.ndarray]:
        """
        Args:
            rows (`Mapping[str, Sequence]`): Columns of equal length, such as a batch of Ray Data in the format
                `"numpy"`, or a pandas `DataFrame`.

        Returns:
            `dict[str, np.ndarray]`: These columns, and `label` and `score`, the best class; `scores` of all classes in
            the order of the model's labels, a list; `frames`, how many were looked at; or with `features` these,
            float32 of shape `(frames, features)`, or with a grid `(frames, tokens, features)`, `frame_numbers` and
            `frame_times` (seconds); and `error`.
        """
        columns = {name: list(rows[name]) for name in rows}
        videos = columns[self.column]
        segments = zip(*(columns.get(name, [None] * len(videos)) for name in ("start_sec", "end_sec")), strict=True)
        results = [self._try(video, *segment) for video, segment in zip(videos, segments, strict=True)]
        columns |= {name: [result[name] for result in results] for name in self._empty}
        return {name: _to_array(values) for name, values in columns.items()}

    @property
    def _empty(self) -> dict[str, Any]:
        """What is added to a row whose video cannot be read."""
        nothing = np.zeros(0, np.float32)
        if self.features:
            added = {
                "features": nothing.reshape(0, *self.model.vtn.feature_shape),
                "frame_numbers": nothing.astype(np.int64),
                "frame_times": nothing,
            }
        else:
            added = {"label": "", "score": float("nan"), "scores": [], "frames": 0}
        return added | {"error": ""}

    def _try(self, video: Any, start_sec: float | None, end_sec: float | None) -> dict[str, Any]:
        try:
            source = find_source(video, "", start_sec, end_sec)
        except ValueError as error:  # nothing that could be a video
            return self._empty | {"error": str(error)}
        try:
            return self._empty | (self._encode(source) if self.features else self._classify(source))
        except (VideoDecodeError, OSError, MemoryError) as error:
            return self._empty | {"error": str(error) or type(error).__name__}

    def _classify(self, source: VideoSource) -> dict[str, Any]:
        result = classify_video(self.model, self.processor, source, **self.kwargs)
        score, label = result.scores.max(dim=0)
        return {
            "label": self.model.config.id2label[label.item()],
            "score": score.item(),
            "scores": result.scores.tolist(),
            "frames": result.num_frames_seen,
        }

    def _encode(self, source: VideoSource) -> dict[str, Any]:
        video = encode_video(self.model, self.processor, source, **self.kwargs)
        times = np.full(len(video.features), np.nan) if video.times is None else video.times.numpy()
        return {
            "features": video.features.float().cpu().numpy(),
            "frame_numbers": video.frame_numbers.numpy(),
            "frame_times": times.astype(np.float32),
        }


def _to_array(values: list) -> np.ndarray:
    """
    An array with one entry per row. Lists, arrays and bytes stay objects: NumPy would stack the former and strip zeros
    from the end of the latter.
    """
    if all(isinstance(value, (str, float, int)) for value in values):
        return np.array(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
