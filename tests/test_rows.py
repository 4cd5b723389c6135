"""Videos and labels of people's own data sets."""

import io
import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value, Video
from torch.utils.data import DataLoader
from video_files import write_video

from vtn_hf import VideoDecodeError, VTNVideoProcessor
from vtn_hf.data.clips import ClipTransform, collate_videos
from vtn_hf.data.rows import find_label, find_label_vector, find_source
from vtn_hf.data.segments import VideoSegment
from vtn_hf.video_decoding_vtn import decode_video


PATH = Path("a b.mp4")


@pytest.mark.parametrize(
    ("video", "source"),
    [
        ("a b.mp4", "a b.mp4"),
        (PATH, PATH),
        ({"path": "a b.mp4", "bytes": None}, "a b.mp4"),
        ({"path": "a b.mp4"}, "a b.mp4"),
        ({"path": "a b.mp4", "bytes": b"video"}, b"video"),
        ({"bytes": b"video"}, b"video"),
        (b"video", b"video"),
        (bytearray(b"video"), bytearray(b"video")),
        ("file:///home/a%20b.mp4", "/home/a b.mp4"),
        ({"path": "file://localhost/home/a b.mp4", "bytes": None}, "/home/a b.mp4"),
        ("file:///%ff.mp4", os.fsdecode(b"/\xff.mp4")),
        ("~/a.mp4", "/home/me/a.mp4"),
        ("https://example.org/a.mp4", "https://example.org/a.mp4"),
        ("subfile,,start,512,end,9000,,:videos.tar", "subfile,,start,512,end,9000,,:videos.tar"),
    ],
)
def test_sources(video, source, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert find_source(video) == source


def test_binary_files():
    file = io.BytesIO(b"video")
    assert find_source(file) is file


@pytest.mark.parametrize("video", [None, 3, float("nan"), {"path": None, "bytes": None}, {}, ["a.mp4"]])
def test_videos_that_are_none(video):
    with pytest.raises(ValueError, match="The video of row 'here' must be a path, bytes, or a dictionary .* got "):
        find_source(video, "here")


@pytest.mark.parametrize(
    "label",
    [1, np.int32(1), np.uint8(1), np.int64(1), torch.tensor(1), torch.tensor(1, dtype=torch.int16), True, np.array(1)],
)
def test_labels(label):
    found = find_label(label)
    assert found == 1 and type(found) is int


def test_other_labels():
    assert find_label(-100) == -100
    assert find_label(0.25) == find_label(np.float16(0.25)) == find_label(torch.tensor(0.25)) == 0.25
    assert find_label([0.0, 0.5]).tolist() == [0, 0.5]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("walk", "must be a number, got str 'walk'; make numbers of names with `class_encode_column`"),
        ("1", "must be a number, got str '1'; make numbers of names"),
        (None, "must be a number, got NoneType None"),
        (float("nan"), "must be a number, got float nan"),
        (-1, "is -1; labels are numbers of classes from 0 on"),
        ([0, 1], "must be a number, got list .0, 1.; several labels need `num_labels`"),
    ],
)
def test_labels_that_are_none(label, message):
    with pytest.raises(ValueError, match=f"The label of 'here' {message}"):
        find_label(label, "here")


@pytest.mark.parametrize(
    ("label", "vector"),
    [
        (1, [0, 1, 0]),
        (np.uint8(1), [0, 1, 0]),
        ([], [0, 0, 0]),
        ([2], [0, 0, 1]),
        ([2, 0], [1, 0, 1]),
        (np.array([2, 0], dtype=np.int16), [1, 0, 1]),
        (torch.tensor([0, 2]), [1, 0, 1]),
        # Numbers of all classes, and zeros and ones.
        ([0, 1, 2], [1, 1, 1]),
        ([0, 1, 1], [0, 1, 1]),
        ([0, 0, 0], [0, 0, 0]),
        ([1, 1, 1], [1, 1, 1]),
        (np.array([1, 0, 1], dtype=np.uint8), [1, 0, 1]),
        (torch.tensor([0, 1, 0], dtype=torch.int32), [0, 1, 0]),
        ([True, False, True], [1, 0, 1]),
        ([0.0, 1.0, 0.5], [0, 1, 0.5]),
        (torch.tensor([0.0, 1.0, 1.0]), [0, 1, 1]),
    ],
)
def test_several_labels(label, vector):
    found = find_label_vector(label, 3)
    assert found.dtype == torch.float32
    assert found.tolist() == vector


