"""`vtn split`: lists that the other commands read."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from collection_files import make_files, read_back
from test_duplicates import encode, halve

from vtn_hf.commands import scan, split
from vtn_hf.data.collection import read_collection


@pytest.fixture
def videos(tmp_path):
    """Ten persons, four videos of each, alternately of two classes."""
    names = [
        f"{'run' if person % 2 else 'walk'}/p{person}_{number}.mp4" for person in range(10) for number in range(4)
    ]
    return make_files(tmp_path / "videos", *names)


def run(videos, lists, *options):
    assert split.main([f"--data_dir={videos}", f"--output_dir={lists}", *options]) == 0
    return read_collection(lists)


def test_groups(videos, tmp_path, capsys):
    shares = ("--val_share=0.2", "--test_share=0.2")
    collection = run(videos, tmp_path / "lists", *shares, r"--val_group=p\d+")
    persons = {name: {Path(path).name[:2] for path in read_back(collection, name)} for name in collection.videos}
    assert [len(persons[name]) for name in ("train", "val", "test")] == [6, 2, 2]
    assert len(set.union(*persons.values())) == 10
    assert collection.counts["val"] == Counter(run=4, walk=4)
    assert collection.is_given and (tmp_path / "lists/classes.txt").read_text() == "run\nwalk\n"
    assert "Farthest from its share: run, 60.0% in train for 60.0%." in capsys.readouterr().out
    # The same again, and another one with another seed.
    again = run(videos, tmp_path / "again", *shares, r"--val_group=p\d+")
    other = run(videos, tmp_path / "other", *shares, r"--val_group=p\d+", "--val_seed=1")
    assert read_back(again, "val") == read_back(collection, "val") != read_back(other, "val")


def test_copies_stay_together(tmp_path):
    """By content, and re-encoded at half size; what is damaged is left out."""
    generator = np.random.default_rng(0)
    for number in range(8):
        folder = tmp_path / "videos" / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        frames = np.kron(generator.integers(0, 256, (12, 8, 8, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
        encode(folder / f"{number}.mp4", frames, 10)
        encode(folder / f"{number}_half.mp4", halve(frames), 10)
    shutil.copy(folder / "7.mp4", folder / "7_copy.mp4")
    (folder / "bad.mp4").write_text("no video")
    table = tmp_path / "scan.csv"
    assert scan.main([f"--data_dir={tmp_path / 'videos'}", f"--output={table}", "--num_workers=1"]) == 1
    collection = run(tmp_path / "videos", tmp_path / "lists", "--val_share=0.25", f"--scan_table={table}")
    held_out = {name.split("/")[-1] for name in read_back(collection, "val")}
    assert 4 <= len(held_out) <= 5 and "bad.mp4" not in held_out
    assert all(f"{name[0]}.mp4" in held_out and f"{name[0]}_half.mp4" in held_out for name in held_out)
    assert collection.num_videos["train"] + collection.num_videos["val"] == 17


def test_lists_with_segments_and_several_labels(tmp_path, capsys):
    root = make_files(tmp_path / "videos", *(f"{number}.mp4" for number in range(10)))
    lines = [f"{number}.mp4,a;b,{start},{start + 1}" for number in range(10) for start in range(3)]
    (root / "train.csv").write_text("\n".join(["video,labels,start_sec,end_sec", *lines[:15]]))
    (root / "val.csv").write_text("\n".join(["video,labels,start_sec,end_sec", *lines[15:]]))
    collection = run(root, tmp_path / "lists", "--val_share=0.2")
    assert "train, val are joined, and split anew." in capsys.readouterr().out
    files = [{name.split("#")[0] for name in read_back(collection, part)} for part in ("train", "val")]
    assert len(files[0]) == 8 and len(files[1]) == 2 and not files[0] & files[1]
    assert set(map(tuple, read_back(collection, "val").values())) == {("a", "b")}
    assert list(collection.videos["val"]["end_sec"]) == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--val_share=0.6", "--test_share=0.5"], "shares of splits must be positive and make 1 together"),
        (["--val_group=q"], "The group 'q' is not found in the names of 40 of 40 videos"),
        (["--val_group=mp4"], "make no 2 splits"),
    ],
)
def test_mistakes(videos, tmp_path, capsys, options, message):
    assert split.main([f"--data_dir={videos}", f"--output_dir={tmp_path / 'lists'}", *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "lists").exists()


def test_nothing_is_lost(videos, tmp_path, capsys):
    assert split.main([f"--data_dir={videos}", f"--output_dir={videos / 'lists'}"]) == 2
    run(videos, tmp_path / "lists")
    assert split.main([f"--data_dir={videos}", f"--output_dir={tmp_path / 'lists'}"]) == 2
    assert "lies inside the input" in (error := capsys.readouterr().err) and "exists already" in error
    run(videos, tmp_path / "lists", "--overwrite")
