"""What a model looked at: the frames of a video, and how much of the class token's attention fell on each."""

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset

from ..data.feature_cache import CachedClips
from ..data.rows import find_sources
from ..modeling_vtn import VTNForVideoClassification
from ..video_decoding_vtn import VideoSource
from ..video_processing_vtn import VTNVideoProcessor
from .frame_features import VideoFeatures, gather_features
from .scores import to_scores


@dataclass
class Look:
    """
    A video as the model sees it.

    Args:
        pictures (`np.ndarray` of shape `(frames, height, width, 3)`): Resized and cropped, uint8.
        times (`np.ndarray` of shape `(frames,)`): In seconds; in frames, where the video does not tell its rate.
        probabilities (`torch.Tensor` of shape `(classes,)`): Of each class.
        attention (`np.ndarray` of shape `(layers, heads, frames)`): The class token's, without that to itself.
        places (`np.ndarray` of shape `(frames, rows, columns)`, *optional*): Of a model with a grid, how much of that
            falls on each place, averaged over layers and heads.
        inputs (`dict`): What the model got: `pixel_values`, `position_ids`.
        video (`VideoFeatures`): The features of the frames.
    """

    pictures: np.ndarray
    times: np.ndarray
    probabilities: torch.Tensor
    attention: np.ndarray
    places: np.ndarray | None
    inputs: dict[str, torch.Tensor]
    video: VideoFeatures

    @property
    def mean_attention(self) -> np.ndarray:
        """`(frames,)`: averaged over layers and heads."""
        return self.attention.mean(axis=(0, 1))

    def choose_frames(self, num_frames: int) -> np.ndarray:
        """The numbers of the most attended frames in `num_frames` equal parts of the video, ascending; or of all."""
        parts = np.array_split(np.arange(len(self.times)), min(num_frames, len(self.times)))
        return np.array([part[self.mean_attention[part].argmax()] for part in parts])


@torch.no_grad()
def look_at(
    model: VTNForVideoClassification,
    processor: VTNVideoProcessor,
    video: VideoSource,
    features: torch.Tensor | None = None,
) -> Look:
    """
    Classifies a whole video and keeps what the class token attended to.

    Args:
        model (`VTNForVideoClassification`): In evaluation mode.
        processor (`VTNVideoProcessor`): The model's.
        video (`str`, `bytes` or `os.PathLike`): The video.
        features (`torch.Tensor` of shape `(frames, backbone features)`, *optional*): Of the frames that the processor
            takes, if they are known, as from [`CachedClips`]; else the backbone computes them.

    Raises:
        VideoDecodeError: If the video cannot be decoded.
        ValueError: If there are not as many features as frames.
    """
    batch = processor(video, return_tensors="pt", return_metadata=True)
    metadata = batch.pop("video_metadata")[0]
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
    num_frames = len(metadata.frames_indices)
    if features is None:
        features = model.vtn.get_frame_features(inputs["pixel_values"])[0]
    elif len(features) != num_frames:
        raise ValueError(f"There are {num_frames} frames, but features of {len(features)}.")
    features = features.to(model.device, model.dtype)
    outputs = model(inputs_embeds=features[None], position_ids=inputs["position_ids"], output_attentions=True)
    # (layers, heads, frames, tokens of a frame)
    attention = torch.stack(outputs.global_attentions)[:, 0, :, 1:].float().cpu().unflatten(-1, (num_frames, -1))
    return Look(
        pictures=_to_pictures(processor, batch["pixel_values"][0]),
        times=np.asarray(metadata.timestamps if metadata.fps else metadata.frames_indices, dtype=float),
        probabilities=to_scores(model, outputs.logits[0].float()).cpu(),
        attention=attention.sum(dim=-1).numpy(),
        places=_find_places(attention, outputs.pooling_attentions, model.config.frame_grid),
        inputs=inputs,
        video=gather_features(features, list(range(num_frames)), metadata),
    )


def _find_places(
    attention: torch.Tensor, pooling: tuple[torch.Tensor, ...] | None, frame_grid: int | None
) -> np.ndarray | None:
    """From attention `(layers, heads, frames, tokens)`, and that of the pooling, if any, to the tokens of a frame."""
    if frame_grid is None:
        return None
    tokens = attention.mean(dim=(0, 1))
    if pooling is not None:
        tokens = tokens * pooling[0][0].float().cpu().mean(dim=1)
    # The first token is the pooled vector, which is of no place.
    return tokens[:, 1:].unflatten(1, (frame_grid, frame_grid)).numpy()


def look_at_example(
    model: VTNForVideoClassification, processor: VTNVideoProcessor, dataset: Dataset | CachedClips, index: int
) -> Look:
    """[`look_at`] one video of a collection, or of cached features, whose videos must still be where they were."""
    if isinstance(dataset, CachedClips):
        return look_at(model, processor, dataset.sources[index], dataset[index]["inputs_embeds"])
    [source] = find_sources(dataset.with_format(None)[index : index + 1])
    return look_at(model, processor, source)


def _to_pictures(processor: VTNVideoProcessor, pixel_values: torch.Tensor) -> np.ndarray:
    """Undoes the normalisation: `(frames, 3, height, width)` to uint8 `(frames, height, width, 3)`."""
    if processor.do_normalize:
        mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
        pixel_values = pixel_values * std + mean
    if processor.do_rescale:
        pixel_values = pixel_values / processor.rescale_factor
    return pixel_values.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
