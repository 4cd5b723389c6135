"""Collections of (empty) files: reading a collection opens none of them. At the end, one of real videos."""

import re
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, List, Video
from video_files import write_shard

from drawn_videos.motion_clips import CLASS_NAMES, write_motion_clips
from vtn_hf import VTNVideoProcessor
from vtn_hf.data.clips import ClipTransform
from vtn_hf.data.coverage import drop_missing
from vtn_hf.data.kinetics import VIDEO_EXTENSIONS, load_class_folders, load_videos, read_kinetics_labels


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


@pytest.mark.parametrize("num_classes", [400, 600, 700])
def test_kinetics_labels(num_classes):
    labels = read_kinetics_labels(num_classes)
    assert len(labels) == len(set(labels)) == num_classes
    assert labels == sorted(labels)
    assert (labels[0], labels[-1]) == ("abseiling", "zumba")
    assert all(label == label.strip() and label for label in labels)


def test_kinetics_600_and_700_overlap_as_published():
    # https://arxiv.org/abs/1808.01340: 368 of the 400 classes are classes of Kinetics-600.
    names = {size: set(read_kinetics_labels(size)) for size in (400, 600, 700)}
    assert len(names[400] & names[600]) == 368
    assert len(names[600] & names[700]) == 596


@pytest.mark.skipif(not LABEL_MAP.is_file(), reason=f"no {LABEL_MAP}")
def test_kinetics_400_labels_equal_the_label_map():
    assert read_kinetics_labels(400) == LABEL_MAP.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("num_classes", [0, 399, 710])
def test_kinetics_of_another_size(num_classes):
    with pytest.raises(ValueError, match=f"got num_classes={num_classes}"):
        read_kinetics_labels(num_classes)


K400 = "label,youtube_id,time_start,time_end,split,is_cc\n"


def read_back(videos, split="train"):
    """The rows of a split as {name: class name or names}."""
    label = videos[split].features["label"]
    if isinstance(label, List):
        return {row["name"]: label.feature.int2str(row["label"]) for row in videos[split]}
    return {row["name"]: label.int2str(row["label"]) for row in videos[split]}


def test_cvdfoundation(make_files):
    root = make_files(
        "train/aaaaaaaaaaa_000012_000022.mp4",
        "train/deeper/-_b-_b-_b-__000001_000011.webm",
        "train/ccccccccccc_000000_000010.mp4",
        "train/not_annotated_000000_000010.mp4",
        "replacement/replacement_for_corrupted_k400/ccccccccccc_000000_000010.mp4",
        "test/ddddddddddd_000000_000010.mp4",
    )
    (root / "annotations").mkdir()
    (root / "annotations/train.csv").write_text(
        K400
        + "abseiling,aaaaaaaaaaa,12,22,train,0\n"
        + '"cooking sausages (not on barbeque)",-_b-_b-_b-_,1,11,train,0\n'
        + "zumba,ccccccccccc,0,10,train,1\n"
        + "zumba,missing____,5,15,train,1\n"
    )
    (root / "annotations/test.csv").write_text("youtube_id,time_start,time_end,split\nddddddddddd,0,10,test\n")
    names = read_kinetics_labels(700)
    videos = load_videos(root, names)
    # The test set comes without labels.
    assert list(videos) == ["train"]
    assert videos["train"].features["label"].names == names
    assert read_back(videos) == {
        "train/aaaaaaaaaaa_000012_000022.mp4": "abseiling",
        "train/deeper/-_b-_b-_b-__000001_000011.webm": "cooking sausages (not on barbeque)",
        "replacement/replacement_for_corrupted_k400/ccccccccccc_000000_000010.mp4": "zumba",
        "train/missing_____000005_000015.mp4": "zumba",
    }
    kept, missing = drop_missing(videos)
    assert missing == {"train": ["train/missing_____000005_000015.mp4"]}
    assert kept["train"]["name"][:] == videos["train"]["name"][:3]
    assert kept["train"].features == videos["train"].features


@pytest.mark.parametrize("line", ["zumba,x,1,end,train,0\n", "zumba,x\n"])
def test_cvdfoundation_names_the_line_it_does_not_understand(make_files, line):
    root = make_files("train/x.mp4")
    (root / "annotations").mkdir()
    (root / "annotations/train.csv").write_text(K400 + "zumba,y,1,11,train,0\n" + line)
    with pytest.raises(ValueError, match="annotations/train.csv:3: expected youtube_id"):
        load_videos(root)