@pytest.mark.parametrize("label", [[3], [0, 3], [-1], [1, 1], [0.0, 1.0], [0.0, 1.0, 2.0], ["a"], [[0, 1, 0]], [1.5]])
def test_several_labels_that_are_none(label):
    with pytest.raises(ValueError, match="The labels of 'here' must be different numbers from 0 to 2, or 3 numbers"):
        find_label_vector(label, 3, "here")


def test_two_classes():
    """Of whole numbers it is not clear what they are, unless they are the numbers of both."""
    assert find_label_vector([0, 1], 2).tolist() == [1, 1]
    assert find_label_vector([1], 2).tolist() == [0, 1]
    assert find_label_vector([1.0, 0.0], 2).tolist() == [1, 0]
    for label in ([1, 0], [0, 0], [1, 1]):
        with pytest.raises(ValueError, match="one per class .of floating-point type where there are two., got list"):
            find_label_vector(label, 2)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    frames = np.random.default_rng(0).integers(0, 256, (8, 12, 16, 3), dtype=np.uint8)
    return write_video(tmp_path_factory.mktemp("videos") / "a b.mp4", frames)


@pytest.mark.parametrize("label", [Value("int32"), Value("uint8"), Value("bool"), ClassLabel(names=["a", "b"])])
@pytest.mark.parametrize("video", [Value("string"), Video(decode=False)])
def test_columns_of_data_sets(path, label, video):
    rows = {"video": [str(path), path.as_uri()], "label": [1, 0]}
    dataset = Dataset.from_dict(rows, features=Features({"video": video, "label": label}))
    dataset = dataset.with_transform(ClipTransform(VTNVideoProcessor(num_frames=4, size=8, crop_size=8)))
    (batch,) = DataLoader(dataset, batch_size=2, collate_fn=collate_videos)
    assert batch["labels"].dtype == torch.int64 and batch["labels"].tolist() == [1, 0]
    assert batch["pixel_values"][0].equal(batch["pixel_values"][1])


def test_columns_of_several_labels(path):
    rows = {"video": [str(path)] * 2, "label": [[0, 1, 1], [0, 0, 0]]}
    features = Features({"video": Value("string"), "label": List(Value("int8"))})
    dataset = Dataset.from_dict(rows, features=features)
    transform = ClipTransform(VTNVideoProcessor(num_frames=4, size=8, crop_size=8), num_labels=3)
    (batch,) = DataLoader(dataset.with_transform(transform), batch_size=2, collate_fn=collate_videos)
    assert batch["labels"].tolist() == [[0, 1, 1], [0, 0, 0]]


def test_paths_of_fsspec(tmp_path):
    content = write_video(tmp_path / "a.mp4", np.zeros((3, 16, 16, 3), np.uint8)).read_bytes()
    fsspec.filesystem("memory").pipe("/videos/a.mp4", content)
    source = find_source({"path": "memory://videos/a.mp4", "bytes": None})
    frames, _ = decode_video(source)
    assert len(frames) == 3 and len(decode_video(VideoSegment(source, 0, 0.05))[0]) < 3
    with pytest.raises(VideoDecodeError, match="memory://videos/b.mp4"):
        decode_video(find_source("memory://videos/b.mp4"))
    with pytest.raises(VideoDecodeError, match="nothing://b.mp4"):
        decode_video(find_source("nothing://b.mp4"))
