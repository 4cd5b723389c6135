"""Coarse to fine: spread at any time, every frame once, as good as all frames, and stopped when it should be."""

import itertools
import math
import time
import warnings
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from test_video_decoding_vtn import RECIPES, encode, remux
from test_whole_video import PROCESSOR, UNEVEN, assert_close, count_encoded, make_model, make_pictures
from video_files import write_video

from vtn_hf import VTNConfig, video_decoding_vtn
from vtn_hf.inference import anytime, frame_features
from vtn_hf.inference.anytime import StopRule, order_coarse_to_fine, plan_looks
from vtn_hf.inference.whole_video import classify_video


# The order


def find_largest_gap(numbers):
    return int(np.diff(np.sort(numbers)).max())


def test_every_frame_once():
    for num_frames in range(1, 10_001):
        order = order_coarse_to_fine(num_frames)
        assert order.dtype == np.int64
        assert len(order) == num_frames and (np.bincount(order, minlength=num_frames) == 1).all(), num_frames


def test_ends_and_middle_then_halves():
    assert order_coarse_to_fine(9).tolist() == [0, 8, 4, 2, 6, 1, 5, 3, 7]
    assert order_coarse_to_fine(1).tolist() == [0]
    assert order_coarse_to_fine(2).tolist() == [0, 1]
    with pytest.raises(ValueError, match="got 0"):
        order_coarse_to_fine(0)


