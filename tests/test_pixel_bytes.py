"""Pixels that are normalised on the device are those that the processor itself makes."""

import numpy as np
import pytest
import torch
from video_files import write_video

from vtn_hf import VTNVideoProcessor
from vtn_hf.video_decoding_vtn import decode_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    frames = np.random.default_rng(0).integers(0, 256, (9, 20, 28, 3), dtype=np.uint8)
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", frames)


UINT8 = {"do_rescale": False, "do_normalize": False}


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("settings", [{}, {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}])
def test_bytes_normalised_later_are_the_same_pixels(clip, as_array, settings):
    processor = VTNVideoProcessor(num_frames=6, size=15, crop_size=12, **settings)
    video = decode_video(clip)[0] if as_array else clip
    inputs = processor(video, return_tensors="pt", **UINT8)
    assert inputs.pixel_values.dtype == torch.uint8
    assert inputs.pixel_values.is_contiguous()
    normalized = processor.normalize_uint8(inputs.pixel_values)
    assert torch.equal(normalized, processor(video, return_tensors="pt").pixel_values)
    in_worker = processor.to_uint8_processor()(video, return_tensors="pt")
    assert torch.equal(in_worker.pixel_values, inputs.pixel_values)
    assert processor.do_rescale and processor.do_normalize
    assert torch.equal(processor.to_image_processor().normalize_uint8(inputs.pixel_values), normalized)


def test_only_bytes_are_normalised_later(clip):
    processor = VTNVideoProcessor(num_frames=4, size=15, crop_size=12)
    inputs = processor(clip, return_tensors="pt")
    with pytest.raises(ValueError, match="must be uint8 .* got torch.float32"):
        processor.normalize_uint8(inputs.pixel_values)
    original = VTNVideoProcessor(pixel_protocol="pyslowfast")
    for call in (original.to_uint8_processor, lambda: original.normalize_uint8(torch.zeros(1, 3, 2, 2))):
        with pytest.raises(ValueError, match="'pyslowfast' normalises before it resizes"):
            call()