def test_pyslowfast_csv(make_files):
    root = make_files("playing guitar/a b.mp4", "c.mp4")
    (root / "train.csv").write_text(f"playing guitar/a b.mp4 2\n{root}/c.mp4 0\n")
    (root / "val.csv").write_text("c.mp4,1\nno where.mp4\t2\n")
    names = ["x", "y", "z"]
    videos = load_videos(root, names)
    assert videos["train"]["label"][:] == [2, 0]
    assert [row["path"] for row in videos["train"]["video"]] == [f"{root}/playing guitar/a b.mp4", f"{root}/c.mp4"]
    assert read_back(videos, "val") == {"c.mp4": "y", "no where.mp4": "z"}
    assert drop_missing(videos)[1] == {"train": [], "val": ["no where.mp4"]}
    # Numbers without names are names themselves.
    assert load_videos(root)["val"].features["label"].names == ["0", "1", "2"]
    with pytest.raises(ValueError, match="labels up to 2, but there are only 2 classes"):
        load_videos(root, ["x", "y"])
    (root / "val.csv").write_text("c.mp4 1\n\n")
    with pytest.raises(ValueError, match="val.csv:2: expected a path and the number of a class"):
        load_videos(root)


def test_own_csv(make_files):
    root = make_files("a.mp4", "b.mp4")
    (root / "train.csv").write_text('video,label,person\na.mp4,"run, fast",1\nb.mp4,walk,2\n')
    (root / "validation.csv").write_text("label,video\nwalk,a.mp4\n")
    videos = load_videos(root)
    assert sorted(videos) == ["train", "val"]
    assert videos["val"].features["label"].names == ["run, fast", "walk"]
    assert read_back(videos) == {"a.mp4": "run, fast", "b.mp4": "walk"}
    with pytest.raises(ValueError, match=f"{root} has labels that are none of the 1 classes: run, fast"):
        load_videos(root, ["walk"])


@pytest.mark.parametrize("line", ["a.mp4", ",walk"])
def test_own_csv_names_the_line_it_does_not_understand(make_files, line):
    root = make_files("a.mp4")
    (root / "train.csv").write_text(f"video,label\na.mp4,walk\n{line}\n")
    with pytest.raises(ValueError, match="train.csv:3: expected a video and its label"):
        load_videos(root)


def test_csv_with_several_labels_per_video(make_files):
    root = make_files("a.mp4", "b.mp4")
    (root / "train.csv").write_text("video,labels\na.mp4,run; jump\nb.mp4,\n")
    videos = load_videos(root)
    assert videos["train"].features["label"] == List(ClassLabel(names=["jump", "run"]))
    assert read_back(videos) == {"a.mp4": ["run", "jump"], "b.mp4": []}
    (root / "val.csv").write_text("a.mp4 1\n")
    with pytest.raises(ValueError, match="different kinds"):
        load_videos(root)


def test_own_list_of_classes(make_files):
    root = make_files("train/b/1.mp4", "val/a/2.mp4", "not a split.txt")
    (root / "classes.txt").write_text("c\nb\na\n")
    assert load_videos(root)["train"].features["label"].names == ["c", "b", "a"]
    assert load_videos(root, ["b", "a"])["train"].features["label"].names == ["b", "a"]
    with pytest.raises(ValueError, match="Class names must differ"):
        load_videos(root, ["b", "a", "b"])


def test_folders_of_kinetics_with_underscores(make_files):
    root = make_files(
        "train/massaging_person's_head/1.mp4", "train/using_remote_controller_not_gaming/2.mp4", "train/zumba/3.mp4"
    )
    labels = load_videos(root, read_kinetics_labels(400))["train"]
    assert read_back({"train": labels}) == {
        "train/massaging_person's_head/1.mp4": "massaging person's head",
        "train/using_remote_controller_not_gaming/2.mp4": "using remote controller (not gaming)",
        "train/zumba/3.mp4": "zumba",
    }


@pytest.mark.parametrize("ending", ["mp4", "webm", "mpg"])
@pytest.mark.parametrize(
    ("field", "labels"),
    [("cls", [b"1", b"0"]), ("txt", [b"yes\n", b"no"]), ("json", [b'{"label": "yes"}', b'{"label": "no"}'])],
)
def test_webdataset(tmp_path, ending, field, labels):
    for number, label in enumerate(labels):
        samples = {f"dir/{number}.{ending}": bytes([number]), f"dir/{number}.{field}": label}
        write_shard(tmp_path / f"train-{number:03d}.tar", samples)
    write_shard(tmp_path / "val/000.tar", {f"7.{ending}": b"7", f"7.{field}": labels[0]})
    with pytest.raises(ValueError, match="classes.txt, a name per line"):
        load_videos(tmp_path)
    videos = load_videos(tmp_path, ["no", "yes"])
    assert sorted(videos) == ["train", "val"]
    assert videos["train"].features["label"].names == ["no", "yes"]
    assert [(row["name"], row["label"], row["video"]["bytes"]) for row in videos["train"]] == [
        ("dir/0", 1, b"\0"),
        ("dir/1", 0, b"\1"),
    ]
    # To evaluate, the videos are counted, and read out of the middle of their shards.
    (row,) = videos["val"]
    assert (row["name"], row["label"], len(videos["val"])) == ("7", 1, 1)
    part = re.fullmatch(rf"subfile,,start,(\d+),end,(\d+),,:{tmp_path}/val/000.tar", row["video"]["path"])
    assert (tmp_path / "val/000.tar").read_bytes()[int(part[1]) : int(part[2])] == b"7"
    assert drop_missing(videos)[1] == {"train": [], "val": []}
    places = load_videos(tmp_path, ["no", "yes"], streaming=False)["train"]
    assert list(zip(places["name"], places["label"], strict=True)) == [("dir/0", 1), ("dir/1", 0)]


