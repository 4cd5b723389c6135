"""Whole videos: the paper's three ways agree, every picture is computed once, parts cover the whole."""

import itertools
import threading

import numpy as np
import pytest
import torch
from video_files import write_video

from vtn_hf import VideoDecodeError, VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.inference.frame_features import Prefetcher
from vtn_hf.inference.multi_view import MultiView, score_views
from vtn_hf.inference.repeats import encode_distinct
from vtn_hf.inference.streaming import StreamingClassifier
from vtn_hf.inference.whole_video import classify_video, encode_video, make_timeline


BACKBONE = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 16,
}
PROCESSOR = VTNVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def make_model(**fields):
    torch.manual_seed(0)
    config = VTNConfig(
        backbone_config=BACKBONE,
        num_attention_heads=2,
        intermediate_size=48,
        attention_window=4,
        num_labels=5,
        **fields,
    )
    model = VTNForVideoClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_pictures(num_frames, seed=0, height=40, width=48):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def count_encoded(model):
    calls = []
    model.vtn.backbone.embeddings.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    return calls


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def classify_in_one_call(model, videos, num_frames=None):
    return model(**PROCESSOR(videos, num_frames=num_frames, return_tensors="pt")).logits


# The three ways


@pytest.mark.parametrize("frames_per_chunk", [1, 7, 1000])
def test_three_ways_agree_on_real_clips(videos_dir, frames_per_chunk):
    model = make_model()
    paths = [videos_dir / "mm_test.mp4", videos_dir / "tc_h264_10bits.mp4"]  # of unequal length
    expected = classify_in_one_call(model, paths, num_frames=60)
    model.config.frames_per_chunk = frames_per_chunk
    assert_close(classify_in_one_call(model, paths, num_frames=60), expected)
    for path, row in zip(paths, expected, strict=True):
        video = encode_video(model, PROCESSOR, path, num_frames=60)
        logits = model(inputs_embeds=video.features[None], position_ids=video.frame_numbers[None]).logits[0]
        assert_close(logits, row)
        assert_close(classify_video(model, PROCESSOR, path, num_frames=60).logits, row)


def test_three_ways_agree_on_2500_frames_in_a_ragged_batch():
    model = make_model()
    videos = [make_pictures(2500, height=32, width=32), make_pictures(37, seed=1, height=32, width=32)]
    expected = classify_in_one_call(model, videos)
    model.config.frames_per_chunk = 8
    assert_close(classify_in_one_call(model, videos), expected)
    for video, row in zip(videos, expected, strict=True):
        assert_close(classify_video(model, PROCESSOR, video).logits, row)


@pytest.mark.parametrize("fields", [{}, {"frame_pooling": "attention"}], ids=["grid", "pooling"])
def test_a_grid_goes_every_way(videos_dir, fields):
    """In one call, from a file in chunks, from a stream, in windows and in views."""
    model, path = make_model(frame_grid=2, **fields), videos_dir / "mm_test.mp4"
    expected = classify_in_one_call(model, [path], num_frames=30)[0]
    video = encode_video(model, PROCESSOR, path, num_frames=30, frames_per_chunk=7)
    assert video.features.shape == (30, 5, 32)
    assert_close(video.classify(model), expected)
    assert_close(classify_video(model, PROCESSOR, path, num_frames=30).logits, expected)
    assert make_timeline(model, video, window=30, stride=30)[0].scores.argmax() == expected.argmax()

    pictures = make_pictures(12)
    stream = StreamingClassifier(model, PROCESSOR, num_frames=6, predict_every=12)
    for picture in pictures[:11]:
        stream.push([picture])
    again = StreamingClassifier(model, PROCESSOR, num_frames=6, predict_every=12)
    again.load_state_dict(stream.state_dict())
    [prediction] = again.push([pictures[11]])
    assert_close(prediction.logits, classify_in_one_call(model, [pictures[6:]], num_frames=6)[0])

    views = MultiView(num_clips=1, num_crops=1, num_frames=30, clip_duration_sec=None).load(path, PROCESSOR)
    frames = views["pixel_values"][:, views["frames"][0]]
    logits = model(frames, position_ids=views["position_ids"]).logits
    assert_close(score_views(model, views), logits.softmax(-1)[0])


