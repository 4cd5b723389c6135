"""
Multi-view evaluation: several clips of a video and several crops of each, whose class probabilities are averaged.

This is how models with a fixed number of frames are tested, and what a VTN on the whole video is compared with. A
frame that is part of several clips goes through the backbone once per crop.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..data.clip_sampling import sample_clips
from ..modeling_vtn import VTNForVideoClassification
from ..optimization import optimize_once
from ..video_decoding_vtn import TimedVideoMetadata, VideoDecodeError, VideoSource
from ..video_processing_vtn import VTNVideoProcessor, load_video
from .scores import to_scores


@dataclass(frozen=True)
class MultiView:
    """
    Which views of a video are taken.

    Args:
        num_clips (`int`, *optional*, defaults to 10): Clips, spread over the video: the first begins with it, the last
            ends with it. A single clip is the central one.
        num_crops (`int`, *optional*, defaults to 3): Square crops of each frame, spread over its longer side. A single
            crop is the central one.
        num_frames (`int`, *optional*, defaults to 16): Frames of a clip.
        clip_duration_sec (`float`, *optional*, defaults to 2.56): Length of a clip in seconds; `None` is the whole
            video, of which all clips are then the same.
    """

    num_clips: int = 10
    num_crops: int = 3
    num_frames: int = 16
    clip_duration_sec: float | None = 2.56

    def __post_init__(self):
        for name in ("num_clips", "num_crops", "num_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.clip_duration_sec is None and self.num_clips > 1:
            raise ValueError(f"{self.num_clips} clips of the whole video would all be the same; give their duration.")

    def load(self, source: VideoSource, processor: VTNVideoProcessor) -> dict[str, torch.Tensor]:
        """
        Decodes the frames of all views, each once.

        Args:
            source (`VideoSource`): Path, URL, bytes or binary file.
            processor (`VTNVideoProcessor`): Gives the pixels; its `crop_size` is the size of a crop.

        Returns:
            `dict`: `pixel_values` of shape `(num_crops, distinct frames, 3, height, width)`; `frames` of shape
            `(num_clips, num_frames)`, which of the distinct frames each clip consists of; `position_ids` of the same
            shape, the index of each frame counted from the start of its clip, as in training.

        Raises:
            VideoDecodeError: If the video cannot be decoded, or does not tell its frame rate though clips have a
                duration.
        """
        pixels = processor.pixel_settings
        # Whole pictures, of which the crops are taken.
        whole = replace(
            pixels, do_center_crop=False, do_rescale=False, do_normalize=False, do_flip_channel_order=False
        )
        pictures, metadata = load_video(
            source, lambda metadata: np.unique(self.sample(metadata)), whole, processor.limits
        )
        clips = self.sample(metadata)
        crop, (height, width) = replace(pixels, do_resize=False), pictures.shape[-2:]
        places = [0.5] if self.num_crops == 1 else np.linspace(0, 1, self.num_crops)
        crops = [crop.take(pictures, crop.view(height, width, position)) for position in places]
        return {
            "pixel_values": pixels.normalize(torch.stack(crops)),
            "frames": torch.from_numpy(np.searchsorted(metadata.frames_indices, clips)),
            "position_ids": torch.from_numpy(clips - clips[:, :1]),
        }

    def sample(self, metadata: TimedVideoMetadata) -> np.ndarray:
        """The frame numbers of each clip, `(num_clips, num_frames)`."""
        total = metadata.total_num_frames
        if self.clip_duration_sec is None:
            return sample_clips(total, self.num_clips, self.num_frames, span=total)
        if metadata.fps is None:
            raise VideoDecodeError("Clips of some seconds need the frame rate of the video, which it does not tell.")
        span = self.clip_duration_sec * metadata.fps
        return sample_clips(total, self.num_clips, self.num_frames, span, metadata.frame_times)


@torch.no_grad()
def score_views(
    model: VTNForVideoClassification, views: dict[str, torch.Tensor], *, optimize: bool = True
) -> torch.Tensor:
    """
    Class probabilities of a video, averaged over its views.

    Args:
        model ([`VTNForVideoClassification`]): In eval mode.
        views (`dict`): What [`MultiView.load`] gives, on the device of the model.
        optimize (`bool`, *optional*, defaults to `True`): Whether to compute with `vtn_hf.optimize(model)`.

    Returns:
        `torch.Tensor` of shape `(num_labels,)`: The mean of the softmax (of the sigmoid, for a multi-label model).
    """
    model = optimize_once(model) if optimize else model
    features = model.vtn.get_frame_features(views["pixel_values"])
    # (crops, clips, frames, features) to (crops * clips, frames, features)
    features = features[:, views["frames"]].flatten(0, 1)
    position_ids = views["position_ids"].repeat(len(views["pixel_values"]), 1)
    return to_scores(model, model(inputs_embeds=features, position_ids=position_ids).logits).mean(dim=0)
