"""WebDataset shards: whole, damaged and none at all."""

import gzip
import re

import pytest
from collection_files import read_back
from video_files import write_shard

from vtn_hf.data.collection import read_collection


@pytest.mark.parametrize("ending", ["mp4", "webm", "MPG"])
@pytest.mark.parametrize(
    ("field", "labels"),
    [("cls", [b"1", b"0"]), ("txt", [b"yes\n", b"no"]), ("json", [b'{"label": "yes"}', b'{"label": "no"}'])],
)
def test_webdataset(tmp_path, ending, field, labels):
    for number, label in enumerate(labels):
        samples = {f"dir/{number}.{ending}": bytes([number]), f"dir/{number}.{field}": label}
        write_shard(tmp_path / f"train-{number:03d}.tar", samples)
    write_shard(tmp_path / "Validation/000.tar", {f"7.{ending}": b"7", f"7.{field}": labels[0], "._7.mp4": b""})
    with pytest.raises(ValueError, match="classes.txt, a name per line"):
        read_collection(tmp_path)
    for streaming in (False, True):
        collection = read_collection(tmp_path, ["no", "yes"], streaming=streaming)
        assert sorted(collection.videos) == ["train", "val"]
        assert collection.videos["train"].features["label"].names == ["no", "yes"]
        assert [(row["name"], row["label"]) for row in collection.videos["train"]] == [("dir/0", 1), ("dir/1", 0)]
        assert collection.num_videos == {"train": 2, "val": 1}
        assert collection.missing == {"train": [], "val": []} and not any(collection.bad.values())
        # Videos are read out of the middle of their shards.
        (row,) = collection.videos["val"]
        assert (row["name"], row["label"], len(collection.videos["val"])) == ("7", 1, 1)
        place = re.fullmatch(rf"subfile,,start,(\d+),end,(\d+),,:{tmp_path}/Validation/000.tar", row["video"]["path"])
        assert (tmp_path / "Validation/000.tar").read_bytes()[int(place[1]) : int(place[2])] == b"7"
    assert collection.notes == []


def test_names_of_shards(tmp_path):
    for name in ("kinetics-Train-0.tar", "1.tar", "val_0.tar", "extra0.tar"):
        write_shard(tmp_path / name, {"0.mp4": b"0", "0.cls": b"0"})
    assert read_collection(tmp_path, ["a"]).num_videos == {"train": 2, "val": 1, "extra": 1}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"7.cls": b"1"}, "train.tar: 7: has no video among cls"),
        ({"7.mp4": b"1"}, "train.tar: 7: has no label (cls, txt or json) among mp4"),
        ({"7.mp4": b"1", "7.cls": b"yes"}, "train.tar: 7: has a cls that is no label: b'yes'"),
        ({"7.mp4": b"1", "7.txt": b"\xff"}, "train.tar: 7: has a txt that is no label"),
        ({"7.mp4": b"1", "7.json": b'{"label": '}, "train.tar: 7: has a json that is no label"),
        ({"7.mp4": b"1", "7.json": b'{"class": 1}'}, "train.tar: 7: has a json that is no label"),
        ({"7.mp4": b"1", "7.json": b'{"label": [1]}'}, "train.tar: 7: has the label [1], which is neither the number"),
    ],
)
def test_samples_that_are_not_whole(tmp_path, files, reason):
    good = {f"{number}.{ending}": b"1" for number in range(7) for ending in ("mp4", "cls")}
    write_shard(tmp_path / "train.tar", good | files)
    collection = read_collection(tmp_path, ["no", "yes"])
    assert list(read_back(collection)) == list("0123456")
    assert list(collection.bad["train"]) == ["train.tar: 7"]
    assert f"train has 1 that are known to be bad: {reason}" in collection.describe()


def test_a_class_that_is_none(tmp_path):
    write_shard(tmp_path / "train.tar", {"0.mp4": b"0", "0.cls": b"2"})
    with pytest.raises(ValueError, match="labels up to 2, but there are only 2 classes.*train.tar: 0"):
        read_collection(tmp_path, ["no", "yes"])
    write_shard(tmp_path / "train.tar", {"0.mp4": b"0", "0.txt": b"yess"})
    with pytest.raises(ValueError, match=r"none of the 2 classes: yess .is it yes\?. .the first at train.tar: 0"):
        read_collection(tmp_path, ["no", "yes"])


def test_without_labels(tmp_path):
    write_shard(tmp_path / "train.tar", {"0.mp4": b"0", "0.id": b"2"})
    with pytest.raises(ValueError, match="train.tar holds no videos, or no labels"):
        read_collection(tmp_path, ["no", "yes"])


@pytest.fixture
def shard(tmp_path):
    """A shard of four videos of 3,000 bytes, beside a good one."""
    write_shard(tmp_path / "train-0.tar", {"good.mp4": b"0", "good.cls": b"1"})
    files = {f"{number}.{ending}": b"1" * size for number in range(4) for ending, size in (("cls", 1), ("mp4", 3000))}
    return write_shard(tmp_path / "train-1.tar", files)


def damage(content, how):
    header = content.index(b"2.mp4")
    return {
        "cut in a video": content[: header + 2000],
        "cut between files": content[:header],
        "cut in a header": content[: header + 100],
        "header": content[:header] + b"\xff" * 512 + content[header + 512 :],
        "empty": b"",
        "garbage": b"garbage" * 1000,
        "zeros": bytes(10240),
        "gzip": gzip.compress(content),
        "joined": content + content,
    }[how]


@pytest.mark.parametrize(
    ("how", "keys", "reason"),
    [
        ("cut in a video", "01", "train-1.tar: is cut off in the middle of 2.mp4"),
        ("cut between files", "01", "train-1.tar lacks the mark at the end of tar files"),
        ("cut in a header", "01", "train-1.tar: is damaged at byte"),
        ("header", "01", "train-1.tar: is damaged at byte"),
        ("empty", "", "train-1.tar: cannot be read: empty file"),
        ("garbage", "", "train-1.tar: cannot be read: "),
        ("zeros", "", "train-1.tar: holds no files"),
        ("gzip", "", "train-1.tar: is compressed, so that videos cannot be read out of the middle"),
        ("joined", "0123", "train-1.tar: goes on behind its end"),
    ],
)
def test_damaged_shards(shard, how, keys, reason):
    shard.write_bytes(damage(shard.read_bytes(), how))
    collection = read_collection(shard.parent, ["no", "yes"])
    assert list(read_back(collection)) == ["good", *keys]
    assert reason in collection.describe()


def test_compressed_shards_are_not_passed_over(shard):
    shard.with_suffix(".tar.gz").write_bytes(gzip.compress(shard.read_bytes()))
    shard.unlink()
    assert list(read_collection(shard.parent, ["no", "yes"]).bad["train"]) == ["train-1.tar.gz"]
    (shard.parent / "train-0.tar").unlink()
    with pytest.raises(ValueError, match="holds no videos, or no labels.* train-1.tar.gz: is compressed"):
        read_collection(shard.parent, ["no", "yes"])