def test_every_kind_of_source(tmp_path):
    model, pictures = make_model(), make_pictures(20)
    path = write_video(tmp_path / "video.mp4", pictures)
    expected = classify_video(model, PROCESSOR, pictures)
    with open(path, "rb") as file:
        for source in (path, str(path), path.read_bytes(), file, list(pictures), iter(pictures)):
            result = classify_video(model, PROCESSOR, source)
            assert_close(result.logits, expected.logits)
            assert result.video.frame_numbers.tolist() == list(range(20))


def test_sampling(tmp_path):
    model, pictures = make_model(), make_pictures(30)
    path = write_video(tmp_path / "video.mp4", pictures, fps=10)
    assert encode_video(model, PROCESSOR, path, num_frames=4).frame_numbers.tolist() == [0, 9, 19, 29]
    assert encode_video(model, PROCESSOR, pictures, num_frames=4).frame_numbers.tolist() == [0, 9, 19, 29]
    at_2_fps = encode_video(model, PROCESSOR, path, fps=2)
    assert len(at_2_fps.features) == 6 and (at_2_fps.fps, at_2_fps.duration) == (10, 3.0)


# Thirty frames in the first second, then one per second.
UNEVEN = [number / 30 for number in range(30)] + list(range(1, 11))


def test_seconds_are_those_of_the_frames(tmp_path):
    model, path = make_model(), write_video(tmp_path / "video.mp4", make_pictures(40), times=UNEVEN)
    result = classify_video(model, PROCESSOR, path, window=8, stride=6)
    np.testing.assert_allclose(result.video.times, UNEVEN, atol=1e-3)
    for part in result.timeline:
        assert part.start_sec == pytest.approx(UNEVEN[part.first_frame], abs=1e-3)
        if part.last_frame < 39:
            assert part.end_sec == pytest.approx(UNEVEN[part.last_frame + 1], abs=1e-3)
    assert result.timeline[-1].end_sec >= 10
    at_1_fps = encode_video(model, PROCESSOR, path, fps=1)
    np.testing.assert_allclose(at_1_fps.times, range(11), atol=1e-3)


