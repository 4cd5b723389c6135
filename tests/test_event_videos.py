"""Tests of the long videos whose class is decided by moments."""

import sys

import av
import numpy as np
import pytest

from drawn_videos import event_videos
from drawn_videos.event_videos import CLASS_NAMES, draw_event_video, read_schedule, write_event_videos


@pytest.fixture(scope="module", params=list(CLASS_NAMES))
def collection(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    num_train = len(CLASS_NAMES[request.param])
    return request.param, write_event_videos(request.param, root, num_train, 2, seed=3, num_workers=1)


def decode(path):
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(float)


def covered(frames):
    """How much of each frame differs clearly from the background, the median over time."""
    return (abs(frames - np.median(frames, axis=0)).max(axis=-1) > 45).mean(axis=(1, 2))


@pytest.mark.parametrize("task, link", [("moment", ", then "), ("order", ", later ")])
def test_every_class_has_a_partner_in_the_opposite_order(task, link):
    assert len(CLASS_NAMES[task]) == 6
    assert all(link.join(reversed(name.split(link))) in CLASS_NAMES[task] for name in CLASS_NAMES[task])


def test_files_hold_the_drawn_videos(collection):
    task, root = collection
    path = sorted(root.glob("train/*/*.mp4"))[0]
    index = int(path.stem.split("_")[1])
    frames, frame_rate = draw_event_video(task, path.parent.name, np.random.default_rng([3, 0, index]))
    assert 256 <= len(frames) <= 320
    assert abs(decode(path) - frames).mean() < 6
    with av.open(path) as container:
        assert container.streams.video[0].average_rate == frame_rate == 25


def test_schedule_says_when_the_large_objects_are_there(collection):
    task, root = collection
    for path in sorted(root.glob("*/*/*.mp4"))[::3]:
        frames = decode(path)
        num_frames, events = read_schedule(path)
        assert num_frames == len(frames)
        gap = events[1].start - events[0].stop
        assert gap == 0 if task == "moment" else gap >= 128
        is_event = np.isin(np.arange(num_frames), np.concatenate(events))
        # Distractors cover a few per cent of every frame, and an event comes on top of them.
        assert covered(frames)[is_event].mean() > covered(frames)[~is_event].mean() + 0.015
        for event in events:
            assert 12 <= len(event) <= 20


def test_something_moves_all_the_time(collection):
    task, root = collection
    frames = decode(sorted(root.glob("val/*/*.mp4"))[0])
    events = np.concatenate(read_schedule(sorted(root.glob("val/*/*.mp4"))[0]).events)
    changes = (abs(frames[8:] - frames[:-8]).max(axis=-1) > 45).mean(axis=(1, 2))
    outside = [time for time in range(len(changes)) if not {time, time + 8} & set(events)]
    assert (changes[outside] > 0).mean() > 0.95


@pytest.mark.parametrize("task, link", [("moment", ", then "), ("order", ", later ")])
def test_partners_differ_in_the_events_only(task, link):
    names = [link.join(pair) for pair in (("circle", "square"), ("square", "circle"))]
    first, second = (draw_event_video(task, name, np.random.default_rng(1))[0] for name in names)
    is_event = np.isin(
        np.arange(len(first)), np.concatenate(event_videos._draw_schedule(task, np.random.default_rng(1)).events)
    )
    np.testing.assert_array_equal(first[~is_event], second[~is_event])
    assert (first[is_event] != second[is_event]).any(axis=(1, 2, 3)).all()


def test_unknown_classes_and_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'growing' of 'order'.*circle, later square"):
        draw_event_video("order", "growing", np.random.default_rng(0))
    with pytest.raises(FileNotFoundError, match="holds no event videos"):
        read_schedule(tmp_path / "train" / "growing" / "train_000001.mp4")


def test_command_writes_a_collection(tmp_path, monkeypatch):
    command = ["event_videos", "order", str(tmp_path / "order"), "--num_train", "1", "--num_val", "0", "--seed", "2"]
    monkeypatch.setattr(sys, "argv", command)
    event_videos.main()
    assert len(list(tmp_path.glob("order/train/*/*.mp4"))) == 1
    assert read_schedule(next(tmp_path.glob("order/train/*/*.mp4"))).num_frames >= 256
