"""Folders of (empty) files: reading a folder opens none of them."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Video

from vtn_hf.data.kinetics import VIDEO_EXTENSIONS, load_class_folders, read_kinetics_labels


LABEL_MAP = Path(__file__).parents[2] / "shared" / "kinetics" / "label_map_k400.txt"


@pytest.fixture
def make_files(tmp_path):
    """Makes empty files below `tmp_path / "root"` and returns that."""

    def make(*names):
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return root

    return make


def list_rows(split, root):
    """The rows of a split as (path below the root, class name)."""
    label = split.features["label"]
    assert all(row["video"]["bytes"] is None for row in split)
    return [(str(Path(row["video"]["path"]).relative_to(root)), label.int2str(row["label"])) for row in split]


def test_split_class_video(make_files):
    root = make_files("train/juggling/b.mp4", "train/juggling/a.mp4", "train/abseiling/c.mp4", "val/juggling/d.mp4")
    videos = load_class_folders(root)
    assert sorted(videos) == ["train", "val"]
    for split in videos.values():
        assert split.features["label"] == ClassLabel(names=["abseiling", "juggling"])
        assert split.features["video"] == Video(decode=False)
    assert list_rows(videos["train"], root) == [
        ("train/abseiling/c.mp4", "abseiling"),
        ("train/juggling/a.mp4", "juggling"),
        ("train/juggling/b.mp4", "juggling"),
    ]
    assert videos["train"]["label"][:] == [0, 1, 1]
    # The label is that of the training split, though the validation split lacks the class before it.
    assert list_rows(videos["val"], root) == [("val/juggling/d.mp4", "juggling")]
    assert videos["val"]["label"][:] == [1]


def test_class_video(make_files):
    root = make_files("juggling/b.mp4", "abseiling/c.mp4", "juggling/a.mp4")
    videos = load_class_folders(root)
    assert list(videos) == ["train"]
    assert list_rows(videos["train"], root) == [
        ("abseiling/c.mp4", "abseiling"),
        ("juggling/a.mp4", "juggling"),
        ("juggling/b.mp4", "juggling"),
    ]


def test_names_of_splits_are_kept(make_files):
    root = make_files("test/a/1.mp4", "train/a/1.mp4", "validate/a/1.mp4", "val/a/1.mp4")
    assert sorted(load_class_folders(root)) == ["test", "train", "val", "validate"]


@pytest.mark.parametrize("kind", [str, Path])
def test_path_of_the_folder(make_files, monkeypatch, kind):
    root = make_files("train/a/1.mp4")
    assert list_rows(load_class_folders(kind(root))["train"], root) == [("train/a/1.mp4", "a")]
    monkeypatch.chdir(root.parent)
    assert list_rows(load_class_folders(kind("root"))["train"], "root") == [("train/a/1.mp4", "a")]


def test_endings(make_files):
    names = [f"a/video{ending}" for ending in VIDEO_EXTENSIONS]
    assert {"a/video.mp4", "a/video.webm", "a/video.mkv", "a/video.avi", "a/video.mov"} <= set(names)
    root = make_files(*names, "a/LOUD.MP4", "a/two.dots.webm")
    expected = sorted([*names, "a/LOUD.MP4", "a/two.dots.webm"])
    assert sorted(name for name, _ in list_rows(load_class_folders(root)["train"], root)) == expected


def test_files_that_are_no_videos_are_ignored(make_files):
    root = make_files(
        "README.md",
        "motion_clips.json",
        "train/labels.csv",
        "train/a/1.mp4",
        "train/a/1.txt",
        "train/a/1.mp4.part",
        "train/a/mp4",
        "train/b/thumbs.db",
        "annotations/train.csv",
    )
    videos = load_class_folders(root)
    assert list(videos) == ["train"]
    assert list_rows(videos["train"], root) == [("train/a/1.mp4", "a")]
    # A class of which no video could be downloaded is a class all the same.
    assert videos["train"].features["label"].names == ["a", "b"]


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_hidden_files_and_folders_are_ignored(make_files, prefix):
    # As Jupyter and macOS leave them.
    root = make_files(f"{prefix}a/1.mp4", f"{prefix}a/._1.mp4", f"{prefix}.ipynb_checkpoints/1-checkpoint.mp4")
    videos = load_class_folders(root)
    assert list_rows(videos["train"], root) == [(f"{prefix}a/1.mp4", "a")]
    assert videos["train"].features["label"].names == ["a"]


def test_spaces_and_unicode(make_files):
    names = ["playing  bass guitar/a b.mp4", "Füße waschen/größe.webm", "太极拳/视频 1.mp4", "robot dancing'/%41.mp4"]
    root = make_files(*names)
    videos = load_class_folders(root)
    assert sorted(list_rows(videos["train"], root)) == sorted((name, name.split("/")[0]) for name in names)
    assert all(Path(row["video"]["path"]).is_file() for row in videos["train"])


def test_given_class_names(make_files):
    root = make_files("train/c/1.mp4", "train/a/1.mp4", "val/b/1.mp4")
    videos = load_class_folders(root, class_names=["c", "b", "unseen", "a"])
    assert videos["train"].features["label"].names == ["c", "b", "unseen", "a"]
    assert dict(zip([row["path"][-7] for row in videos["train"]["video"]], videos["train"]["label"], strict=True)) == {
        "c": 0,
        "a": 3,
    }
    assert videos["val"]["label"][:] == [1]


def test_unknown_folders(make_files):
    root = make_files("train/a/1.mp4", "train/z/1.mp4", "val/y/1.mp4")
    with pytest.raises(ValueError, match=f"{root} has folders that are none of the 2 classes: y, z"):
        load_class_folders(root, class_names=["a", "b"])


def test_videos_of_a_split_that_are_in_no_class(make_files):
    # The test set of Kinetics comes without classes; the splits must not be taken for classes.
    root = make_files("train/a/1.mp4", "train/b/1.mp4", "test/1.mp4")
    with pytest.raises(ValueError, match="test"):
        load_class_folders(root)


@pytest.mark.parametrize("names", [[], ["readme.txt"], ["a/readme.txt"], ["1.mp4"], ["x/train/a/1.mp4"]])
def test_no_videos_in_class_folders(make_files, names):
    root = make_files(*names)
    with pytest.raises(FileNotFoundError, match=f"{root} holds no videos: expected {root}/CLASS/VIDEO"):
        load_class_folders(root)


def test_folder_that_is_not_there(make_files):
    root = make_files("a/1.mp4")
    for path in (root / "nowhere", root / "a" / "1.mp4"):
        with pytest.raises(FileNotFoundError, match=f"{path} is not a folder"):
            load_class_folders(path)


def test_kinetics_400_labels():
    labels = read_kinetics_labels(400)
    assert len(labels) == len(set(labels)) == 400
    assert (labels[0], labels[5], labels[6], labels[-1]) == ("abseiling", "archery", "arm wrestling", "zumba")
    assert all(label == label.strip() and label for label in labels)


@pytest.mark.skipif(not LABEL_MAP.is_file(), reason=f"no {LABEL_MAP}")
def test_kinetics_400_labels_equal_the_label_map():
    assert read_kinetics_labels(400) == LABEL_MAP.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("num_classes", [0, 399, 600])
def test_kinetics_of_another_size(num_classes):
    with pytest.raises(ValueError, match=f"got num_classes={num_classes}"):
        read_kinetics_labels(num_classes)