@pytest.mark.parametrize("protocol", ["libswscale", "pyslowfast"])
def test_pixels_are_those_of_the_processor(videos_dir, protocol):
    model, path = make_model(), videos_dir / "mm_part.mp4"
    processor = VTNVideoProcessor(**{**PROCESSOR.to_dict(), "pixel_protocol": protocol})
    inputs = processor(path, num_frames=8, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits[0]
    assert_close(classify_video(model, processor, path, num_frames=8).logits, expected)
    others = PROCESSOR(path, num_frames=8, return_tensors="pt").pixel_values
    assert not torch.allclose(others, inputs.pixel_values, atol=1e-2)


@pytest.mark.parametrize("limits", [{"max_pixels": 1000}, {"max_duration_sec": 0.1}])
def test_limits(tmp_path, limits):
    path = write_video(tmp_path / "video.mp4", make_pictures(5))
    processor = VTNVideoProcessor(**{**PROCESSOR.to_dict(), "decode_limits": limits})
    with pytest.raises(VideoDecodeError, match=next(iter(limits))):
        classify_video(make_model(), processor, path)


# Every picture once


def test_equal_pictures_are_computed_once_wherever_they_are():
    model, pictures = make_model(frames_per_chunk=3), make_pictures(4)
    order = [0, 0, 1, 2, 1, 0, 3, 3, 3, 0]
    expected = classify_in_one_call(model, pictures[order])
    calls = count_encoded(model)
    result = classify_video(model, PROCESSOR, pictures[order])
    assert calls == [3, 1] and result.video.num_encoded == 4
    assert_close(result.logits, expected[0])


def test_nearly_equal_pictures_share_a_pass_only_if_asked():
    model = make_model()
    picture = make_pictures(1)[0] // 2
    pictures = [picture, picture + 1, picture + 5, picture, picture + 6]
    exact = encode_video(model, PROCESSOR, pictures)
    near = encode_video(model, PROCESSOR, pictures, repeat_threshold=1.0)
    assert (exact.num_encoded, near.num_encoded) == (4, 2)
    assert_close(near.features, exact.features[[0, 0, 2, 0, 2]])


# Over time


def test_timeline_is_what_the_windows_give_as_videos_of_their_own():
    model, pictures = make_model(), make_pictures(25)
    result = classify_video(model, PROCESSOR, pictures, window=8, stride=6)
    starts = [0, 6, 12, 17]
    for start, segment in zip(starts, result.timeline, strict=True):
        expected = classify_in_one_call(model, pictures[start : start + 8]).softmax(-1)[0]
        assert_close(segment.scores, expected)
    assert [(segment.first_frame, segment.last_frame) for segment in result.timeline] == [
        (0, 6),
        (7, 12),
        (13, 17),
        (18, 24),
    ]


@pytest.mark.parametrize(
    "num_frames, window, stride", [(1, None, None), (5, 5, 1), (30, 7, 3), (30, 2, 9), (30, 1, 1)]
)
def test_timeline_has_no_gaps(tmp_path, num_frames, window, stride):
    path = write_video(tmp_path / "video.mp4", make_pictures(num_frames), fps=10)
    timeline = classify_video(make_model(), PROCESSOR, path, window=window, stride=stride).timeline
    assert (timeline[0].first_frame, timeline[-1].last_frame) == (0, num_frames - 1)
    assert (timeline[0].start_sec, timeline[-1].end_sec) == (0, num_frames / 10)
    for one, other in itertools.pairwise(timeline):
        assert one.last_frame + 1 == other.first_frame and one.end_sec == other.start_sec
        assert one.first_frame <= one.last_frame


@pytest.mark.parametrize("window, num_passes", [(None, 1), (30, 1), (29, 2)])
def test_the_only_window_is_the_whole_video(window, num_passes):
    model, passes = make_model(num_frames=30), []
    model.register_forward_hook(lambda module, args, outputs: passes.append(outputs))
    result = classify_video(model, PROCESSOR, make_pictures(30), window=window, optimize=False)
    assert len(passes) == num_passes
    assert_close(result.timeline[0].scores, make_timeline(model, result.video, window=window)[0].scores)


def test_a_video_that_begins_later_is_no_window_of_its_own():
    """Windows are videos of their own, whose first frame is number 0."""
    model = make_model(num_frames=30)
    video = encode_video(model, PROCESSOR, make_pictures(30))
    expected = make_timeline(model, video)[0].scores
    video.frame_numbers = video.frame_numbers + 100
    logits = video.classify(model)
    assert (logits.softmax(-1) - expected).abs().max() > 1e-4
    assert_close(make_timeline(model, video, logits=logits)[0].scores, expected)


def test_timeline_sees_a_change():
    """A model that tells dark from bright, by its features' mean."""
    model = make_model(num_frames=10)
    video = encode_video(model, PROCESSOR, make_pictures(40))
    video.features[20:] = -video.features[:20]
    timeline = make_timeline(model, video, stride=10)
    assert (timeline[0].scores - timeline[-1].scores).abs().max() > 1e-3


def test_several_labels_per_video():
    model = make_model(problem_type="multi_label_classification")
    result = classify_video(model, PROCESSOR, make_pictures(5))
    assert_close(result.scores, result.logits.sigmoid())
    assert_close(result.timeline[0].scores, result.scores)


def test_repeats_of_the_sampling_are_computed_once(tmp_path):
    model = make_model()
    processor = VTNVideoProcessor(**{**PROCESSOR.to_dict(), "frame_sampling": "pyslowfast"})
    paths = [write_video(tmp_path / f"{seed}.mp4", make_pictures(4 + seed, seed), fps=10) for seed in (0, 2)]
    inputs = processor(paths, num_frames=25, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits
        calls = count_encoded(model)
        distinct = encode_distinct(model, inputs)
        assert sum(calls) == 4 + 6
        assert_close(model(**distinct).logits, expected)


# What goes wrong


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"video": []}, "no frames"),
        ({"fps": 5}, "fps=5 needs a video with a frame rate"),
        ({"video": iter(make_pictures(3)), "num_frames": 2}, "num_frames=2 needs a video with a length"),
        ({"repeat_threshold": -1.0}, "must not be negative, got -1.0"),
        ({"repeat_threshold": float("nan")}, "must not be negative, got nan"),
        ({"frames_per_chunk": 0}, "`frames_per_chunk` must be at least 1, got 0"),
        ({"video": [make_pictures(1)[0] / 255]}, r"uint8 of shape \(height, width, 3\), the video has float64"),
        ({"video": ["one.jpg"]}, "uint8 .* the video has str"),
        ({"window": 0}, "must be positive, got 0"),
        ({"window": 2, "stride": -1}, "must be positive, got 2 and -1"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        classify_video(make_model(), PROCESSOR, **{"video": make_pictures(3), **kwargs})


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="training mode"):
        encode_video(make_model().train(), PROCESSOR, make_pictures(3))