@pytest.mark.parametrize("streaming", [False, True])
def test_webdataset_with_a_sample_that_has_no_video(tmp_path, streaming):
    samples = {f"{number}.{ending}": b"1" for number in range(8) for ending in ("mp4", "cls")}
    del samples["7.mp4"]
    write_shard(tmp_path / "train.tar", samples)
    rows = list(load_videos(tmp_path, ["no", "yes"], streaming)["train"])
    assert [row["video"]["bytes"] for row in rows] == [b"1" if streaming else None] * 7 + [b""]


@pytest.mark.parametrize("streaming", [False, True])
def test_webdataset_with_a_class_that_is_none(tmp_path, streaming):
    write_shard(tmp_path / "train.tar", {"0.mp4": b"0", "0.cls": b"2"})
    with pytest.raises(ValueError, match="0 is of class 2, which is none of the 2"):
        list(load_videos(tmp_path, ["no", "yes"], streaming)["train"])


@pytest.mark.parametrize("streaming", [False, True])
def test_webdataset_without_labels(tmp_path, streaming):
    write_shard(tmp_path / "train.tar", {"0.mp4": b"0", "0.id": b"2"})
    with pytest.raises(ValueError, match="train.tar holds no videos, or no labels"):
        load_videos(tmp_path, ["no", "yes"], streaming)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Ten clips, five per split, in all four layouts: the root of each, and the class names."""
    base = tmp_path_factory.mktemp("layouts")
    folders = write_motion_clips(base / "class_folders", num_train=5, num_val=5, num_workers=1)
    roots = {name: base / name for name in ("class_folders", "cvdfoundation", "pyslowfast", "webdataset")}
    for split in ("train", "val"):
        table, lines = [], []
        for number, path in enumerate(sorted((folders / split).glob("*/*.mp4"))):
            name, class_name = f"video{number:06d}_{number:06d}_{number + 10:06d}", path.parent.name
            path = path.rename(path.with_stem(name))
            copy = roots["cvdfoundation"] / split / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
            table.append(f"{class_name},video{number:06d},{number},{number + 10},{split},0\n")
            lines.append(f"{path} {CLASS_NAMES.index(class_name)}\n")
            samples = {f"{name}.mp4": path.read_bytes(), f"{name}.cls": str(CLASS_NAMES.index(class_name)).encode()}
            write_shard(roots["webdataset"] / split / f"{number:06d}.tar", samples)
        (roots["cvdfoundation"] / "annotations").mkdir(exist_ok=True)
        (roots["cvdfoundation"] / f"annotations/{split}.csv").write_text(K400 + "".join(table))
        roots["pyslowfast"].mkdir(exist_ok=True)
        (roots["pyslowfast"] / f"{split}.csv").write_text("".join(lines))
    return roots


@pytest.mark.parametrize("layout", ["class_folders", "cvdfoundation", "pyslowfast", "webdataset"])
def test_layouts_give_the_same_examples(collection, layout):
    def load(layout):
        videos = load_videos(collection[layout], list(CLASS_NAMES))
        examples = {}
        for split in ("train", "val"):
            assert videos[split].features["label"].names == list(CLASS_NAMES)
            transform = ClipTransform(VTNVideoProcessor(num_frames=6, size=16, crop_size=16))
            for row in videos[split]:
                inputs = transform({name: [value] for name, value in row.items()})
                examples[split, Path(row["name"]).stem] = {name: values[0] for name, values in inputs.items()}
        return examples

    expected, examples = load("class_folders"), load(layout)
    assert len(expected) == 10
    assert examples.keys() == expected.keys()
    for key, example in examples.items():
        assert example["labels"] == expected[key]["labels"]
        for name in ("pixel_values", "position_ids"):
            assert torch.equal(example[name], expected[key][name])
