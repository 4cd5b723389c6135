"""Data sets with a column of videos: files, and bytes in parquet files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from collection_files import read_back
from datasets import ClassLabel, Dataset, Features, Value, Video
from hub_server import TOKEN, HubServer, Repository
from tiny_models import RESNET_VTN
from video_files import write_video

from vtn_hf import VTNVideoProcessor
from vtn_hf.commands import train
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
    run = ["--dataset_name", parquet, "--output_dir", str(tmp_path / "run"), "--model_config", json.dumps(RESNET_VTN)]
    pixels = ["--resize_to", "16", "--crop_size", "16", "--clip_num_frames", "4"]
    arguments = [
        *run,
        *pixels,
        "--max_steps",
        "1",
        "--device",
        "cpu",
        "--eval_strategy",
        "epoch",
        "--num_workers",
        "0",
    ]
    assert train.main(arguments) == 0
    assert (tmp_path / "run/model.safetensors").is_file()
    assert train.main([*arguments, "--data_dir", parquet]) == 2
    assert "Give one of --data_dir, --dataset_name and --features" in capsys.readouterr().err


READ = """
import sys
from vtn_hf.data.hub_videos import read_dataset
from vtn_hf.data.rows import find_sources
from vtn_hf.video_decoding_vtn import decode_video

collection = read_dataset("me/videos")
for split, rows in collection.videos.items():
    print(split, rows["label"][:], [len(decode_video(source)[0]) for source in find_sources(rows[:])])
"""


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_from_the_hub(request, kind, tmp_path):
    """Through the Hub's own client, from a server on this machine."""
    root = Path(request.getfixturevalue(kind))
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with HubServer() as hub:
        hub.repositories["me/videos"] = Repository()
        hub.repositories["me/videos"].commit("videos", files)
        path = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        environment |= {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": path}
        command = [sys.executable, "-c", READ]
        process = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    lines = process.stdout.splitlines()
    labels = [0, 1] * 4 if kind == "parquet" else [0] * 4 + [1] * 4
    splits = ["train", "val"] if kind == "parquet" else ["train"]
    assert lines == [f"{split} {labels} {[6] * 8}" for split in splits]
