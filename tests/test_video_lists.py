"""Lists of videos in csv files, of which (empty) files are there or not."""

import os

import pytest
from collection_files import make_files, read_back
from datasets import ClassLabel, List

from vtn_hf.data.class_names import read_kinetics_labels
from vtn_hf.data.collection import read_collection


K400 = "label,youtube_id,time_start,time_end,split,is_cc\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root/annotations").mkdir(parents=True)
    return tmp_path / "root"


def test_cvdfoundation(root):
    make_files(
        root,
        "train/aaaaaaaaaaa_000012_000022.mp4",
        "train/deeper/-_b-_b-_b-__000001_000011.webm",
        "train/ccccccccccc_000000_000010.mp4",
        "train/not_annotated_000000_000010.mp4",
        "replacement/replacement_for_corrupted_k400/ccccccccccc_000000_000010.mp4",
        "test/ddddddddddd_000000_000010.mp4",
    )
    (root / "annotations/train.csv").write_text(
        K400
        + "abseiling,aaaaaaaaaaa,12,22,train,0\n"
        + '"cooking sausages (not on barbeque)",-_b-_b-_b-_,1,11,train,0\n'
        + "zumba,ccccccccccc,0,10,train,1\n"
        + "zumba,missing____,5,15,train,1\n"
    )
    (root / "annotations/test.csv").write_text("youtube_id,time_start,time_end,split\nddddddddddd,0,10,test\n")
    names = read_kinetics_labels(700)
    collection = read_collection(root, names)
    # The test set comes without labels.
    assert list(collection.videos) == ["train"]
    assert collection.class_names == names
    assert read_back(collection) == {
        "train/aaaaaaaaaaa_000012_000022.mp4": "abseiling",
        "train/deeper/-_b-_b-_b-__000001_000011.webm": "cooking sausages (not on barbeque)",
        "replacement/replacement_for_corrupted_k400/ccccccccccc_000000_000010.mp4": "zumba",
    }
    assert collection.missing == {"train": ["train/missing_____000005_000015.mp4"]}
    for note in (
        "train.csv does not list 1 of the videos (train/not_annotated_000000_000010.mp4)",
        "test.csv has no column label",
        "train lists 1 video(s) that are not on disk: train/missing_____000005_000015.mp4",
        "697 of 700 classes have no videos",
    ):
        assert note in collection.describe()


@pytest.mark.parametrize("line", ["zumba,x,1,end,train,0\n", "zumba,x\n"])
def test_cvdfoundation_names_the_line_it_does_not_understand(root, line):
    (root / "annotations/train.csv").write_text(K400 + "zumba,y,1,11,train,0\n" + line)
    with pytest.raises(ValueError, match="annotations/train.csv:3: expected youtube_id"):
        read_collection(root)


def test_cvdfoundation_without_labels(root):
    (root / "annotations/train.csv").write_text("youtube_id,time_start,time_end\nx,1,2\n")
    with pytest.raises(ValueError, match="train.csv has no column label, only youtube_id, time_start, time_end"):
        read_collection(root)


def test_pyslowfast_csv(root):
    make_files(root, "playing guitar/a b.mp4", "c.mp4", "d, e.mp4")
    (root / "train.csv").write_text(f"playing guitar/a b.mp4 2\n{root}/c.mp4 0\n")
    (root / "val.csv").write_text('c.mp4,1\nno where.mp4\t2\n"d, e.mp4",1\r\n')
    names = ["x", "y", "z"]
    collection = read_collection(root, names)
    assert collection.videos["train"]["label"][:] == [2, 0]
    paths = [row["path"] for row in collection.videos["train"]["video"]]
    assert paths == [f"{root}/playing guitar/a b.mp4", f"{root}/c.mp4"]
    assert read_back(collection, "val") == {"c.mp4": "y", "d, e.mp4": "y"}
    assert collection.missing == {"train": [], "val": ["no where.mp4"]}
    # Numbers without names are names themselves.
    assert read_collection(root).class_names == ["0", "1", "2"]
    with pytest.raises(ValueError, match="labels up to 2, but there are only 2 classes.*train.csv:1"):
        read_collection(root, ["x", "y"])
    (root / "val.csv").write_text("c.mp4 1\nc.mp4\n")
    with pytest.raises(ValueError, match="val.csv:2: expected a path and the number of a class"):
        read_collection(root)


def test_own_csv(root):
    make_files(root, "a.mp4", "b.mp4")
    (root / "train.csv").write_text('video,label,person\na.mp4,"run, fast",1\nb.mp4,walk,2\n')
    (root / "validation.csv").write_text("label,video\nwalk,a.mp4\n")
    collection = read_collection(root)
    assert sorted(collection.videos) == ["train", "val"]
    assert collection.class_names == ["run, fast", "walk"]
    assert read_back(collection) == {"a.mp4": "run, fast", "b.mp4": "walk"}
    assert "listed in both train and val: train.csv:2 and validation.csv:2" in collection.describe()
    with pytest.raises(
        ValueError, match=f"{root} has labels that are none of the 1 classes: run, fast .the first at tr"
    ):
        read_collection(root, ["walk"])


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffvideo,label\r\na b.mp4,walk\r\nc.mp4,run\r\n",
        'Video , LABEL\n"a b.mp4",walk\n c.mp4 , run \n',
        "video;label\na b.mp4;walk\nc.mp4;run\n",
        "label\tvideo\nwalk\ta b.mp4\nrun\tc.mp4",
        "id,video,label\n1,{root}/a b.mp4,walk\n2,file://{root}/c.mp4,run\n",
        "video,label\nfile://{root}/a%20b.mp4,walk\n\n~/c.mp4,run\n",
        "video,labels\na b.mp4,walk\nc.mp4,run; run;\n",
    ],
)
def test_csv_as_programs_write_it(root, monkeypatch, content):
    make_files(root, "a b.mp4", "c.mp4")
    monkeypatch.setenv("HOME", str(root))
    (root / "train.csv").write_bytes(content.format(root=root).encode())
    collection = read_collection(root)
    assert [os.path.realpath(video["path"]) for video in collection.videos["train"]["video"]] == [
        f"{root}/a b.mp4",
        f"{root}/c.mp4",
    ]
    labels = collection.videos["train"]["label"][:]
    assert [collection.class_names[label[0] if isinstance(label, list) else label] for label in labels] == [
        "walk",
        "run",
    ]


