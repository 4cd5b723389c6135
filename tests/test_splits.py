"""Holding videos out to evaluate on."""

import hashlib
import random
from collections import Counter

import pytest
from collection_files import make_files, read_back

from vtn_hf.data.collection import read_collection
from vtn_hf.data.splits import find_split, hold_out


def choose(names, labels=None, share=0.2, seed=0):
    labels = labels or [[0]] * len(names)
    return {name for name, chosen in zip(names, hold_out(names, labels, share, seed), strict=True) if chosen}


def hash_text(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def test_share_and_seed():
    names = [f"train/{hash_text(number)}.mp4" for number in range(5000)]
    chosen = choose(names)
    assert 900 < len(chosen) < 1100
    shuffled = random.Random(0).sample(names, len(names))
    assert choose(shuffled) == chosen
    assert choose(names, seed=1) != chosen
    assert 90 < len(choose(names, share=0.02)) < 110
    # It is the same everywhere and for ever.
    assert choose([f"{number}.mp4" for number in range(12)]) == {"4.mp4", "7.mp4"}
    assert choose([f"{letter}.mp4" for letter in "abcdefghijkl"]) == {"c.mp4"}


@pytest.mark.parametrize("num_videos", [5, 10, 20, 50])
@pytest.mark.parametrize("step", [1, 10])
@pytest.mark.parametrize("seed", range(5))
def test_names_that_count_are_chosen_evenly(num_videos, step, seed):
    names = [f"train/a/{number * step:06d}_clip.mp4" for number in range(num_videos)]
    assert abs(len(choose(names, seed=seed)) - num_videos / 5) <= 1


def test_videos_that_are_added_move_no_others():
    names = [f"{number}.mp4" for number in range(1000)]
    labels = [[number % 10] for number in range(1000)]
    chosen = choose(names[:500], labels[:500])
    assert choose(names, labels) & {*names[:500]} == chosen


@pytest.mark.parametrize("num_videos", [2, 3, 5])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.9])
def test_small_classes(num_videos, share):
    names = [f"{hash_text(number)}.mp4" for number in range(100 * num_videos)]
    labels = [number // num_videos for number in range(100 * num_videos)]
    chosen = hold_out(names, [[label] for label in labels], share, 0)
    counts = Counter(zip(labels, chosen, strict=True))
    assert all(counts[label, False] for label in range(100))
    if share * num_videos >= 0.5:
        assert all(counts[label, True] for label in range(100))
    else:
        assert abs(sum(chosen) - share * len(names)) < 15
    assert not any(hold_out(names[:100], [[label] for label in range(100)], share, 0))


def test_several_labels_per_video():
    names = [f"{number}.mp4" for number in range(60)]
    labels = [[0, 1 + number % 20] for number in range(60)]
    chosen = hold_out(names, labels, 0.2, 0)
    for part in (True, False):
        assert {label for each, is_in in zip(labels, chosen, strict=True) if is_in == part for label in each} == set(
            range(21)
        )


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_shares_that_are_none(share):
    with pytest.raises(ValueError, match=f"must be between 0 and 1, got {share}"):
        hold_out(["a", "b"], [[0], [0]], share, 0)


@pytest.mark.parametrize("name", ["VAL", "valid", "Validation", "validate", "dev", "eval", "evaluation"])
def test_names(name):
    assert find_split(name) == "val"


@pytest.fixture
def root(tmp_path):
    """Twenty videos of five people, in two classes."""
    names = [f"{label}/person{number % 5}_{number:02d}.mp4" for label in "ab" for number in range(10)]
    return make_files(tmp_path / "root", *names)


def find_people(collection, split):
    return {name.split("person")[1][0] for name in read_back(collection, split)}


def test_collection(root):
    collection = read_collection(root, val_share=0.25)
    assert 0 < collection.num_videos["val"] < 12
    assert set(collection.counts["val"]) == {"a", "b"}
    assert "videos are held out as val (val_seed=0)" in collection.describe()
    assert collection.missing == {"train": [], "val": []}
    # Elsewhere, as another layout and in another order it is the same.
    lines = [f"{root}/{name},{label}\n" for name, label in read_back(read_collection(root)).items()]
    (root.parent / "lists").mkdir()
    (root.parent / "lists/train.csv").write_text("".join(["video,label\n", *sorted(lines, reverse=True)]))
    as_list = read_collection(root.parent / "lists", val_share=0.25)
    held_out = {name.removeprefix(f"{root}/") for name in read_back(as_list, "val")}
    assert held_out == set(read_back(collection, "val"))
    assert set(read_back(read_collection(root, val_share=0.25, val_seed=1), "val")) != held_out
    assert set(read_collection(root, val_share=0).videos) == {"train"}


@pytest.mark.parametrize("group", [r"person\d", r"person(\d)_"])
def test_groups_by_name(root, group):
    collection = read_collection(root, val_share=0.2, val_group=group)
    assert collection.num_videos["val"] >= 4
    assert not find_people(collection, "train") & find_people(collection, "val")
    assert "held out as val by 'person" in collection.describe()


def test_groups_by_column(root):
    rows = [(name, label, name.split("person")[1][0]) for name, label in read_back(read_collection(root)).items()]
    (root / "train.csv").write_text("\n".join(["video,label,who", *map(",".join, rows)]))
    collection = read_collection(root, val_share=0.2, val_group="who")
    assert collection.num_videos["val"] >= 4
    assert not find_people(collection, "train") & find_people(collection, "val")
    (root / "train.csv").write_text("video,label,who\na/person0_00.mp4,a,\na/person1_01.mp4,a,1\n")
    with pytest.raises(ValueError, match="the column 'who' is empty at train.csv:2"):
        read_collection(root, val_share=0.2, val_group="who")
    with pytest.raises(ValueError, match="'whom' is none of the columns label, video, who, and not found in"):
        read_collection(root, val_share=0.2, val_group="whom")


def test_what_cannot_be_held_out(root):
    with pytest.raises(ValueError, match="The group 'person[(]' is no regular expression"):
        read_collection(root, val_share=0.2, val_group="person(")
    with pytest.raises(ValueError, match="not found in the names of 10 of 20 videos: b/person0_00.mp4"):
        read_collection(root, val_share=0.2, val_group="^a/")
    with pytest.raises(ValueError, match="cannot be held out of 20 videos in 1 group"):
        read_collection(root, val_share=0.2, val_group="person")
    single = make_files(root.with_name("single"), "a/1.mp4", "b/1.mp4")
    with pytest.raises(ValueError, match="too few videos to hold out val_share=0.2 of them: no class has two"):
        read_collection(single, val_share=0.2)
    make_files(root, "val/a/1.mp4", "train/a/1.mp4")
    with pytest.raises(ValueError, match="has a val split; leave val_share=0.2 out"):
        read_collection(root, val_share=0.2)