def test_what_the_decoder_raises_arrives_and_no_thread_stays(videos_dir):
    threads = threading.active_count()
    with pytest.raises(VideoDecodeError, match="decord_corrupted"):
        classify_video(make_model(), PROCESSOR, videos_dir / "decord_corrupted.mp4")
    assert threading.active_count() == threads


def test_no_thread_stays_behind_when_the_backbone_fails():
    threads = threading.active_count()
    model = make_model()

    def fail(*args):
        raise ValueError("the backbone fails")

    model.vtn.backbone.embeddings.register_forward_hook(fail)
    with pytest.raises(ValueError, match="the backbone fails"):
        encode_video(model, PROCESSOR, (make_pictures(1, seed)[0] for seed in itertools.count()), frames_per_chunk=8)
    assert threading.active_count() == threads


def test_frames_of_several_sizes():
    pictures = [*make_pictures(3), *make_pictures(3, seed=1, height=64, width=50)]
    model = make_model()
    features = encode_video(model, PROCESSOR, pictures).features
    assert_close(features[3:], encode_video(model, PROCESSOR, pictures[3:]).features)
    with pytest.raises(ValueError, match=r"one size, got \[\(32, 38\), \(40, 32\)\]"):
        encode_video(model, VTNVideoProcessor(size=32, do_center_crop=False), pictures)


def test_who_stops_reading_leaves_nothing_running():
    ended = threading.Event()

    def count():
        try:
            yield from itertools.count()
        finally:
            ended.set()

    for is_paused in (False, True):
        ended.clear()
        with Prefetcher(count(), 2, lambda item: is_paused) as items:  # noqa: B023
            assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert ended.is_set()


def test_the_decoder_is_never_far_ahead():
    model, given, seen = make_model(), [], []

    def give():
        for picture in make_pictures(60):
            given.append(1)
            yield picture

    model.vtn.backbone.embeddings.register_forward_hook(lambda *_: seen.append(len(given)))
    encode_video(model, PROCESSOR, give(), frames_per_chunk=4)
    # The chunk in the backbone, a queue of one chunk, and the frame that waits to be put into it.
    assert all(ahead <= 4 * (call + 2) + 1 for call, ahead in enumerate(seen))
