"""Tests of the clips whose classes differ only in the direction of time."""

import json
import sys

import av
import numpy as np
import pytest

from drawn_videos import drawing, motion_clips
from drawn_videos.motion_clips import (
    CLASS_NAMES,
    SMALL_CLASS_NAMES,
    TIME_REVERSED,
    draw_clip,
    write_motion_clips,
    write_small_motion_clips,
)


NUM_TRAIN, NUM_VAL, SEED = 23, 10, 5


@pytest.fixture(scope="module")
def clips_root(tmp_path_factory):
    return write_motion_clips(tmp_path_factory.mktemp("motion"), NUM_TRAIN, NUM_VAL, seed=SEED, num_workers=1)


def draw(class_name, seed):
    return draw_clip(class_name, np.random.default_rng(seed))


def decode(path):
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def file_bytes(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*.mp4")}


def contrast(frames):
    """The brightness of every pixel relative to the rim of the first frame, (frames, height, width)."""
    luma = frames @ np.array([0.299, 0.587, 0.114])
    return luma - np.median(np.concatenate([luma[0, [0, -1]].ravel(), luma[0, :, [0, -1]].ravel()]))


def is_strong(contrasts):
    """Marks the object, which differs from the background by 90, less at most 25 for the pattern of the background."""
    return abs(contrasts) > 57


def centroids(frames):
    """The centre of the object in every frame in pixels: horizontal and vertical, each of shape (frames,)."""
    mask = is_strong(contrast(frames))
    areas = mask.sum(axis=(1, 2))
    return (mask.sum(axis=1) @ np.arange(mask.shape[2]) / areas, mask.sum(axis=2) @ np.arange(mask.shape[1]) / areas)


def rightward_shift(frames):
    horizontal, _ = centroids(frames)
    return horizontal[-1] - horizontal[0]


def downward_shift(frames):
    _, vertical = centroids(frames)
    return vertical[-1] - vertical[0]


def clockwise_area(frames):
    """The area that the path of the object encloses, positive if it turns clockwise on a screen (vertical is down)."""
    horizontal, vertical = (positions - positions.mean() for positions in centroids(frames))
    return (horizontal[:-1] * vertical[1:] - horizontal[1:] * vertical[:-1]).sum()


def growth(frames):
    areas = is_strong(contrast(frames)).sum(axis=(1, 2))
    return areas[-1] - areas[0]


def corner_gain(frames):
    """How much farther from its centre the object gains pixels than it loses them when its shape changes.

    A square reaches farther out than a circle of the same area.
    """
    contrasts = contrast(frames)
    changes = np.diff(contrasts, axis=0)
    swap = is_strong(changes).sum(axis=(1, 2)).argmax()
    centre = np.argwhere(is_strong(changes[swap])).mean(axis=0)
    changes = changes[swap] * np.sign(contrasts[swap][tuple(centre.astype(int))])
    gained, lost = (np.argwhere(is_strong(changes) & (sign * changes > 0)) for sign in (1, -1))
    return np.hypot(*(gained - centre).T).mean() - np.hypot(*(lost - centre).T).mean()


def area_gain(frames):
    """How much more of the last frame than of the first one is object."""
    mask = is_strong(contrast(frames))
    return int(mask[-1].sum()) - int(mask[0].sum())


def width_gain(frames):
    """How much wider the objects of the last frame reach than those of the first one, in pixels."""
    columns = [np.flatnonzero(mask.any(axis=0)) for mask in is_strong(contrast(frames))[[0, -1]]]
    first, last = (np.ptp(each) for each in columns)
    return last - first


def test_classes_come_in_five_pairs():
    assert {*CLASS_NAMES, *SMALL_CLASS_NAMES} == TIME_REVERSED.keys()
    for names in (CLASS_NAMES, SMALL_CLASS_NAMES):
        assert len(names) == 10 and {TIME_REVERSED[name] for name in names} == {*names}
    for class_name, partner in TIME_REVERSED.items():
        assert partner != class_name
        assert TIME_REVERSED[partner] == class_name


@pytest.mark.parametrize("class_name", TIME_REVERSED)
def test_clip_is_a_small_colour_video(class_name):
    for seed in range(4):
        frames, frame_rate = draw(class_name, seed)
        assert frames.dtype == np.uint8
        assert 24 <= len(frames) <= 48
        assert all(64 <= side <= 96 and side % 2 == 0 for side in frames.shape[1:3])
        assert frames.shape[3] == 3
        assert 10 <= frame_rate <= 30


def test_clips_vary_in_everything():
    clips = [draw("growing", seed) for seed in range(20)]
    assert len({len(frames) for frames, _ in clips}) > 5
    assert len({frames.shape[1:3] for frames, _ in clips}) > 5
    assert any(frames.shape[1] != frames.shape[2] for frames, _ in clips)
    assert len({frame_rate for _, frame_rate in clips}) > 3


@pytest.mark.parametrize("class_name", TIME_REVERSED)
def test_partner_is_the_same_scene_backwards(class_name):
    frames, frame_rate = draw(class_name, 11)
    partner_frames, partner_frame_rate = draw(TIME_REVERSED[class_name], 11)
    np.testing.assert_array_equal(frames, partner_frames[::-1])
    assert frame_rate == partner_frame_rate


@pytest.mark.parametrize(
    "class_name, measure",
    [
        ("moving right", rightward_shift),
        ("moving down", downward_shift),
        ("orbiting clockwise", clockwise_area),
        ("growing", growth),
        ("circle before square", corner_gain),
        ("appearing", area_gain),
        ("moving apart", width_gain),
    ],
)
def test_class_shows_the_motion_it_names(class_name, measure):
    for seed in range(12):
        assert measure(draw(class_name, seed)[0]) > 0
        assert measure(draw(TIME_REVERSED[class_name], seed + 100)[0]) < 0


def test_unknown_class_is_refused():
    with pytest.raises(ValueError, match="'moving away'.*growing.*square before circle"):
        draw("moving away", 0)


def test_encoding_keeps_no_trace_of_the_direction(tmp_path):
    frames, frame_rate = draw("moving up", 3)
    drawing.encode(tmp_path / "up.mp4", frames, frame_rate)
    drawing.encode(tmp_path / "down.mp4", frames[::-1], frame_rate)
    np.testing.assert_array_equal(decode(tmp_path / "up.mp4"), decode(tmp_path / "down.mp4")[::-1])


def test_folder_is_balanced(clips_root):
    for split, total in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        counts = {folder.name: len(list(folder.glob("*.mp4"))) for folder in (clips_root / split).iterdir()}
        assert sorted(counts) == list(CLASS_NAMES)
        assert sum(counts.values()) == total
        assert max(counts.values()) - min(counts.values()) <= 1


def test_small_clips_are_small(tmp_path):
    root = write_small_motion_clips(tmp_path, num_train=10, num_val=0, num_workers=1)
    for path in root.rglob("*.mp4"):
        frames = decode(path)
        assert 12 <= len(frames) <= 16 and frames.shape[1:] == (32, 32, 3)
    assert {path.name for path in (root / "train").iterdir()} == {*SMALL_CLASS_NAMES}
    with pytest.raises(FileExistsError):
        write_motion_clips(root, 10, 0)


@pytest.mark.parametrize("split", ["train", "val"])
def test_files_hold_the_drawn_clips(clips_root, split):
    for path in sorted((clips_root / split).glob("*/*.mp4"))[::4]:
        index = int(path.stem.split("_")[1])
        frames, frame_rate = draw(path.parent.name, [SEED, ["train", "val"].index(split), index])
        decoded = decode(path)
        assert decoded.shape == frames.shape
        assert abs(decoded.astype(float) - frames).mean() < 6
        with av.open(path) as container:
            stream = container.streams.video[0]
            assert stream.average_rate == frame_rate
            assert stream.pix_fmt == "yuv420p"


def test_splits_share_no_clip(clips_root):
    contents = list(file_bytes(clips_root).values())
    assert len(set(contents)) == len(contents) == NUM_TRAIN + NUM_VAL


def test_worker_count_changes_nothing(clips_root, tmp_path):
    assert file_bytes(write_motion_clips(tmp_path, NUM_TRAIN, NUM_VAL, SEED, num_workers=2)) == file_bytes(clips_root)


def test_more_clips_begin_with_the_same_ones(clips_root, tmp_path):
    fewer = file_bytes(write_motion_clips(tmp_path, 10, 0, SEED, num_workers=1))
    assert fewer.items() <= file_bytes(clips_root).items()


def test_complete_folder_is_left_alone(tmp_path):
    write_motion_clips(tmp_path, 2, 1, num_workers=1)
    assert json.loads((tmp_path / "motion_clips.json").read_text()) == {
        "num_train": 2,
        "num_val": 1,
        "seed": 0,
        "complete": True,
    }
    removed = next(tmp_path.glob("train/*/*.mp4"))
    removed.unlink()
    assert write_motion_clips(tmp_path, 2, 1, num_workers=1) == tmp_path
    assert not removed.exists()


def test_interrupted_run_is_finished(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    expected = file_bytes(write_motion_clips(tmp_path / "whole", 12, 4, num_workers=1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(drawing, "tqdm", interrupt)
        write_motion_clips(tmp_path / "cut", 12, 4, num_workers=1)
    (tmp_path / "cut" / "train" / "growing" / "train_000001.mp4").write_bytes(b"half a file")
    assert file_bytes(write_motion_clips(tmp_path / "cut", 12, 4, num_workers=1)) == expected


def test_other_folders_are_refused(clips_root, tmp_path):
    with pytest.raises(FileExistsError, match=f"'num_train': {NUM_TRAIN}.*'num_train': 40"):
        write_motion_clips(clips_root, 40, NUM_VAL, SEED)
    (tmp_path / "holiday.txt").touch()
    with pytest.raises(FileExistsError, match=r"not empty and has no motion_clips\.json"):
        write_motion_clips(tmp_path, 10, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


@pytest.mark.parametrize("name, value", [("num_train", 0), ("num_train", -3), ("num_val", -1), ("seed", -7)])
def test_impossible_numbers_are_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} .*{value}"):
        write_motion_clips(tmp_path / "clips", **{"num_train": 10, "num_val": 10, name: value})
    assert not (tmp_path / "clips").exists()


def test_command_writes_the_same_files(tmp_path, monkeypatch):
    command = ["motion_clips", str(tmp_path / "command"), "--num_train", "3", "--num_val", "1", "--seed", "2"]
    monkeypatch.setattr(sys, "argv", command)
    motion_clips.main()
    called = write_motion_clips(tmp_path / "called", 3, 1, seed=2, num_workers=1)
    assert file_bytes(tmp_path / "command") == file_bytes(called)
