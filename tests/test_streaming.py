"""Live streams: a prediction is what the model says of the frames held, in bounded memory, across interruptions."""

import numpy as np
import pytest
import torch
from test_whole_video import PROCESSOR, assert_close, classify_in_one_call, count_encoded, make_model, make_pictures

from vtn_hf.inference.streaming import StreamingClassifier


def push_all(stream, pictures, times=None):
    """Predictions of a single stream, as (frames seen, prediction)."""
    times = [None] * len(pictures) if times is None else times
    predictions = []
    for picture, time in zip(pictures, times, strict=True):
        [prediction] = stream.push([picture], [time])
        if prediction is not None:
            predictions.append(prediction)
    return predictions


@pytest.mark.parametrize("num_frames", [6, 30])
def test_the_last_frames_as_a_video_of_their_own(num_frames):
    model, pictures = make_model(), make_pictures(20)
    calls = count_encoded(model)
    predictions = push_all(StreamingClassifier(model, PROCESSOR, num_frames=num_frames, predict_every=5), pictures)
    assert calls == [1] * 20
    assert [prediction.num_frames_seen for prediction in predictions] == [5, 10, 15, 20]
    for prediction in predictions:
        seen = prediction.num_frames_seen
        expected = classify_in_one_call(model, pictures[max(0, seen - num_frames) : seen])[0]
        assert_close(prediction.logits, expected)
        assert_close(prediction.scores, expected.softmax(-1))


def test_since_the_start_in_bounded_memory():
    model, pictures = make_model(), make_pictures(100)
    calls = count_encoded(model)
    stream = StreamingClassifier(model, PROCESSOR, num_frames=8, predict_every=10, memory="all")
    held = []
    for picture in pictures:
        stream.push([picture])
        held.append(stream.get_inputs()["position_ids"][0].tolist())
    assert max(map(len, held)) == 8
    assert held[7] == list(range(8)) and held[8] == [0, 2, 4, 6, 8] and held[-1] == list(range(0, 100, 16))
    # What is not held is not computed either.
    assert sum(calls) == 8 + 5 + 4 + 4 + 2
    [prediction] = stream.predict()
    with torch.no_grad():
        pixel_values = PROCESSOR(pictures[::16], do_sample_frames=False, return_tensors="pt").pixel_values
        expected = model(pixel_values, position_ids=torch.arange(0, 100, 16)[None]).logits[0]
    assert_close(prediction.logits, expected)


def test_positions_are_times_where_both_are_known():
    model, pictures = make_model(), make_pictures(6)
    times = [100.0, 100.04, 100.08, 100.4, 100.44, 100.441]  # seven frames were dropped; two came at once
    stream = StreamingClassifier(model, PROCESSOR, predict_every=6, fps=25)
    [prediction] = push_all(stream, pictures, times)
    position_ids = torch.tensor([[0, 1, 2, 10, 11, 11]])
    assert torch.equal(stream.get_inputs()["position_ids"], position_ids)
    assert (prediction.start_sec, prediction.end_sec) == (100.0, 100.441)
    with torch.no_grad():
        pixel_values = PROCESSOR(pictures, do_sample_frames=False, return_tensors="pt").pixel_values
        assert_close(prediction.logits, model(pixel_values, position_ids=position_ids).logits[0])


