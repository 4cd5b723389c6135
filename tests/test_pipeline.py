"""Pipelines: what they save is what they had loaded; videos of any length, in batches, with a timeline."""

import tracemalloc

import numpy as np
import pytest
import torch
from tiny_models import make_vit_vtn
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset
from video_files import write_video

from vtn_hf import VTNImageProcessor, VTNVideoProcessor
from vtn_hf.data.segments import VideoSegment
from vtn_hf.inference.whole_video import classify_video


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


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Videos of unequal lengths."""
    folder, generator = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    return [
        str(write_video(folder / f"{length}.mp4", generator.integers(0, 256, (length, 24, 30, 3), np.uint8)))
        for length in (9, 31, 2, 14, 40, 1)
    ]


@pytest.fixture(scope="module")
def classify():
    model = make_vit_vtn(num_frames=12, num_labels=4)
    return pipeline("video-classification", model=model, video_processor=VTNVideoProcessor(num_frames=12, **PIXELS))


def check_same(found, expected):
    assert len(found) == len(expected)
    for scores, others in zip(found, expected, strict=True):
        scores, others = ({each["label"]: each["score"] for each in result} for result in (scores, others))
        assert scores == pytest.approx(others, abs=1e-5)


def test_it_is_what_the_model_says_of_the_processor_s_frames(classify, files):
    for file in files:
        inputs = classify.video_processor(file, return_tensors="pt")
        with torch.no_grad():
            scores = classify.model(**inputs).logits[0].softmax(-1)
        found = {each["label"]: each["score"] for each in classify(file)}
        assert [found[f"LABEL_{label}"] for label in range(4)] == pytest.approx(scores.tolist(), abs=1e-6)


@pytest.mark.parametrize("settings", [{}, {"fps": 5}, {"num_frames": 5}, {"fps": 5, "num_frames": 3}])
def test_batches(classify, files, settings):
    one_by_one = [classify(file, **settings) for file in files]
    check_same(classify(files, batch_size=4, **settings), one_by_one)
    check_same(list(classify((file for file in files), batch_size=4, **settings)), one_by_one)
    rows = [{"video": {"path": file, "bytes": None}} for file in files]
    check_same(list(classify(KeyDataset(rows, "video"), batch_size=4, **settings)), one_by_one)


def test_how_many_frames(classify, files, monkeypatch):
    seen, forward = [], type(classify.model).forward

    def note(*args, **kwargs):
        seen.append(kwargs["inputs_embeds"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(type(classify.model), "forward", note)
    for settings in ({}, {"fps": 5}, {"num_frames": 5}, {"fps": 5, "num_frames": 3}, {"num_frames": 99}):
        classify(files[4], **settings)
    assert seen == [12, 20, 5, 3, 40]


def test_timeline(classify, files):
    result = classify(files[4], timeline=True, fps=10, top_k=2)
    check_same([result["scores"]], [classify(files[4], fps=10, top_k=2)])
    expected = classify_video(classify.model, classify.video_processor, files[4])
    assert len(result["timeline"]) == len(expected.timeline) > 3
    for part, other in zip(result["timeline"], expected.timeline, strict=True):
        assert (part["start_sec"], part["end_sec"]) == (other.start_sec, other.end_sec) and len(part["scores"]) == 2
        assert part["scores"][0]["score"] == pytest.approx(other.scores.max().item(), abs=1e-5)
    batch = classify(files, timeline=True, fps=10, batch_size=3)
    assert [len(each["timeline"]) for each in batch] == [1, 5, 1, 2, len(expected.timeline), 1]
    frames = np.zeros((5, 24, 30, 3), np.uint8)
    assert classify(frames, timeline=True)["timeline"][0]["start_sec"] is None


def test_other_sources(classify, files):
    expected = classify(files[0])
    with open(files[0], "rb") as file:
        content = file.read()
        check_same([classify(file), classify(content)], [expected] * 2)
    segment = VideoSegment(files[1], 0.5, 1.4)
    check_same([classify(segment)], [classify(segment, num_frames=9)])


def test_pictures_go_through_the_backbone_in_parts(classify, files, monkeypatch):
    expected, parts = classify(files[4], fps=10), []
    encode = classify.model.vtn.get_frame_features
    monkeypatch.setattr("vtn_hf.video_processing_vtn._BYTES_AT_ONCE", 12 * 3 * 16 * 16)
    monkeypatch.setattr(
        classify.model.vtn, "get_frame_features", lambda pixels: parts.append(pixels.shape[1]) or encode(pixels)
    )
    check_same([classify(files[4], fps=10)], [expected])
    assert parts == [12, 12, 12, 4]


def test_memory_does_not_grow_with_the_number_of_frames(classify, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (30, 240, 320, 3), np.uint8)
    peaks = []
    for number in (1, 10):
        path = write_video(tmp_path / f"{number}.mp4", np.tile(frames, (number, 1, 1, 1)))
        tracemalloc.start()
        classify(str(path), fps=10)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 5e6


def test_the_checkpoint_names_it(classify, tmp_path):
    """Of the local code no leave is asked for, nor is there anything that no file can hold."""
    classify.save_pretrained(tmp_path)
    assert "video_processing_vtn.VTNVideoClassificationPipeline" in (tmp_path / "config.json").read_text()
    loaded = pipeline("video-classification", model=str(tmp_path))
    assert type(loaded).__module__ == "vtn_hf.video_processing_vtn"
    assert "custom_pipelines" not in loaded.model.config.to_dict()
