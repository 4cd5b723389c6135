"""The callable for engines that process tables, by itself and within Ray Data."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from tiny_models import make_vit_vtn
from video_files import write_video

from vtn_hf import VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.inference.ray import VideoScorer
from vtn_hf.inference.whole_video import classify_video, encode_video


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("model"))
    make_vit_vtn(num_frames=4, num_labels=3).save_pretrained(folder)
    VTNVideoProcessor(num_frames=4, size=18, crop_size=16).save_pretrained(folder)
    return folder


def write_videos(folder, number, num_bad=1):
    """Videos of unequal lengths; the last ones are none."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for index in range(number - num_bad):
        frames = generator.integers(0, 256, (5 + index % 4, 20, 24, 3), np.uint8)
        write_video(folder / f"{index:03d}.mp4", frames)
    for index in range(number - num_bad, number):
        (folder / f"{index:03d}.mp4").write_text("no video")
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("few") / "videos", 4)


def test_scores(model, paths):
    rows = VideoScorer(model, num_frames=4)({"path": np.array(paths), "id": np.arange(4)})
    assert list(rows) == ["path", "id", "label", "score", "scores", "frames", "error"]
    assert all(isinstance(column, np.ndarray) and len(column) == 4 for column in rows.values())
    loaded = VTNForVideoClassification.from_pretrained(model).eval(), VTNVideoProcessor.from_pretrained(model)
    for index, path in enumerate(paths[:3]):
        expected = classify_video(*loaded, path, num_frames=4).scores
        assert rows["scores"][index] == expected.tolist() and rows["score"][index] == pytest.approx(expected.max())
        assert rows["label"][index] == f"LABEL_{expected.argmax()}" and rows["frames"][index] == 4
    assert rows["error"][:3].tolist() == [""] * 3 and "003.mp4: Invalid data" in rows["error"][3]
    assert rows["label"][3] == "" and rows["scores"][3] == [] and np.isnan(rows["score"][3])


def test_features_segments_and_bytes(model, paths):
    content = [Path(paths[0]).read_bytes(), Path(paths[1]).read_bytes() + bytes(3), None]
    table = pandas.DataFrame({"bytes": content, "start_sec": [0.1, float("nan"), None], "end_sec": [0.3, None, None]})
    rows = VideoScorer(model, column="bytes", features=True, dtype="bfloat16")(table)
    assert rows["features"][0].shape == (2, 16) and rows["features"][0].dtype == np.float32
    assert rows["frame_numbers"][0].tolist() == [0, 1] and rows["frame_times"][0] == pytest.approx([0, 0.1])
    assert rows["bytes"][1] == content[1] and len(rows["features"][1]) == 6
    assert "must be a path, bytes" in rows["error"][2] and rows["features"][2].shape == (0, 16)
    model = VTNForVideoClassification.from_pretrained(model).eval()
    expected = encode_video(model, VTNVideoProcessor(num_frames=4, size=18, crop_size=16), content[1]).features
    torch.testing.assert_close(torch.from_numpy(rows["features"][1]), expected, rtol=0.02, atol=0.05)


def test_no_rows(model):
    rows = VideoScorer(model)({"path": np.array([], dtype=str)})
    assert all(len(column) == 0 for column in rows.values())


@pytest.fixture(scope="module")
def cluster():
    """Four logical CPUs on one machine."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    environment = {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path))), "OMP_NUM_THREADS": "1"}
    ray.init(num_cpus=4, include_dashboard=False, runtime_env={"env_vars": environment}, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


def read(folder):
    tables = [pandas.read_parquet(file) for file in folder.glob("*.parquet")]
    return pandas.concat(tables).sort_values("path").reset_index(drop=True)


def run(model, videos, output, **settings):
    example = pytest.importorskip("classify_with_ray")
    settings = {"num_frames": 4, "num_actors": 2, "videos_per_file": 3} | settings
    options = [f"--{name}={value}" for name, value in settings.items()]
    example.main([f"--model={model}", f"--data_dir={videos}", f"--output_dir={output}", *options])


@pytest.mark.slow
def test_example(cluster, model, tmp_path, capfd):
    """It goes on, and gives what the callable gives."""
    paths = write_videos(tmp_path / "videos", 14, num_bad=2)
    (tmp_path / "scores").mkdir()
    hidden = tmp_path / "hidden.mp4"
    os.rename(paths[0], hidden)
    run(model, tmp_path / "videos", tmp_path / "scores")
    os.rename(hidden, paths[0])
    (tmp_path / "scores/cut.parquet").write_bytes(b"PAR1 cut off")
    run(model, tmp_path / "videos", tmp_path / "scores")
    assert "13 of 14 videos are done already" in capfd.readouterr().out
    scores = read(tmp_path / "scores")
    expected = VideoScorer(model, num_frames=4)({"path": paths})
    assert scores["path"].tolist() == paths and (scores["error"] != "").sum() == 2
    assert [list(row) for row in scores["scores"]] == expected["scores"].tolist()


class Scorer(VideoScorer):
    """One that notes who it is, and takes its time."""

    def __init__(self, model, folder):
        super().__init__(model, num_frames=4)
        self.folder = folder

    def __call__(self, rows):
        Path(self.folder, str(os.getpid())).touch()
        time.sleep(0.3)
        return super().__call__(rows)


@pytest.mark.slow
def test_an_actor_is_killed(cluster, model, tmp_path):
    """Another one takes its place: all rows are there, and equal to those of one process."""
    paths = write_videos(tmp_path / "videos", 60, num_bad=3)
    (tmp_path / "pids").mkdir()
    rows = cluster.data.from_items([{"path": path} for path in paths], override_num_blocks=20)
    scores = rows.map_batches(
        Scorer,
        fn_constructor_args=[model, str(tmp_path / "pids")],
        compute=cluster.data.ActorPoolStrategy(size=2),
        batch_size=3,
    )
    found = []
    for number, row in enumerate(scores.iter_rows()):
        if number == 6:
            os.kill(int(os.listdir(tmp_path / "pids")[0]), signal.SIGKILL)
        found.append(row)
    assert len(os.listdir(tmp_path / "pids")) == 3
    found.sort(key=lambda row: row["path"])
    expected = VideoScorer(model, num_frames=4)({"path": paths})
    assert [row["path"] for row in found] == paths
    assert [list(row["scores"]) for row in found] == expected["scores"].tolist()