@pytest.mark.parametrize("totals", [range(1, 150), range(150, 10_001, 97)], ids=["short", "long"])
def test_every_beginning_is_spread(totals):
    for total in totals:
        order = order_coarse_to_fine(total)
        counts = range(2, total + 1) if total < 150 else [2, 3, 5, 8, 16, 24, 100, total // 2, total]
        for count in counts:
            chosen = order[:count]
            assert chosen.min() == 0 and chosen.max() == total - 1
            assert find_largest_gap(chosen) <= 2 * (total - 1) / (count - 1) + 1, (total, count)


@pytest.mark.parametrize("min_frames", [1, 3, 8, 100])
def test_looks(min_frames):
    for total in range(1, 600):
        looks = plan_looks(total, min_frames)
        assert looks[0] == min(min_frames, total) and looks[-1] == total
        assert looks == sorted(set(looks))
        # None is of much more frames than the one before; none but the second of only a few more.
        assert all(b <= 3 * a for a, b in itertools.pairwise(looks))
        assert all(b > 1.3 * a for a, b in itertools.pairwise(looks[1:]))


def test_twice_as_many_at_every_other_look():
    assert plan_looks(100, 8) == [8, 12, 16, 24, 32, 48, 64, 100]


# All frames


@pytest.mark.parametrize("arguments", [{}, {"num_frames": 23}, {"fps": 4}, {"frames_per_chunk": 3}, {"min_frames": 5}])
def test_without_a_stop_it_is_the_result_of_all_frames(tmp_path, arguments):
    model = make_model()
    path = write_video(tmp_path / "video.mp4", make_pictures(40), fps=10)
    all_frames = {name: value for name, value in arguments.items() if name != "min_frames"}
    expected = classify_video(model, PROCESSOR, path, **all_frames)
    for limits in ({"confidence": 1.0}, {"max_seconds": 1000.0}, {"confidence": 1.0, "max_seconds": 1000}):
        result = classify_video(model, PROCESSOR, path, **limits, **arguments)
        assert result.stopped == "all frames"
        assert result.video.frame_numbers.tolist() == expected.video.frame_numbers.tolist()
        assert_close(result.video.times, expected.video.times)
        assert_close(result.logits, expected.logits)
        assert [vars(part).keys() for part in result.timeline] == [vars(part).keys() for part in expected.timeline]


def test_repeats_are_encoded_once():
    model, pictures = make_model(), make_pictures(10)
    video = np.repeat(pictures, 4, axis=0)
    expected = classify_video(model, PROCESSOR, video)
    result = classify_video(model, PROCESSOR, video, max_seconds=1000)
    assert result.video.num_encoded == expected.video.num_encoded == 10
    assert_close(result.logits, expected.logits)


def test_times_are_those_of_the_frames(tmp_path):
    path = write_video(tmp_path / "video.mp4", make_pictures(40), times=UNEVEN)
    result = classify_video(make_certain(), PROCESSOR, path, confidence=0.9, min_frames=4)
    assert result.num_frames_seen == 6
    np.testing.assert_allclose(result.video.times, np.array(UNEVEN)[result.video.frame_numbers], atol=1e-3)


def test_a_file_with_fewer_frames_than_packets(tmp_path):
    """Its first packets need frames that are not there, which is known only when all are decoded."""
    encode(tmp_path / "whole.mkv", **RECIPES["short_gop.mkv"])
    remux(tmp_path / "whole.mkv", tmp_path / "video.mkv", skip=5)
    model = make_model()
    expected = classify_video(model, PROCESSOR, tmp_path / "video.mkv")
    for limits in ({"max_seconds": 1000}, {"confidence": 0.99, "min_frames": 2}):
        result = classify_video(model, PROCESSOR, tmp_path / "video.mkv", **limits)
        assert result.video.frame_numbers.tolist() == expected.video.frame_numbers.tolist()
        assert_close(result.logits, expected.logits)


# Stops


def make_certain(label=2):
    """A model that says the same of every video."""
    model = make_model()
    with torch.no_grad():
        model.classifier.out_proj.bias[label] += 1000
    return model


def test_stops_when_certain(tmp_path):
    path, model = write_video(tmp_path / "video.mp4", make_pictures(100)), make_certain()
    calls = count_encoded(model)
    result = classify_video(model, PROCESSOR, path, confidence=0.95, optimize=False)
    assert (result.stopped, result.num_frames_seen, sum(calls)) == ("certain", 12, 12)
    assert result.video.frame_numbers.tolist() == sorted(order_coarse_to_fine(100)[:12].tolist())
    inputs = PROCESSOR(path, num_frames=None, return_tensors="pt")
    numbers = result.video.frame_numbers
    with torch.no_grad():
        expected = model(inputs.pixel_values[:, numbers], position_ids=numbers[None]).logits[0]
    assert_close(result.logits, expected)
    assert result.scores.argmax() == 2
    assert result.timeline[0].first_frame == 0 and result.timeline[-1].last_frame == 99


def test_nothing_is_decoded_while_a_look_may_be_the_last():
    given, pictures = [], make_pictures(64)

    class Video:
        def __len__(self):
            return len(pictures)

        def __getitem__(self, number):
            given.append(number)
            return pictures[number]

    model = make_certain()
    model.classifier.register_forward_hook(lambda *_: time.sleep(0.1))  # in which a thread could go on
    assert classify_video(model, PROCESSOR, Video(), confidence=0.95).num_frames_seen == 12
    assert len(given) == 12
    given.clear()
    model.config.calibration_temperature = 1e6  # nothing is certain
    assert classify_video(model, PROCESSOR, Video(), confidence=0.95).stopped == "all frames"
    assert sorted(given) == list(range(64))


def test_min_frames_and_what_there_is_to_look_at():
    model, video = make_certain(), make_pictures(100)
    assert classify_video(model, PROCESSOR, video, confidence=0.9, min_frames=3).num_frames_seen == 4
    assert classify_video(model, PROCESSOR, list(video), confidence=0.9, num_frames=40).num_frames_seen == 12
    short = classify_video(model, PROCESSOR, video[:7], confidence=0.9)
    assert (short.stopped, short.num_frames_seen) == ("all frames", 7)


def test_certainty_is_calibrated():
    model, video = make_certain(), make_pictures(64)
    model.config.calibration_temperature = 1e6  # nothing is certain
    result = classify_video(model, PROCESSOR, video, confidence=0.9)
    assert result.stopped == "all frames"
    assert result.scores.max() > 0.99
    calibrated = classify_video(model, PROCESSOR, video, calibrated=True)
    assert calibrated.scores.max() < 0.3 and calibrated.timeline[0].scores.max() < 0.3


def test_the_stored_confidence():
    model, video = make_certain(), make_pictures(64)
    with pytest.raises(ValueError, match="the model stores none"):
        classify_video(model, PROCESSOR, video, confidence="stored")
    model.config.anytime_confidence = 0.8
    result = classify_video(model, PROCESSOR, video, confidence="stored")
    assert (result.stopped, result.num_frames_seen) == ("certain", 12)
    model.config.anytime_min_frames = 2  # found with this confidence, and for no other
    assert classify_video(model, PROCESSOR, video, confidence="stored").num_frames_seen == 3
    assert classify_video(model, PROCESSOR, video, confidence="stored", min_frames=3).num_frames_seen == 4
    assert classify_video(model, PROCESSOR, video, confidence=0.8).num_frames_seen == 12


def test_settled():
    rule = StopRule(confidence=0.8)
    sure, other, unsure = torch.tensor([0.9, 0.1]), torch.tensor([0.1, 0.9]), torch.tensor([0.7, 0.3])
    assert rule.is_settled(sure, sure, False)
    for earlier, later in ((None, sure), (unsure, sure), (sure, unsure), (other, sure)):
        assert not rule.is_settled(earlier, later, False)
    assert not StopRule(confidence=1.0).is_settled(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), False)
    # Each of several labels must be certain.
    assert rule.is_settled(torch.tensor([0.9, 0.9]), torch.tensor([0.85, 0.95]), True)
    assert not rule.is_settled(torch.tensor([0.9, 0.9]), torch.tensor([0.9, 0.1]), True)
    assert not rule.is_settled(torch.tensor([0.9, 0.6]), torch.tensor([0.9, 0.6]), True)


@pytest.fixture
def clock(monkeypatch):
    """Stands still but for the backbone, which takes a second per frame."""
    clock = SimpleNamespace(now=0.0)
    for module in (anytime, frame_features):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def tick(model):
        def advance(module, args, output):
            clock.now += len(output)

        model.vtn.backbone.embeddings.register_forward_hook(advance)
        return model

    clock.tick = tick
    return clock


