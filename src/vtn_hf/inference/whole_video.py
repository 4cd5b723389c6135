"""
Videos of any length: from a file to scores for the whole and for its parts, in memory that holds no more than a chunk
of pixels.

A thread decodes while the backbone computes; each different picture goes through the backbone once; the temporal
encoder then reads the features of all frames, or of as many as it takes to be certain, and those of windows of them
for a timeline.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from ..modeling_vtn import VTNForVideoClassification
from ..optimization import optimize_once
from ..video_decoding_vtn import VideoSource
from ..video_processing_vtn import VTNVideoProcessor
from .anytime import StopRule, classify_until_certain
from .frame_features import VideoFeatures, encode_video
from .scores import to_scores


_WINDOWS_PER_BATCH = 8


@dataclass
class Segment:
    """
    A part of a video and its scores.

    Args:
        first_frame, last_frame (`int`): Numbers in the video, both included.
        start_sec, end_sec (`float`, *optional*): When it begins and ends, by the timestamps of the frames, if known.
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
        stopped (`str`): Why no more frames were looked at: `"all frames"` were seen, the answer was `"certain"`, or
            the `"time"` was up.
    """

    logits: torch.Tensor
    scores: torch.Tensor
    timeline: list[Segment]
    video: VideoFeatures
    stopped: str = "all frames"

    @property
    def num_frames_seen(self) -> int:
        """How many frames were looked at."""
        return len(self.video.features)


def classify_video(
    model: VTNForVideoClassification,
    processor: VTNVideoProcessor,
    video: VideoSource | Iterable[np.ndarray],
    *,
    confidence: float | str | None = None,
    max_seconds: float | None = None,
    min_frames: int | None = None,
    calibrated: bool = False,
    window: int | None = None,
    stride: int | None = None,
    optimize: bool = True,
    **kwargs,
) -> VideoClassification:
    """
    Classifies a video of any length, as a whole and over time.

    With `confidence` or `max_seconds`, it looks at a few frames spread over the video first, then at those between
    them, twice as many at every other look, and keeps what it has seen. It stops as soon as two consecutive looks
    agree and are certain, or the time is up.

    Args:
        model (`VTNForVideoClassification`): In eval mode.
        processor (`VTNVideoProcessor`): The model's.
        video: As in [`encode_video`]; frames must be a sequence to be looked at in another order.
        confidence (`float` or `str`, *optional*): Score, by the model's calibrated temperature, from which a look is
            certain; at 1.0 it never is. `"stored"` is the one that `vtn evaluate --calibrate` found for this model.
        max_seconds (`float`, *optional*): Seconds from the call on, kept to within a frame; `min_frames` frames
            are looked at in any case.
        min_frames (`int`, *optional*): Frames of the first look; defaults to 8, and for `confidence="stored"` to what
            was found with it.
        calibrated (`bool`, *optional*, defaults to `False`): Whether the scores go by that temperature, too.
        window (`int`, *optional*): Frames that the scores at one time are computed from, as if they were a video of
            their own; defaults to `model.config.num_frames`.
        stride (`int`, *optional*): Frames between windows; defaults to half a window.
        optimize (`bool`, *optional*, defaults to `True`): Whether to compute with `vtn_hf.optimize(model)`.
        kwargs: As in [`encode_video`].

    Raises:
        VideoDecodeError: If the video cannot be decoded.
        ValueError: If an argument is wrong, or there are no frames.
    """
    rule = StopRule.of_model(model, confidence, max_seconds, min_frames)
    model = optimize_once(model) if optimize else model
    if rule.may_stop:
        features, logits, stopped = classify_until_certain(model, processor, video, rule, **kwargs)
    else:
        features, stopped = encode_video(model, processor, video, optimize=optimize, **kwargs), "all frames"
        logits = features.classify(model)
    timeline = make_timeline(model, features, window=window, stride=stride, calibrated=calibrated, logits=logits)
    return VideoClassification(logits, to_scores(model, logits, calibrated), timeline, features, stopped)


@torch.no_grad()
def make_timeline(
    model: VTNForVideoClassification,
    video: VideoFeatures,
    *,
    window: int | None = None,
    stride: int | None = None,
    calibrated: bool = False,
    logits: torch.Tensor | None = None,
) -> list[Segment]:
    """
    Says which class when, from windows over features that are there already.

    Args:
        model, window, stride, calibrated: As in [`classify_video`].
        video (`VideoFeatures`): What [`encode_video`] gives.
        logits (`torch.Tensor` of shape `(num_labels,)`, *optional*): Of all its frames, if they are known already.

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
    window_starts = list(range(0, total - window, stride)) + [total - window]
    numbers = video.frame_numbers.tolist()
    if logits is None or window < total or numbers[0] != 0:
        window_logits = _classify_windows(model, video, window_starts, window)
    else:  # what the only window would give
        window_logits = logits[None]
    scores = to_scores(model, window_logits, calibrated)
    # Half way between the middles of two windows is half way between their starts, half a window later.
    borders = [0, *((a + b + window) // 2 for a, b in zip(window_starts[:-1], window_starts[1:], strict=True)), total]
    ends = [numbers[border] if border < total else numbers[-1] + 1 for border in borders]
    seconds = [video.starts[border] for border in borders]
    return [
        Segment(ends[i], ends[i + 1] - 1, seconds[i], seconds[i + 1], window_scores)
        for i, window_scores in enumerate(scores)
    ]


def _classify_windows(
    model: VTNForVideoClassification, video: VideoFeatures, starts: list[int], window: int
) -> torch.Tensor:
    """Logits `(windows, num_labels)` of the windows of `window` frames that begin at `starts`."""
    logits = []
    for first in range(0, len(starts), _WINDOWS_PER_BATCH):
        index = torch.tensor(starts[first : first + _WINDOWS_PER_BATCH])[:, None] + torch.arange(window)
        numbers = video.frame_numbers[index]
        position_ids = (numbers - numbers[:, :1]).to(model.device)
        logits.append(model(inputs_embeds=video.features[index], position_ids=position_ids).logits)
    return torch.cat(logits)
