"""examples/benchmarks/anytime.py on a tiny model: that it runs, goes on, and stops by the rule of the package."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from test_whole_video import PROCESSOR, make_model, make_pictures
from video_files import write_video

from vtn_hf.data.feature_cache import CachedClips, CacheIndex, FeatureCacheInfo, hash_weights, read_shard, write_shard


PATH = Path(__file__).parent.parent / "examples/benchmarks/anytime.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("anytime_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and features of four videos, of random numbers."""
    root, model = tmp_path_factory.mktemp("anytime"), make_model()
    model.save_pretrained(root / "RUN")
    PROCESSOR.save_pretrained(root / "RUN")
    backbone = {"backbone_name_or_path": "RUN", "backbone_sha256": hash_weights(model.vtn.backbone)}
    (root / "FEATURES/val").mkdir(parents=True)
    FeatureCacheInfo(**backbone, processor=json.loads(PROCESSOR.to_json_string())).save(root / "FEATURES")
    videos = []
    for number in range(4):
        path = write_video(root / f"{number}.mp4", make_pictures(20 + number, seed=number))
        clip = torch.randn(20 + number, 32), torch.arange(20 + number)
        videos.append({"path": str(path), "label": number % 2, "fps": 10.0, "clips": [clip]})
    write_shard(root / "FEATURES/val/shard-00000.safetensors", videos)
    shard = read_shard(root / "FEATURES/val/shard-00000.safetensors")
    CacheIndex(["a", "b"], {"val": shard}).save(root / "FEATURES")
    return root


def test_measured_once(benchmark, folder, monkeypatch, capsys):
    output = folder / "results.json"
    command = ["anytime.py", "drawn", "--features", folder / "FEATURES", "--models", folder / "RUN", "--num_timed", 1]
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--output", str(output)])
    benchmark.main()
    [row] = json.loads(output.read_text())["drawn"].values()
    assert row["all frames, mean of frames"] == 21.5 and 2 <= row["anytime, mean of frames"] <= 21.5
    assert row["anytime, mean of seconds"] > 0
    before = output.read_bytes()
    monkeypatch.setattr(benchmark, "measure", None)  # it is not measured again
    benchmark.main()
    assert output.read_bytes() == before
    assert "| anytime, top-1 |" in capsys.readouterr().out


def test_folds_have_the_rule_of_the_others(benchmark, folder, monkeypatch):
    model = make_model()
    clips = CachedClips(folder / "FEATURES", "val")
    examples = [clips[index] for index in range(len(clips))]
    looks, made = benchmark.look_at_all(model, examples), []

    def calibrate(looks, labels):
        made.append([video[-1][0] for video in looks])
        return benchmark.Calibration(temperature=1.0, confidence=1.0, min_frames=4)

    monkeypatch.setattr(benchmark, "calibrate", calibrate)
    rows, _ = benchmark.measure(model, clips)
    assert made[-1] == [20, 21, 22, 23]
    assert sorted(made[:-1]) == [[20, 21, 22], [20, 21, 23], [20, 22, 23], [21, 22, 23]]
    answers = torch.tensor([int(video[-1][1].argmax()) for video in looks])
    assert rows["anytime, top-1"] == rows["all frames, top-1"] == (answers == clips.labels).double().mean()
    assert rows["anytime, mean share of frames"] == 1 and rows["anytime, mean of frames"] == 21.5
    # From the fewest frames to all, or to as many as were asked for.
    assert rows["curves"]["random order"][0] == [21.5, rows["all frames, top-1"]]
    assert [frames for frames, _ in rows["curves"]["spread evenly"]][:5] == [1, 2, 4, 8, 16]