def test_streams_share_calls_and_influence_nothing():
    model = make_model()
    videos = [make_pictures(12, seed=1), make_pictures(12, seed=2, height=64, width=40), make_pictures(12, seed=3)]
    alone = [push_all(StreamingClassifier(model, PROCESSOR, predict_every=4, num_frames=6), video) for video in videos]
    together = StreamingClassifier(model, PROCESSOR, num_streams=3, predict_every=4, num_frames=6)
    calls = count_encoded(model)
    predictions = [[], [], []]
    for number in range(24):
        # The second has a frame at every other push only.
        frames = [video[number] if number < 12 else None for video in videos]
        frames[1] = videos[1][number // 2] if number % 2 == 0 else None
        for index, prediction in enumerate(together.push(frames)):
            if prediction is not None:
                predictions[index].append(prediction)
    assert calls == [3, 2] * 6 + [1] * 6, "all streams that have a frame go through the backbone together"
    for expected, actual in zip(alone, predictions, strict=True):
        assert [one.num_frames_seen for one in actual] == [4, 8, 12]
        for one, other in zip(expected, actual, strict=True):
            assert_close(other.logits, one.logits)


@pytest.mark.parametrize("memory", ["last", "all"])
def test_saved_and_restored(memory, tmp_path):
    model, pictures = make_model(), make_pictures(40)
    pictures[20] = pictures[19]
    settings = {"num_frames": 10, "predict_every": 4, "memory": memory, "fps": 10}
    times = [number / 10 for number in range(40)]
    expected = push_all(StreamingClassifier(model, PROCESSOR, **settings), pictures, times)
    first = StreamingClassifier(model, PROCESSOR, **settings)
    predictions = push_all(first, pictures[:20], times[:20])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    push_all(first, pictures[20:30], times[20:30])  # the state is a copy
    second = StreamingClassifier(make_model(), PROCESSOR, **settings)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    predictions += push_all(second, pictures[20:], times[20:])
    assert len(predictions) == len(expected)
    for one, other in zip(expected, predictions, strict=True):
        assert_close(other.logits, one.logits)
        assert (other.num_frames_seen, other.end_sec) == (one.num_frames_seen, one.end_sec)
    assert second.get_statistics()["repeated"] == (1 if memory == "last" else 0)


def test_a_frozen_picture_is_computed_once():
    model, [picture, other] = make_model(), make_pictures(2)
    calls = count_encoded(model)
    stream = StreamingClassifier(model, PROCESSOR, predict_every=6)
    [prediction] = push_all(stream, [picture, picture, picture, other, other, picture])
    assert len(calls) == 3 and stream.get_statistics() == {"seen": 6, "held": 6, "repeated": 3, "size_changes": 0}
    assert_close(prediction.logits, classify_in_one_call(model, np.stack([picture] * 3 + [other] * 2 + [picture]))[0])
    near = StreamingClassifier(model, PROCESSOR, repeat_threshold=1.0)
    push_all(near, [other // 2, other // 2 + 1, other // 2 + 9])
    assert near.get_statistics()["repeated"] == 1


def test_a_source_may_change_its_size():
    model = make_model()
    stream = StreamingClassifier(model, PROCESSOR, predict_every=4)
    frames = [*make_pictures(2), *make_pictures(2, height=64, width=36)]
    [prediction] = push_all(stream, frames)
    assert stream.get_statistics()["size_changes"] == 1
    with torch.no_grad():
        pixels = [PROCESSOR(frame[None], do_sample_frames=False, return_tensors="pt").pixel_values for frame in frames]
        assert_close(prediction.logits, model(torch.cat(pixels, dim=1)).logits[0])


def test_reset_forgets_one_stream():
    stream = StreamingClassifier(make_model(), PROCESSOR, num_streams=2, predict_every=100)
    for picture in make_pictures(3):
        stream.push([picture, picture], [1.0, 1.0])
    stream.reset(1)
    stream.push([make_pictures(1)[0]] * 2, [1.0, 0.0])
    assert [stream.get_statistics(index)["seen"] for index in (0, 1)] == [4, 1]
    assert stream.predict()[1].num_frames_seen == 1


PICTURE = make_pictures(1)[0]


@pytest.mark.parametrize(
    "frames, times, message",
    [
        ([PICTURE], None, "Got 1 frames for 2 streams"),
        ([PICTURE, None], [1.0], "Got 1 times for 2 streams"),
        ([None, PICTURE.astype(np.float32)], None, r"stream 1 has float32 \(40, 48, 3\)"),
        ([PICTURE[..., 0], None], None, r"stream 0 has uint8 \(40, 48\)"),
        ([PICTURE, None], [0.5, None], "runs backwards in stream 0: 0.5 s after 1.0 s"),
        ([PICTURE, None], None, "Stream 0 has frames with times and frames without"),
        ([PICTURE, None], [float("nan"), None], "finite and below 1e\\+11, stream 0 has nan"),
        ([None, PICTURE], [None, float("inf")], "finite .* stream 1 has inf"),
        ([PICTURE, None], [1e19, None], "below 1e\\+11, stream 0 has 1e\\+19"),
        ([None, PICTURE], [None, "now"], "must be seconds, .* stream 1 has 'now'"),
        ([PICTURE[:0], None], [2.0, None], r"stream 0 has uint8 \(0, 48, 3\)"),
        ([PICTURE.tolist(), None], [2.0, None], "stream 0 has list"),
        ([PICTURE, PICTURE[..., :2]], [2.0, 2.0], r"stream 1 has uint8 \(40, 48, 2\)"),
    ],
)
def test_bad_frames_change_nothing(frames, times, message):
    model = make_model()
    stream = StreamingClassifier(model, PROCESSOR, num_streams=2, fps=25)
    stream.push([PICTURE, None], [1.0, None])
    before = stream.state_dict()
    with pytest.raises(ValueError, match=message):
        stream.push(frames, times)
    assert_same_state(stream.state_dict(), before)
    [prediction, other] = stream.predict()
    assert other is None
    # Nor does what fails on the way, and the stream goes on.
    hook = model.classifier.register_forward_pre_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        for number in range(10):
            before = stream.state_dict()
            stream.push([make_pictures(1, seed=number)[0], PICTURE], [2.0 + number, None])
    assert_same_state(stream.state_dict(), before)
    hook.remove()
    stream.push([PICTURE, PICTURE], [20.0, None])


def assert_same_state(state, expected):
    for one, other in zip(state, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]) if torch.is_tensor(value) else value == other[name], name


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_streams": 0}, "`num_streams` must be at least 1, got 0"),
        ({"num_frames": 1}, "`num_frames` must be at least 2, got 1"),
        ({"predict_every": 0}, "`predict_every` must be at least 1, got 0"),
        ({"memory": "some"}, "must be one of last, all, got 'some'"),
        ({"fps": 0}, "`fps` must be positive, got 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        StreamingClassifier(make_model(), PROCESSOR, **settings)


def test_state_of_something_else_is_refused():
    stream = StreamingClassifier(make_model(), PROCESSOR)
    with pytest.raises(ValueError, match="of 1 streams, but there are 2"):
        StreamingClassifier(make_model(), PROCESSOR, num_streams=2).load_state_dict(stream.state_dict())
    [state] = stream.state_dict()
    with pytest.raises(ValueError, match="holds 7 features per frame, but the backbone gives 32"):
        stream.load_state_dict([state | {"features": torch.zeros(0, 7)}])
    grid = StreamingClassifier(make_model(frame_grid=2), PROCESSOR)
    grid.push([make_pictures(1)[0]])
    with pytest.raises(ValueError, match="holds 5 x 32 features per frame, but the backbone gives 32"):
        stream.load_state_dict(grid.state_dict())
    with pytest.raises(ValueError, match="`num_frames` is 4"):
        full = StreamingClassifier(make_model(), PROCESSOR, num_frames=8)
        push_all(full, make_pictures(6))
        StreamingClassifier(make_model(), PROCESSOR, num_frames=4).load_state_dict(full.state_dict())


@pytest.mark.parametrize(
    "damage",
    [
        {"features": torch.full((3, 32), float("nan"))},
        {"features": torch.zeros(2, 32)},
        {"features": [[0.0] * 32] * 3},
        {"numbers": torch.zeros(2, dtype=torch.long)},
        {"numbers": torch.zeros(3)},
        {"numbers": torch.tensor([2, 1, 0])},
        {"times": None},
        {"times": (0.0, 1.0)},
        {"times": (0.0, 1.0, float("nan"))},
        {"times": (0.0, 1.0, 1e19)},
        {"last_time": float("inf")},
        {"num_seen": 2},
        {"num_seen": 3.5},
        {"step": 0},
        {"last_feature": None},
        {"last_feature": torch.zeros(31)},
        {"last_picture": [1, 2]},
    ],
)
def test_damaged_state_is_refused(damage):
    stream = StreamingClassifier(make_model(), PROCESSOR)
    push_all(stream, make_pictures(3), [0.0, 1.0, 2.0])
    before = stream.state_dict()
    with pytest.raises(ValueError, match="state of a stream is damaged"):
        stream.load_state_dict([before[0] | damage])
    for state in ({"features": before[0]["features"]}, before[0] | {"other": 1}):
        with pytest.raises(ValueError, match="The state of a stream holds .* differs in"):
            stream.load_state_dict([state])
    assert_same_state(stream.state_dict(), before)
