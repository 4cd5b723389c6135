"""Class folders of (empty) files, as people have them."""

import os
import unicodedata

import pytest
from collection_files import make_files, read_back
from datasets import ClassLabel, Video

from vtn_hf.data.collection import read_collection
from vtn_hf.data.listing import VIDEO_EXTENSIONS, find_file


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def test_split_class_video(root):
    make_files(root, "train/juggling/b.mp4", "train/juggling/a.mp4", "train/abseiling/c.mp4", "val/juggling/d.mp4")
    collection = read_collection(root)
    assert sorted(collection.videos) == ["train", "val"]
    for split in collection.videos.values():
        assert split.features["label"] == ClassLabel(names=["abseiling", "juggling"])
        assert split.features["video"] == Video(decode=False)
    assert read_back(collection) == {
        "train/abseiling/c.mp4": "abseiling",
        "train/juggling/a.mp4": "juggling",
        "train/juggling/b.mp4": "juggling",
    }
    row = collection.videos["train"][0]
    assert row["video"] == {"path": f"{root}/train/abseiling/c.mp4", "bytes": None}
    # The label is that of the training split, though the validation split lacks the class before it.
    assert collection.videos["val"]["label"][:] == [1]
    assert collection.num_videos == {"train": 3, "val": 1}
    assert collection.notes == []


def test_class_video(root):
    make_files(root, "juggling/b.mp4", "abseiling/c.mp4", "juggling/a.mp4")
    collection = read_collection(root)
    assert list(collection.videos) == ["train"]
    assert list(read_back(collection).items()) == [
        ("abseiling/c.mp4", "abseiling"),
        ("juggling/a.mp4", "juggling"),
        ("juggling/b.mp4", "juggling"),
    ]


@pytest.mark.parametrize(
    ("train", "val"), [("Train", "VAL"), ("training", "validation"), ("TRAINING", "Valid"), ("train", "validate")]
)
def test_names_of_splits(root, train, val):
    make_files(root, f"{train}/a/1.mp4", f"{val}/a/2.mp4", "Test/a/3.mp4", "hard/a/4.mp4")
    collection = read_collection(root)
    assert {split: list(read_back(collection, split)) for split in collection.videos} == {
        "train": [f"{train}/a/1.mp4"],
        "val": [f"{val}/a/2.mp4"],
        "test": ["Test/a/3.mp4"],
        "hard": ["hard/a/4.mp4"],
    }


def test_two_folders_for_one_split(root):
    make_files(root, "train/a/1.mp4", "val/a/1.mp4", "validation/a/2.mp4")
    with pytest.raises(ValueError, match="holds both val/ and validation/, which mean the same split"):
        read_collection(root)


@pytest.mark.parametrize("names", [("trian", "valid_256"), ("train_256", "val_256"), ("Trainset", "Valset")])
def test_misspelt_splits(root, names):
    make_files(root, *(f"{name}/{label}/1.mp4" for name in names for label in "ab"))
    with pytest.raises(ValueError, match=f"{names[0]} .train.*none of which is the name of a split. Rename them to"):
        read_collection(root)


@pytest.mark.parametrize("kind", [str, None])
def test_path_of_the_folder(root, monkeypatch, kind):
    kind = kind or type(root)
    make_files(root, "train/a/1.mp4")
    monkeypatch.chdir(root.parent)
    monkeypatch.setenv("HOME", str(root.parent))
    for path in (root, "root", "~/root"):
        assert read_back(read_collection(kind(path))) == {"train/a/1.mp4": "a"}


def test_endings(root):
    names = [f"a/video{ending}" for ending in VIDEO_EXTENSIONS]
    assert {"a/video.mp4", "a/video.webm", "a/video.mkv", "a/video.avi", "a/video.mov"} <= set(names)
    names += ["a/LOUD.MP4", "a/two.dots.webm"]
    make_files(root, *names)
    assert sorted(read_back(read_collection(root))) == sorted(names)


