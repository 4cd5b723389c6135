"""Whole collections: what is odd in them, and that all layouts give the same examples."""

from pathlib import Path

import pytest
import torch
from collection_files import make_files, read_back
from video_files import write_shard

from drawn_videos.motion_clips import CLASS_NAMES, write_motion_clips
from vtn_hf import VTNVideoProcessor
from vtn_hf.data.class_names import read_kinetics_labels
from vtn_hf.data.clips import ClipTransform
from vtn_hf.data.collection import read_collection


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def test_table(root):
    make_files(root, "train/walk/1.mp4", "train/walk/2.mp4", "train/run/1.mp4", "val/run/1.mp4", "val/walk/3.mp4")
    assert read_collection(root).describe().splitlines() == [
        "class         train      val",
        "run               1        1",
        "walk              2        1",
        "all videos        3        2",
    ]


@pytest.mark.parametrize(("first", "second"), [("Arm Wrestling", "arm wrestling"), ("arm wrestling", "arm_wrestling")])
@pytest.mark.parametrize("layout", ["one split", "two splits", "csv", "labels"])
def test_a_class_in_two_spellings(root, first, second, layout):
    root.mkdir()
    if layout in ("one split", "two splits"):
        make_files(root, f"train/{first}/1.mp4", f"{'train' if layout == 'one split' else 'val'}/{second}/2.mp4")
    else:
        make_files(root, "1.mp4", "2.mp4")
        column = "label" if layout == "csv" else "labels"
        (root / "train.csv").write_text(f"video,{column}\n1.mp4,{first}\n2.mp4,{second}\n")
    with pytest.raises(ValueError, match=f"spelt in several ways: '{first}' .* and '{second}'"):
        read_collection(root)
    # They may be meant.
    (root / "classes.txt").write_text(f"{first}\n{second}\n")
    assert read_collection(root).class_names == [first, second]
    (root / "classes.txt").write_text("arm wrestling\n")
    collection = read_collection(root)
    assert {label for split in collection.videos.values() for label in split["label"][:] if label != [0]} <= {0}
    assert f"'{first}', '{second}' are read as the one class 'arm wrestling'" in collection.describe()


def test_classes_in_one_split_only(root):
    make_files(root, "train/a/1.mp4", "train/b/1.mp4", "val/a/1.mp4")
    collection = read_collection(root)
    collection.check_training()
    assert "val has no videos of 1 class(es) that train has: b" in collection.describe()
    make_files(root, "val/run/1.mp4", "train/runs/1.mp4")
    collection = read_collection(root)
    with pytest.raises(ValueError, match=r"val shows classes of which train has no video: run .is it runs\?"):
        collection.check_training()
    # With a list of all classes it may be meant.
    collection = read_collection(root, ["a", "b", "run", "runs"])
    collection.check_training()
    assert "train has no videos of 1 class(es) that val has: run" in collection.describe()


def test_a_single_class(root):
    collection = read_collection(make_files(root, "train/a/1.mp4", "val/a/1.mp4"))
    assert "there is one class only, 'a'" in collection.describe()


def test_splits_that_are_not_there(root):
    collection = read_collection(make_files(root, "train/a/1.mp4", "train/b/1.mp4", "test/a/1.mp4"))
    with pytest.raises(ValueError, match="has no val split to evaluate on: give --val_share 0.2"):
        collection.check_training()
    collection.check_training(needs_val=False)
    with pytest.raises(ValueError, match="no videos of a split 'val' .called val, valid.* but of: test, train"):
        collection.get_split("val")
    assert len(collection.get_split("test")) == 1
    make_files(root.with_name("other"), "test/a/1.mp4", "val/a/1.mp4")
    with pytest.raises(ValueError, match="no videos of a split 'train' .called train, training., but of: test, val"):
        read_collection(root.with_name("other")).check_training()


def test_own_list_of_classes(root):
    make_files(root, "train/b/1.mp4", "val/a/2.mp4", "not a split.txt")
    (root / "classes.txt").write_text("c\nb\na\n\n")
    assert read_collection(root).class_names == ["c", "b", "a"]
    assert read_collection(root, ["b", "a"]).class_names == ["b", "a"]
    with pytest.raises(ValueError, match="class names must differ, but the labels 0 and 2 are both 'b'"):
        read_collection(root, ["b", "a", "b"])
    (root / "classes.txt").write_text("bb\na\n")
    with pytest.raises(ValueError, match="folders that are none of the 2 classes: b .the first at train/b/1.mp4"):
        read_collection(root)


def test_folders_of_kinetics_with_underscores(root):
    make_files(
        root,
        "train/massaging_person's_head/1.mp4",
        "train/using_remote_controller_not_gaming/2.mp4",
        "train/zumba/3.mp4",
    )
    assert read_back(read_collection(root, read_kinetics_labels(400))) == {
        "train/massaging_person's_head/1.mp4": "massaging person's head",
        "train/using_remote_controller_not_gaming/2.mp4": "using remote controller (not gaming)",
        "train/zumba/3.mp4": "zumba",
    }


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Ten clips, five per split, in all four layouts: the root of each, and the class names."""
    base = tmp_path_factory.mktemp("layouts")
    folders = write_motion_clips(base / "class_folders", num_train=5, num_val=5, num_workers=1)
    roots = {name: base / name for name in ("class_folders", "cvdfoundation", "pyslowfast", "webdataset")}
    for split in ("train", "val"):
        table, lines = ["label,youtube_id,time_start,time_end,split,is_cc\n"], []
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
        (roots["cvdfoundation"] / f"annotations/{split}.csv").write_text("".join(table))
        roots["pyslowfast"].mkdir(exist_ok=True)
        (roots["pyslowfast"] / f"{split}.csv").write_text("".join(lines))
    return roots


@pytest.mark.parametrize("layout", ["class_folders", "cvdfoundation", "pyslowfast", "webdataset"])
def test_layouts_give_the_same_examples(collection, layout):
    def load(layout):
        videos = read_collection(collection[layout], list(CLASS_NAMES), streaming=True).videos
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