@pytest.mark.parametrize(("max_seconds", "seen"), [(0.5, 8), (8.5, 9), (12, 13), (30, 31), (1000, 60)])
def test_time_is_kept_within_a_frame(tmp_path, clock, max_seconds, seen):
    path, model = write_video(tmp_path / "video.mp4", make_pictures(60)), clock.tick(make_model())
    result = classify_video(model, PROCESSOR, path, max_seconds=max_seconds, frames_per_chunk=4, optimize=False)
    assert result.num_frames_seen == seen
    assert result.stopped == ("all frames" if seen == 60 else "time")
    assert clock.now <= max(max_seconds + 1, 8)
    numbers = result.video.frame_numbers.tolist()
    assert numbers[0] == 0 and numbers[-1] == 59
    assert find_largest_gap(numbers) <= 2 * 59 / 7 + 1
    assert math.isfinite(result.scores.sum())


def test_a_file_is_opened_and_counted_once(tmp_path, monkeypatch):
    path, counted = write_video(tmp_path / "video.mp4", make_pictures(60)), []
    count = video_decoding_vtn.Packets
    monkeypatch.setattr(
        video_decoding_vtn, "Packets", lambda *args, **kwargs: counted.append(1) or count(*args, **kwargs)
    )
    classify_video(make_model(), PROCESSOR, path, max_seconds=1000)
    assert len(counted) == 1


@pytest.mark.slow
def test_an_hour_in_two_seconds(tmp_path):
    path = tmp_path / "hour.mp4"
    pictures = make_pictures(500, height=32, width=48)
    write_long_video(path, pictures, 90_000)
    model, times = make_model(), []
    model.vtn.backbone.embeddings.register_forward_hook(lambda *_: times.append(time.monotonic()))
    result = classify_video(model, PROCESSOR, path, max_seconds=2)
    assert result.stopped == "time"
    assert time.monotonic() - times[0] < 2.5
    assert result.video.frame_numbers[-1] == 89_999


def write_long_video(path, pictures, num_frames):
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], "yuv420p"
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(pictures[number % len(pictures)], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"confidence": 0.0}, "confidence"),
        ({"confidence": 1.5}, "1.5"),
        ({"confidence": "high"}, '"stored"'),
        ({"max_seconds": 0}, "max_seconds"),
        ({"max_seconds": math.nan}, "nan"),
        ({"confidence": 0.9, "min_frames": 0}, "min_frames"),
        ({"confidence": 0.9, "min_frames": 2.5}, "whole number"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        classify_video(make_model(), PROCESSOR, make_pictures(5), **arguments)


def test_what_has_no_other_order_or_no_classes():
    model, video = make_model(), make_pictures(5)
    with pytest.raises(ValueError, match="generator"):
        classify_video(model, PROCESSOR, (picture for picture in video), confidence=0.9)
    with pytest.raises(ValueError, match="no frames"):
        classify_video(model, PROCESSOR, video[:0], confidence=0.9)
    for config in (VTNConfig(problem_type="regression"), VTNConfig(num_labels=1)):
        with pytest.raises(ValueError, match="regression"):
            StopRule(confidence=0.9).check(config)
    StopRule(confidence=0.9).check(VTNConfig(num_labels=1, problem_type="multi_label_classification"))


def test_a_model_that_reads_changes_is_to_be_calibrated():
    config = make_model(frame_changes=True).config
    with pytest.warns(UserWarning, match="--calibrate"):
        StopRule.of_model(SimpleNamespace(config=config), 0.9, None, None)
    with pytest.raises(ValueError, match="2 or more"):
        StopRule.of_model(SimpleNamespace(config=config), 0.9, None, 1)
    config.anytime_confidence = 0.8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert StopRule.of_model(SimpleNamespace(config=config), "stored", None, None).min_frames == 8


def test_frames_of_the_next_looks_are_decoded_once(tmp_path, monkeypatch):
    """Those that a look passes on its way; they are not encoded if it suffices."""
    path, model = write_video(tmp_path / "video.ts", make_pictures(100)), make_model()
    decoded, check_frame = [], video_decoding_vtn.VideoReader._check_frame
    monkeypatch.setattr(
        video_decoding_vtn.VideoReader,
        "_check_frame",
        lambda *args, **kwargs: decoded.append(1) or check_frame(*args, **kwargs),
    )
    monkeypatch.setattr(anytime, "measure_agreement", lambda earlier, scores, _: 0.9 if len(looks) == 3 else 0.0)
    looks, classify = [], model.classifier.forward
    monkeypatch.setattr(model.classifier, "forward", lambda *args: looks.append(1) or classify(*args))
    calls = count_encoded(model)
    result = classify_video(model, PROCESSOR, path, confidence=0.8, optimize=False, window=16)
    assert (result.stopped, result.num_frames_seen, sum(calls), len(decoded)) == ("certain", 16, 16, 100)
    assert len(looks) == 3  # the last of which is the result
    torch.testing.assert_close(result.logits, result.video.classify(model))
