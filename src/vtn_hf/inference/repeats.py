"""Finding repeats (still pictures, slides, frames sampled twice), so that each goes through the backbone once."""

import hashlib

import numpy as np
import torch
from transformers.modeling_utils import PreTrainedModel


class RepeatFinder:
    """
    Numbers the different pictures of a video.

    Args:
        threshold (`float`, *optional*): Also take a picture for a repeat of the last different one if their pixels
            differ by no more than this on average, in levels of 255. Off by default, as it is not exact.
        last (`torch.Tensor` of shape `(3, height, width)`, *optional*): The picture before the first one to be found.

    Raises:
        ValueError: If `threshold` is negative or no number.
    """

    def __init__(self, threshold: float | None = None, last: torch.Tensor | None = None):
        if threshold is not None and not threshold >= 0:
            raise ValueError(f"`repeat_threshold` must not be negative, got {threshold}.")
        self._threshold = threshold
        self._last: torch.Tensor | None = None
        self._num_different = 0
        self._numbers: dict[bytes, int] = {}
        if last is not None:
            self.find(last)

    def find(self, picture: torch.Tensor) -> tuple[int, bool]:
        """
        Returns the number of a picture `(3, height, width)` among the different ones, which repeats share, and whether
        it is new.
        """
        # Equal pictures have equal digests; two different pictures with equal ones are not known to exist.
        content = hashlib.blake2b(repr(picture.shape).encode(), digest_size=16)
        content.update(np.ascontiguousarray(picture.numpy()).data)
        digest = content.digest()
        number = self._numbers.get(digest)
        is_new = number is None and not self._is_near_last(picture)
        if is_new:
            number, self._last = self._num_different, picture
            self._num_different += 1
        elif number is None:
            number = self._num_different - 1
        self._numbers[digest] = number
        return number, is_new

    def _is_near_last(self, picture: torch.Tensor) -> bool:
        if self._threshold is None or self._last is None or picture.shape != self._last.shape:
            return False
        return (picture.float() - self._last.float()).abs().mean().item() <= self._threshold


def encode_distinct(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Replaces the pixels of a batch by their features; of consecutive frames with the same number, such as the repeats
    of `frame_sampling="pyslowfast"`, only the first goes through the backbone.

    Args:
        model (`PreTrainedModel`): A [`VTNModel`] or [`VTNForVideoClassification`] in eval mode.
        inputs (`dict`): What [`VTNVideoProcessor`] gives, on the device of the model.

    Returns:
        `dict`: `inputs_embeds` in place of `pixel_values`, and the others as they are.
    """
    pixel_values, position_ids = inputs["pixel_values"], inputs["position_ids"]
    is_new = torch.ones_like(position_ids, dtype=torch.bool)
    is_new[:, 1:] = position_ids[:, 1:] != position_ids[:, :-1]
    features = model.base_model.get_frame_features(pixel_values[is_new][None])[0]
    places = is_new.flatten().cumsum(0) - 1
    others = {name: tensor for name, tensor in inputs.items() if name != "pixel_values"}
    return {"inputs_embeds": features[places].unflatten(0, position_ids.shape), **others}
