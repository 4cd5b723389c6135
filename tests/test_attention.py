"""What a model looked at."""

import numpy as np
import pytest
import torch
from tiny_models import make_vit_vtn
from video_files import write_video

from vtn_hf import VTNVideoProcessor
from vtn_hf.data.feature_cache import CachedClips, CacheIndex, read_shard, write_shard
from vtn_hf.inference.attention import look_at, look_at_example


@pytest.fixture(scope="module")
def model():
    return make_vit_vtn(num_labels=4)


@pytest.fixture(scope="module")
def processor():
    square = {"height": 16, "width": 16}
    return VTNVideoProcessor(size=square, crop_size=square, num_frames=20)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    frames = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    return write_video(tmp_path_factory.mktemp("video") / "video.mkv", frames, fps=10)


def test_look_is_the_models_own(model, processor, video):
    look = look_at(model, processor, video)
    inputs = processor(video, return_tensors="pt")
    outputs = model(**inputs, output_attentions=True)

    torch.testing.assert_close(look.probabilities, outputs.logits[0].softmax(-1), atol=1e-6, rtol=0)
    for layer, weights in enumerate(outputs.global_attentions):
        np.testing.assert_allclose(look.attention[layer], weights[0, :, 1:].detach(), atol=1e-6)
    assert look.pictures.shape == (20, 16, 16, 3)
    assert look.times[[0, -1]].tolist() == [0, 3.9]


def test_strip_takes_the_most_attended_frame_of_each_part(model, processor, video):
    look = look_at(model, processor, video)
    strip = look.choose_frames(12)
    assert len(strip) == 12 and (np.diff(strip) > 0).all()
    assert look.mean_attention.argmax() in strip
    assert look.choose_frames(99).tolist() == list(range(20))


def test_pictures_are_those_of_the_video_whatever_the_processor_does_to_them(model, processor, video):
    pictures = look_at(model, processor, video).pictures
    for settings in ({"do_normalize": False}, {"image_mean": [0.1] * 3, "image_std": [0.9] * 3}):
        other = VTNVideoProcessor.from_dict(processor.to_dict() | settings)
        np.testing.assert_array_equal(look_at(model, other, video).pictures, pictures)


def test_cached_features_are_looked_at_without_the_backbone(processor, video, tmp_path):
    model = make_vit_vtn(num_labels=4)
    whole = look_at(model, processor, video)
    cached = {
        "path": str(video),
        "label": 0,
        "fps": 10.0,
        "clips": [(whole.video.features, whole.video.frame_numbers)],
    }
    shard = tmp_path / "val/shard-00000.safetensors"
    write_shard(shard, [cached], "float32")
    CacheIndex(list("abcd"), {"val": read_shard(shard)}).save(tmp_path)

    model.vtn.backbone = None
    seen = look_at_example(model, processor, CachedClips(tmp_path, "val"), 0)
    np.testing.assert_array_equal(seen.pictures, whole.pictures)
    np.testing.assert_allclose(seen.attention, whole.attention, atol=1e-6)
    with pytest.raises(ValueError, match="There are 20 frames, but features of 19"):
        look_at(model, processor, video, whole.video.features[1:])


@pytest.mark.parametrize("fields", [{}, {"frame_pooling": "attention"}], ids=["grid", "pooling"])
def test_places_attended_to(processor, video, fields):
    model = make_vit_vtn(num_labels=4, frame_grid=2, **fields)
    look = look_at(model, processor, video)
    outputs = model(**processor(video, return_tensors="pt"), output_attentions=True)
    weights = torch.stack(outputs.global_attentions)[:, 0, :, 1:].detach()
    if fields:
        weights = weights[..., None] * outputs.pooling_attentions[0][0].detach().mean(dim=1)
    weights = weights.unflatten(2, (20, -1)) if not fields else weights
    np.testing.assert_allclose(look.attention, weights.sum(dim=-1), atol=1e-6)
    np.testing.assert_allclose(look.places, weights.mean(dim=(0, 1))[:, 1:].reshape(20, 2, 2), atol=1e-6)
    assert look_at(make_vit_vtn(num_labels=4), processor, video).places is None