def test_files_that_are_no_videos_are_counted(root):
    make_files(
        root,
        "README.md",
        "motion_clips.json",
        "train/labels.csv",
        "train/a/1.mp4",
        "train/a/1.txt",
        "train/a/2.txt",
        "train/a/1.mp4.part",
        "train/a/mp4",
        "train/b/thumbs.db",
        "annotations/train.csv",
    )
    collection = read_collection(root)
    assert read_back(collection) == {"train/a/1.mp4": "a"}
    # A class of which no video could be downloaded is a class all the same.
    assert collection.class_names == ["a", "b"]
    printed = collection.describe()
    assert "1 of 2 classes have no videos: b" in printed
    assert "2 .txt (train/a/1.txt, train/a/2.txt)" in printed
    assert "1 without an ending (train/a/mp4)" in printed and ".part" in printed and "README" not in printed


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_hidden_files_and_folders(root, prefix):
    # As Jupyter, macOS and network storage leave them.
    hidden = [".ipynb_checkpoints/1-checkpoint.mp4", "__MACOSX/a/._1.mp4", "@eaDir/1.mp4", ".DS_Store"]
    make_files(root, *(prefix + name for name in ("a/1.mp4", "a/._1.mp4", "a/.DS_Store", *hidden)))
    collection = read_collection(root)
    assert read_back(collection) == {f"{prefix}a/1.mp4": "a"}
    assert collection.class_names == ["a"]
    assert "2 hidden" in collection.describe() or "6 hidden" in collection.describe()


def test_spaces_and_unicode(root):
    names = ["playing  bass guitar/a b.mp4", "Füße waschen/größe.webm", "太极拳/视频 1.mp4", "robot dancing'/%41.mp4"]
    make_files(root, *names)
    collection = read_collection(root)
    assert read_back(collection) == {name: name.split("/")[0] for name in names}
    assert all(os.path.isfile(row["video"]["path"]) for row in collection.videos["train"])


def test_names_that_are_not_utf8(root):
    make_files(root, b"train/a/\xff.mp4", "train/a/1.mp4", b"train/\xe4/2.mp4")
    collection = read_collection(root)
    assert read_back(collection) == {"train/a/1.mp4": "a", r"train/a/\xff.mp4": "a", r"train/\xe4/2.mp4": r"\xe4"}
    assert all(os.path.isfile(find_file(video["path"])) for video in collection.videos["train"]["video"])
    collection.describe().encode()


def test_composed_and_decomposed_names_are_one_class(root):
    make_files(root, "train/Füße/1.mp4", f"val/{unicodedata.normalize('NFD', 'Füße')}/2.mp4")
    collection = read_collection(root)
    assert collection.class_names == ["Füße"]
    assert collection.num_videos == {"train": 1, "val": 1}
    assert (
        "The folders of 'Füße' differ in space around the name, or in how Unicode writes it" in collection.describe()
    )


def test_unknown_folders(root):
    make_files(root, "train/a/1.mp4", "train/z/1.mp4", "val/y/1.mp4")
    with pytest.raises(ValueError, match=f"{root} has folders that are none of the 2 classes: y, z"):
        read_collection(root, ["a", "b"])


def test_videos_directly_in_splits(root):
    make_files(root, "train/1.mp4", "train/2.mp4", "val/3.mp4")
    with pytest.raises(ValueError, match="root/train, .*root/val: videos are directly in the folders of splits"):
        read_collection(root)
    # Some of them: the test set of Kinetics comes without classes.
    make_files(root, "train/a/1.mp4")
    with pytest.raises(ValueError, match="3 video.s. of a split are in no class folder.*train/1.mp4"):
        read_collection(root)


def test_a_class_that_is_called_like_a_split(root):
    make_files(root, "train/1.mp4", "bus/2.mp4", "car/3.mp4")
    collection = read_collection(root)
    assert collection.class_names == ["bus", "car", "train"]
    assert "root/train is read as a class" in collection.describe()
    nested = make_files(root.with_name("nested"), "train/train/1.mp4", "train/bus/2.mp4", "val/train/3.mp4")
    assert read_collection(nested).counts["train"] == {"train": 1, "bus": 1}


