"""What a pipeline saves is what it had loaded."""

import numpy as np
import pytest
from tiny_models import make_vit_vtn
from transformers import pipeline
from video_files import write_video

from vtn_hf import VTNImageProcessor, VTNVideoProcessor


PIXELS = {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}}
SAMPLING = {"num_frames": 3, "fps": 5.0, "frame_sampling": "uniform", "decode_limits": {"max_pixels": 10_000}}


@pytest.fixture
def model():
    return make_vit_vtn(num_frames=3)


@pytest.fixture
def video_processor():
    return VTNVideoProcessor(**SAMPLING, **PIXELS, image_mean=[0.1, 0.2, 0.3])


def reload(classify, folder):
    classify.save_pretrained(folder)
    return pipeline("video-classification", model=str(folder))


def test_what_was_loaded_from_a_folder(model, video_processor, tmp_path):
    model.save_pretrained(tmp_path / "first")
    video_processor.save_pretrained(tmp_path / "first")
    # Whoever saves it last may have another image processor than the video processor brings.
    image_processor = VTNImageProcessor(**PIXELS, image_mean=[0.7, 0.8, 0.9])
    image_processor.save_pretrained(tmp_path / "first")
    loaded = reload(pipeline("video-classification", model=str(tmp_path / "first")), tmp_path / "second")
    assert loaded.video_processor.to_dict() == VTNVideoProcessor.from_pretrained(tmp_path / "first").to_dict()
    assert loaded.video_processor.num_frames == 3 and loaded.video_processor.fps == 5.0
    assert loaded.image_processor.image_mean == image_processor.image_mean
    assert loaded.model.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    clip = str(write_video(tmp_path / "clip.mp4", np.random.default_rng(0).integers(0, 256, (9, 24, 30, 3), np.uint8)))
    assert loaded(clip) == pipeline("video-classification", model=str(tmp_path / "first"))(clip)


def test_what_was_given_as_objects(model, video_processor, tmp_path):
    classify = pipeline("video-classification", model=model, video_processor=video_processor)
    loaded = reload(classify, tmp_path / "video")
    settings = video_processor.to_dict()
    assert {name: loaded.video_processor.to_dict()[name] for name in settings} == settings

    image_processor = VTNImageProcessor(**PIXELS, resample=3)
    classify = pipeline("video-classification", model=model, image_processor=image_processor)
    assert reload(classify, tmp_path / "image").image_processor.resample == 3


def test_another_processor_than_the_folder_has(model, video_processor, tmp_path):
    model.save_pretrained(tmp_path / "first")
    VTNVideoProcessor(**PIXELS).save_pretrained(tmp_path / "first")
    classify = pipeline("video-classification", model=str(tmp_path / "first"), video_processor=video_processor)
    assert reload(classify, tmp_path / "second").video_processor.num_frames == 3


def test_the_image_processor_s_file_says_all(model, video_processor, tmp_path):
    """transformers' own pipeline, which runs where vtn_hf is not imported, saves no other."""
    model.save_pretrained(tmp_path / "first")
    video_processor.save_pretrained(tmp_path / "first")
    (tmp_path / "first/video_preprocessor_config.json").unlink()
    loaded = pipeline("video-classification", model=str(tmp_path / "first")).video_processor
    settings = video_processor.to_dict()
    assert {name: loaded.to_dict()[name] for name in settings if name != "auto_map"} == {
        name: value for name, value in settings.items() if name != "auto_map"
    }
    VTNImageProcessor.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert VTNVideoProcessor.from_pretrained(tmp_path / "second").num_frames == 3
