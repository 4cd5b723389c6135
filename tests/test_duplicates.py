"""Videos that are there twice, among others that look alike."""

import shutil

import av
import numpy as np
import pytest

from drawn_videos.motion_clips import CLASS_NAMES, draw_clip
from vtn_hf.data.duplicates import choose_moments, find_alike, find_duplicates, group_pairs, make_fingerprint, shrink
from vtn_hf.data.scan import (
    describe_classes,
    describe_duplicates,
    find_places,
    find_scanned_duplicates,
    read_scan,
    scan_video,
    scan_videos,
)


def encode(path, frames, fps, crf=20):
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf)})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def halve(frames):
    num_frames, height, width, _ = frames.shape
    return frames.reshape(num_frames, height // 2, 2, width // 2, 2, 3).mean(axis=(2, 4)).astype(np.uint8)


def fingerprint(frames):
    return make_fingerprint([shrink(frames[number]) for number in choose_moments(len(frames))])


@pytest.fixture(scope="module")
def clips():
    generator = np.random.default_rng(0)
    return [draw_clip(CLASS_NAMES[number % 10], generator) for number in range(60)]


def test_no_two_unrelated_clips_are_alike(clips):
    """1,770 pairs; clips played backwards are others, too."""
    prints = [fingerprint(frames) for frames, _ in clips]
    assert list(find_alike(prints)) == []
    assert list(find_alike([prints[0], fingerprint(clips[0][0][::-1].copy())])) == []


@pytest.mark.parametrize("name", ["fights"])
def test_nor_pictures_of_the_same_camera(name, shared_dir):
    """Two seconds each of many fixed cameras, several of most of them: a few of 45,000 pairs."""
    paths = sorted((shared_dir("real") / name).glob("noFight/*"))[:40]
    prints = [scan_video(str(path)).fingerprint for path in paths]
    assert all(prints) and list(find_alike(prints)) == []


def test_re_encoded_at_half_size(clips, tmp_path):
    for number, (frames, fps) in enumerate(clips[:10]):
        original, copy = tmp_path / f"{number}.mp4", tmp_path / f"{number}_half.mp4"
        prints = [scan_video(encode(original, frames, fps)), scan_video(encode(copy, halve(frames), fps, crf=30))]
        assert list(find_alike([video.fingerprint for video in prints])) == [(0, 1)]


def test_stills_and_black():
    """Where nothing moves, the picture decides; where there is none, nothing does."""
    generator = np.random.default_rng(0)
    still = np.repeat(generator.integers(0, 256, (1, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2), 20, axis=0)
    other = np.repeat(generator.integers(0, 256, (1, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2), 20, axis=0)
    black = np.zeros_like(still)
    prints = [fingerprint(frames) for frames in (still, other, still[:5] + 0, black, black)]
    assert list(find_alike(prints)) == [(0, 2)]


def test_content_and_pictures_together():
    generator = np.random.default_rng(0)
    prints = [fingerprint(generator.integers(0, 256, (9, 16, 16, 3), np.uint8)) for _ in range(2)]
    found = find_duplicates(
        ["b", "a", "c", "d", "bad"], ["1", "1", "2", "3", ""], [prints[0], prints[0], prints[0], prints[1], ""]
    )
    assert [(group.paths, group.is_same_content) for group in found] == [(["a", "b"], True), (["a", "b", "c"], False)]


def test_groups():
    assert group_pairs([(1, 2), (3, 4), (5, 6), (2, 6)]) == [[1, 2, 5, 6], [3, 4]]


def test_across_splits_first(clips, tmp_path):
    """Two copies: one in the other split, which is re-encoded and smaller, and one beside its original."""
    root = tmp_path / "videos"
    for number, (frames, fps) in enumerate(clips[:6]):
        folder = root / ("train" if number < 4 else "val") / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        encode(folder / f"{number}.mp4", frames, fps)
    frames, fps = clips[1]
    encode(root / "val/class 1/copy.mp4", halve(frames), fps, crf=30)
    shutil.copy(root / "train/class 0/0.mp4", root / "train/class 0/again.mp4")
    videos = list(scan_videos([str(path) for path in sorted(root.rglob("*.mp4"))], tmp_path / "scan.csv"))
    assert find_scanned_duplicates(read_scan(tmp_path / "scan.csv").values()) == find_scanned_duplicates(videos)
    splits, labels = find_places(root, videos)
    lines = describe_duplicates(videos, splits).splitlines()
    assert lines == [
        "2 video(s) are there more than once, 1 of them in several splits.",
        f"  same pictures in train and val: {root}/train/class 1/1.mp4, {root}/val/class 1/copy.mp4",
        f"  same content in train: {root}/train/class 0/0.mp4, {root}/train/class 0/again.mp4",
    ]
    assert describe_classes(labels).splitlines() == ["2 classes, of 4 to 4 videos:", "  class 0: 4", "  class 1: 4"]


def test_places_by_a_list(tmp_path):
    """Lists say splits and classes; what is in none has its folder's name."""
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.mp4").write_text(name)
    (tmp_path / "test.csv").write_text("video,labels\na.mp4,run;jump\n")
    (tmp_path / "train.csv").write_text("video,labels\nb.mp4,run\n")
    videos = [scan_video(str(tmp_path / f"{name}.mp4")) for name in "abc"]
    splits, labels = find_places(tmp_path, videos)
    assert [splits[video.path] for video in videos] == ["test", "train", ""]
    assert labels == ["run", "jump", "run", tmp_path.name]