def test_videos_in_folders_inside_of_class_folders(root):
    make_files(root, "train/a/g01/1.mp4", "train/a/2.mp4", "train/b/g01/x/3.mp4", "val/a/4.mp4")
    collection = read_collection(root)
    assert read_back(collection) == {"train/a/2.mp4": "a", "train/a/g01/1.mp4": "a", "train/b/g01/x/3.mp4": "b"}
    assert "2 video(s) are in folders inside of class folders (train/a/g01/1.mp4, train" in collection.describe()
    flat = make_files(root.with_name("flat"), "a/g01/1.mp4", "b/g01/2.mp4")
    collection = read_collection(flat)
    assert read_back(collection) == {"a/g01/1.mp4": "a", "b/g01/2.mp4": "b"}
    assert "2 video(s) are in folders inside of class folders" in collection.describe()


@pytest.mark.parametrize("names", [["x/train/a/1.mp4", "x/val/a/2.mp4"], ["jump/train/1.mp4", "run/train/2.mp4"]])
def test_splits_inside_of_other_folders(root, names):
    make_files(root, *names)
    with pytest.raises(ValueError, match="folders of splits inside of what would be classes. Expected ROOT/SPLIT"):
        read_collection(root)


def test_what_lies_beside_the_splits(root):
    make_files(root, "train/a/1.mp4", "val/a/2.mp4", "demo/3.mp4", "4.mp4", "Test/a/notes.txt")
    collection = read_collection(root)
    assert collection.num_videos == {"train": 1, "val": 1}
    for note in ("root/demo is no split, and its 1", "1 video(s) directly in", "root/Test holds no videos"):
        assert note in collection.describe()


@pytest.mark.parametrize("names", [[], ["readme.txt"], ["a/readme.txt"], ["1.mp4"]])
def test_no_videos_in_class_folders(root, names):
    root.mkdir()
    make_files(root, *names)
    with pytest.raises(FileNotFoundError, match=f"{root} holds no videos: expected {root}/CLASS/VIDEO") as caught:
        read_collection(root)
    assert all(name in str(caught.value) for name in names if name != "readme.txt")


def test_folder_that_is_not_there(root):
    make_files(root, "a/1.mp4")
    for path in (root / "nowhere", root / "a" / "1.mp4"):
        with pytest.raises(FileNotFoundError, match=f"{path} is not a folder"):
            read_collection(path)


def test_links(root, tmp_path):
    make_files(root, "train/a/1.mp4", "train/b/3.mp4")
    make_files(tmp_path / "elsewhere", "2.mp4")
    (root / "train/c").symlink_to(tmp_path / "elsewhere")
    (root / "train/a/round").symlink_to(root / "train/a")
    (root / "train/a/gone.mp4").symlink_to(root / "nowhere.mp4")
    (root / "train/b/same.mp4").hardlink_to(root / "train/b/3.mp4")
    (root / "train/b/loop.mp4").symlink_to(root / "train/b/loop.mp4")
    os.mkfifo(root / "train/b/pipe.mp4")
    collection = read_collection(root)
    assert read_back(collection) == {
        "train/a/1.mp4": "a",
        "train/b/3.mp4": "b",
        "train/b/same.mp4": "b",
        "train/c/2.mp4": "c",
    }
    assert collection.missing == {"train": ["train/a/gone.mp4", "train/b/loop.mp4", "train/b/pipe.mp4"]}
    assert "1 file(s) are listed in train more than once: train/b/3.mp4 and train/b/same.mp4" in collection.describe()
    (root / "train/a/other.mp4").symlink_to(root / "train/b/3.mp4")
    with pytest.raises(ValueError, match="train/a/other.mp4 and train/b/3.mp4 are the same file, but of different cl"):
        read_collection(root)