def test_urls_are_not_looked_for(root):
    (root / "train.csv").write_text("video,label\nhttps://example.org/a b.mp4?x=1,walk\n")
    collection = read_collection(root)
    assert collection.videos["train"][0]["video"]["path"] == "https://example.org/a b.mp4?x=1"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.mp4", "train.csv:3: expected a video and its label"),
        (",walk", "train.csv:3: expected a video and its label"),
        ("a.mp4,", "train.csv:3: expected a video and its label"),
        ("a, b.mp4,walk", "train.csv:3: there are more fields than columns.*needs quotation marks"),
    ],
)
def test_own_csv_names_the_line_it_does_not_understand(root, line, message):
    make_files(root, "a.mp4")
    (root / "train.csv").write_text(f"video,label\na.mp4,walk\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read_collection(root)


@pytest.mark.parametrize("header", ["video,class", "path,label", "video", "label"])
def test_own_csv_without_a_column(root, header):
    (root / "train.csv").write_text(f"{header}\na.mp4,walk\n")
    columns = ", ".join(header.split(","))
    with pytest.raises(
        ValueError, match=f"train.csv:1: expected the columns video, and label or labels, got {columns}"
    ):
        read_collection(root)


def test_csv_in_another_encoding(root):
    (root / "train.csv").write_bytes("video,label\na.mp4,Füße\n".encode("latin-1"))
    with pytest.raises(ValueError, match="train.csv is not UTF-8 .byte 19.; save it as UTF-8"):
        read_collection(root)


def test_csv_with_several_labels_per_video(root):
    make_files(root, "a.mp4", "b.mp4")
    (root / "train.csv").write_text("video,labels\na.mp4,run; jump\nb.mp4,\n")
    collection = read_collection(root)
    assert collection.videos["train"].features["label"] == List(ClassLabel(names=["jump", "run"]))
    assert read_back(collection) == {"a.mp4": ["jump", "run"], "b.mp4": []}
    assert collection.num_videos == {"train": 2}
    (root / "val.csv").write_text("a.mp4 1\n")
    with pytest.raises(ValueError, match="different kinds"):
        read_collection(root)


def test_a_video_that_is_listed_twice(root):
    make_files(root, "a.mp4", "b.mp4")
    (root / "train.csv").write_text(f"video,label\na.mp4,run\nb.mp4,run\n{root}/annotations/../a.mp4,run\n")
    printed = read_collection(root).describe()
    assert "1 file(s) are listed in train more than once: train.csv:2 and train.csv:4" in printed
    (root / "train.csv").write_text("video,label\na.mp4,run\nb.mp4,run\na.mp4,walk\n")
    with pytest.raises(ValueError, match="train.csv:2 and train.csv:4 are the same file, but of different classes"):
        read_collection(root)


def test_names_that_no_file_can_have(root):
    make_files(root, "a.mp4", "b/c.mp4")
    (root / "train.csv").write_text(f"video,label\na.mp4,run\nb\0.mp4,run\nb,run\n{'x' * 300}.mp4,run\n")
    collection = read_collection(root)
    assert list(read_back(collection)) == ["a.mp4"]
    assert collection.missing["train"] == ["b\0.mp4", "b", f"{'x' * 300}.mp4"]


def test_other_csv_files_are_passed_over(root):
    make_files(root, "train/a/1.mp4", "train/a/2.mp4")
    (root / "scan.csv").write_text("path,label,ok\n1.mp4,a,True\n")
    (root / "failed.csv").write_bytes("path,reason\n\xff,x\n".encode("latin-1"))
    assert len(read_back(read_collection(root))) == 2
    (root / "Train.csv").write_text("video,label\ntrain/a/1.mp4,a\n")
    collection = read_collection(root)
    assert list(read_back(collection)) == ["train/a/1.mp4"]
    assert "scan.csv is no list of videos, and passed over" in collection.describe()


def test_two_lists_of_one_split(root):
    for name in ("val.csv", "valid.csv"):
        (root / name).write_text("video,label\na.mp4,a\n")
    with pytest.raises(ValueError, match="holds both val.csv and valid.csv, which mean one split"):
        read_collection(root)


@pytest.mark.parametrize(
    ("header", "message"),
    [("video,label,Label", "several columns label"), ("video,label,labels", "both columns, label and labels")],
)
def test_columns_of_which_one_would_be_lost(root, header, message):
    make_files(root, "a.mp4")
    (root / "train.csv").write_text(f"{header}\na.mp4,run,walk\n")
    with pytest.raises(ValueError, match=f"train.csv:1: there are {message}"):
        read_collection(root)


def test_empty_lines_and_impossible_numbers(root):
    make_files(root, "a.mp4", "b.mp4")
    (root / "train.csv").write_text("a.mp4 0\n\nb.mp4 1\n  \n")
    assert read_back(read_collection(root)) == {"a.mp4": "0", "b.mp4": "1"}
    (root / "train.csv").write_text("a.mp4 0\nb.mp4 20260101\n")
    with pytest.raises(ValueError, match="has the label 20260101, which would make 20,260,102 classes"):
        read_collection(root)
