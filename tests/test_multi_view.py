"""Tests of multi-view evaluation."""

import numpy as np
import pytest
import torch
from video_files import write_video

from vtn_hf import VideoDecodeError, VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.inference.multi_view import MultiView, score_views


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    backbone = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
    config = VTNConfig(backbone_config=backbone, num_attention_heads=2, intermediate_size=8, num_labels=5)
    return VTNForVideoClassification(config).eval()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    frames = np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3), dtype=np.uint8)
    return write_video(tmp_path_factory.mktemp("video") / "video.mkv", frames, fps=10), frames


@pytest.fixture
def processor():
    return VTNVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def test_views_are_the_clips_and_crops_of_the_video(video, processor):
    path, frames = video
    views = MultiView(num_clips=3, num_crops=3, num_frames=4, clip_duration_sec=1.0).load(path, processor)

    assert views["position_ids"].tolist() == [[0, 3, 6, 9]] * 3
    # Of 40 frames at 10 per second, clips of one second begin at 0, 15 and 30; no two of them share a frame.
    assert views["pixel_values"].shape == (3, 12, 3, 32, 32)
    assert views["frames"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    for crop, left in enumerate((0, 8, 16)):
        expected = processor(
            frames[[15, 18, 21, 24], :, left : left + 32], do_sample_frames=False, return_tensors="pt"
        )
        torch.testing.assert_close(views["pixel_values"][crop, 4:8], expected["pixel_values"][0])


def test_shared_frames_are_decoded_once(video, processor):
    views = MultiView(num_clips=10, num_crops=1, num_frames=16, clip_duration_sec=2.0).load(video[0], processor)
    assert views["pixel_values"].shape[1] <= 40
    assert views["frames"].shape == (10, 16)


def test_probabilities_are_the_mean_over_single_views(video, processor, model):
    multi_view = MultiView(num_clips=2, num_crops=3, num_frames=4, clip_duration_sec=2.0)
    views = multi_view.load(video[0], processor)
    expected = [
        model(crop[frames][None], position_ids=position_ids[None]).logits.softmax(-1)[0]
        for crop in views["pixel_values"]
        for frames, position_ids in zip(views["frames"], views["position_ids"], strict=True)
    ]
    torch.testing.assert_close(score_views(model, views), torch.stack(expected).mean(0), atol=1e-6, rtol=0)


def test_multi_label_scores_are_independent(video, processor, model):
    model.config.problem_type = "multi_label_classification"
    try:
        views = MultiView(num_clips=1, num_crops=1, num_frames=4).load(video[0], processor)
        logits = model(views["pixel_values"][:, views["frames"][0]], position_ids=views["position_ids"]).logits[0]
        torch.testing.assert_close(score_views(model, views), logits.sigmoid(), atol=1e-6, rtol=0)
    finally:
        model.config.problem_type = None


def test_one_view_of_the_whole_video_is_its_middle(video, processor):
    views = MultiView(num_clips=1, num_crops=1, num_frames=4, clip_duration_sec=None).load(video[0], processor)
    assert views["position_ids"].tolist() == [[0, 13, 26, 39]]
    expected = processor(video[1][[0, 13, 26, 39]], do_sample_frames=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(views["pixel_values"], expected)


@pytest.mark.parametrize("protocol", ["libswscale", "pyslowfast"])
def test_pixels_are_those_of_the_processor(videos_dir, protocol):
    path = videos_dir / "mm_part.mp4"
    processor = VTNVideoProcessor(size=64, crop_size=56, pixel_protocol=protocol)
    views = MultiView(num_clips=1, num_crops=3, num_frames=4, clip_duration_sec=None).load(path, processor)
    whole = processor(path, do_center_crop=False, do_sample_frames=False, return_tensors="pt").pixel_values[0]
    numbers = views["position_ids"][0]
    margin = whole.shape[-1] - 56
    middle = -(-margin // 2) if protocol == "pyslowfast" else margin // 2
    for crop, left in zip(views["pixel_values"], (0, middle, margin), strict=True):
        assert torch.equal(crop, whole[numbers][..., 4:60, left : left + 56])


def test_limits(video):
    processor = VTNVideoProcessor(size=16, crop_size=12, decode_limits={"max_pixels": 10})
    with pytest.raises(VideoDecodeError, match="max_pixels=10"):
        MultiView(num_clips=1).load(video[0], processor)


def test_impossible_views_are_refused():
    with pytest.raises(ValueError, match="`num_clips` must be at least 1, got 0"):
        MultiView(num_clips=0)
    with pytest.raises(ValueError, match="10 clips of the whole video"):
        MultiView(num_clips=10, clip_duration_sec=None)
