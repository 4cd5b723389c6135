"""Data sets with a column of videos: files, and bytes in parquet files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from collection_files import read_back
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value, Video
from hub_server import TOKEN, HubServer, Repository
from tiny_models import RESNET_VTN
from video_files import write_video

from vtn_hf import VTNVideoProcessor
from vtn_hf.commands import evaluate, train
from vtn_hf.data.clips import ClipTransform
from vtn_hf.data.hub_videos import read_dataset


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    return [
        write_video(folder / f"{number}.mp4", generator.integers(0, 256, (6, 16, 16, 3), np.uint8))
        for number in range(8)
    ]


@pytest.fixture
def parquet(clips, tmp_path):
    """The bytes of the files, under another name; labels with names."""
    features = Features({"clip": Video(), "action": ClassLabel(names=["run", "walk"]), "person": Value("string")})
    for split in ("train", "validation"):
        rows = {
            "clip": [{"path": None, "bytes": path.read_bytes()} for path in clips],
            "action": [number % 2 for number in range(8)],
            "person": [f"p{number // 4}" for number in range(8)],
        }
        (tmp_path / "parquet/data").mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"parquet/data/{split}-0.parquet")
    return str(tmp_path / "parquet")


@pytest.fixture
def folder(clips, tmp_path):
    """Files in class folders, as the `videofolder` builder reads them."""
    for number, clip in enumerate(clips):
        target = tmp_path / f"folder/train/{'walk' if number % 2 else 'run'}/{number}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(clip.read_bytes())
    return str(tmp_path / "folder")


def test_bytes(parquet, clips):
    collection = read_dataset(parquet)
    assert collection.num_videos == {"train": 8, "val": 8} and collection.class_names == ["run", "walk"]
    assert collection.counts["train"] == {"run": 4, "walk": 4} and "walk" in collection.describe()
    assert list(read_back(collection))[:2] == ["train/0", "train/1"]
    transform = ClipTransform(VTNVideoProcessor(num_frames=4, size=16, crop_size=16))
    videos = collection.videos["train"].with_transform(transform)
    assert videos[3]["pixel_values"].shape == (4, 3, 16, 16) and videos[3]["labels"] == 1
    assert read_dataset(parquet, class_names=["walk", "swim", "run"]).videos["train"]["label"][:2] == [2, 0]
    with pytest.raises(ValueError, match="none of the 1 classes"):
        read_dataset(parquet, class_names=["walk"])


def test_files(folder):
    collection = read_dataset(folder, val_share=0.25)
    assert collection.num_videos == {"train": 6, "val": 2} and collection.counts["val"] == {"run": 1, "walk": 1}
    row = collection.videos["val"][0]
    file = Path(row["video"]["path"])
    assert file.is_file() and row["name"] == f"val/{file.name}"


def test_what_has_no_videos(tmp_path):
    Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="must have one column of the type Video and one of labels.*it has text"):
        read_dataset(str(tmp_path))


def test_training(parquet, tmp_path, capsys):
    arguments = ["--max_steps", "1", "--eval_strategy", "epoch"]
    assert train_on(parquet, tmp_path / "run", *arguments) == 0
    assert (tmp_path / "run/model.safetensors").is_file()
    assert train_on(parquet, tmp_path / "run", *arguments, "--data_dir", parquet) == 2
    assert "Give one of --data_dir, --dataset_name and --features" in capsys.readouterr().err


def train_on(dataset: str, output_dir: Path, *flags: str) -> int:
    arguments = ["--dataset_name", dataset, "--output_dir", str(output_dir), "--model_config", json.dumps(RESNET_VTN)]
    arguments += ["--resize_to", "16", "--crop_size", "16", "--clip_num_frames", "4", "--num_workers", "0"]
    return train.main([*arguments, "--device", "cpu", "--per_device_train_batch_size", "2", *flags])


def test_a_stream_of_bytes(parquet):
    collection = read_dataset(parquet, streaming=True)
    assert collection.num_videos == {"train": None, "val": 8} and collection.class_names == ["run", "walk"]
    assert isinstance(collection.videos["train"], IterableDataset)
    lines = collection.describe().splitlines()
    assert lines[1].split() == ["run", "?", "4"] and lines[3].split()[-2:] == ["?", "8"] and len(lines) == 4
    rows, whole = list(collection.videos["train"]), read_dataset(parquet).videos
    assert [(row["label"], row["video"]) for row in rows] == [(row["label"], row["video"]) for row in whole["train"]]
    assert len({row["name"] for row in rows}) == 8 and rows[0]["name"].startswith("train/")
    assert collection.videos["val"][:] == whole["val"][:]
    assert read_dataset(parquet, streaming=True, splits=["val"]).num_videos == {"val": 8}
    assert next(iter(read_dataset(parquet, None, ["walk", "run"], streaming=True).videos["train"]))["label"] == 1


def test_what_a_stream_does_not_tell(parquet, tmp_path, capsys):
    rows = {"clip": [{"path": "a.mp4", "bytes": b"a"}] * 2, "label": ["run", "walk"]}
    Dataset.from_dict(rows, features=Features({"clip": Video(), "label": Value("string")})).to_parquet(
        tmp_path / "names/train.parquet"
    )
    with pytest.raises(ValueError, match="does not tell its classes beforehand: give class_names"):
        read_dataset(str(tmp_path / "names"), streaming=True)
    (row, other) = read_dataset(str(tmp_path / "names"), None, ["walk", "run"], streaming=True).videos["train"]
    assert (row["label"], other["label"], row["name"]) == (1, 0, "train/a.mp4")
    with pytest.raises(ValueError, match="none of the 1 classes"):
        list(read_dataset(str(tmp_path / "names"), None, ["walk"], streaming=True).videos["train"])
    with pytest.raises(ValueError, match="is streamed, and val_share=0.5 of it cannot be told beforehand"):
        read_dataset(str(tmp_path / "names"), None, ["walk", "run"], streaming=True, val_share=0.5)
    assert train_on(parquet, tmp_path / "run", "--streaming") == 2
    assert "give --max_steps" in capsys.readouterr().err
    assert train_on(parquet, tmp_path / "run", "--streaming", "--max_steps", "2", "--class_balance", "sampler") == 2
    assert "a stream does not tell" in capsys.readouterr().err
    assert train.main(["--data_dir", parquet, "--streaming", "--output_dir", str(tmp_path / "run")]) == 2
    assert "--streaming is for --dataset_name" in capsys.readouterr().err


def test_training_on_a_stream(parquet, tmp_path, capsys):
    """Four batches are all of it, then it comes again."""
    assert train_on(parquet, tmp_path / "run", "--streaming", "--max_steps", "6", "--eval_strategy", "epoch") == 0
    coverage = json.loads((tmp_path / "run/coverage.json").read_text())
    assert coverage["train"]["coverage"] is None and coverage["val"]["used"] == 8
    arguments = ["--model", str(tmp_path / "run"), "--dataset_name", parquet, "--streaming", "--num_workers", "0"]
    assert evaluate.main([*arguments, "--output_dir", str(tmp_path / "results")]) == 0
    assert json.loads((tmp_path / "results/results.json").read_text())["num_decoded"] == 8
    assert evaluate.main([*arguments, "--output_dir", str(tmp_path / "other"), "--split", "train"]) == 2
    assert "Evaluation of --split train needs all of its videos; leave --streaming out" in capsys.readouterr().err


def test_files_are_no_stream(folder, tmp_path):
    """Their list is short, so that all is known as if they had been downloaded."""
    streamed, whole = (read_dataset(folder, streaming=each, val_share=0.25) for each in (True, False))
    assert streamed.videos["train"][:] == whole.videos["train"][:] and streamed.notes == whole.notes
    assert train_on(folder, tmp_path / "run", "--streaming", "--val_share", "0.25", "--num_train_epochs", "1") == 0


def test_splits_without_labels_are_left_out(clips, tmp_path):
    features = Features({"video": Video(), "label": ClassLabel(names=["run", "walk"])})
    for split, labels in {"train": [0, 1], "test": [-1, -1], "validation": [1, -1]}.items():
        rows = {"video": [{"path": None, "bytes": clips[0].read_bytes()}] * 2, "label": labels}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(ValueError, match="has the label -1, which is none of the 2 classes"):
        read_dataset(str(tmp_path))
    (tmp_path / "validation.parquet").unlink()
    collection = read_dataset(str(tmp_path))
    assert collection.num_videos == {"train": 2} and "test has no labels, and is left out." in collection.describe()


READ = """
import sys
from vtn_hf.data.hub_videos import read_dataset
from vtn_hf.data.rows import find_sources
from vtn_hf.video_decoding_vtn import decode_video

collection = read_dataset("me/videos", streaming=bool(sys.argv[1:]))
for split, rows in collection.videos.items():
    rows = list(rows)
    sources = find_sources({column: [row[column] for row in rows] for column in rows[0]})
    print(split, [row["label"] for row in rows], [len(decode_video(source)[0]) for source in sources])
"""


@pytest.mark.parametrize("flags", [[], ["--streaming"]])
@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_from_the_hub(request, kind, flags, tmp_path):
    """Through the Hub's own client, from a server on this machine."""
    root = Path(request.getfixturevalue(kind))
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with HubServer() as hub:
        hub.repositories["me/videos"] = Repository()
        hub.repositories["me/videos"].commit("videos", files)
        path = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        environment |= {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": path}
        command = [sys.executable, "-c", READ, *flags]
        process = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    lines = process.stdout.splitlines()
    labels = [0, 1] * 4 if kind == "parquet" else [0] * 4 + [1] * 4
    splits = ["train", "val"] if kind == "parquet" else ["train"]
    assert lines == [f"{split} {labels} {[6] * 8}" for split in splits]
    downloads = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.stat().st_size > 1000]
    assert any("train" in path.name or path.suffix == ".mp4" for path in downloads) == (not flags)
