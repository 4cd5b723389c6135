"""`vtn stream` on files, and on what cannot be decoded."""

from pathlib import Path

import pytest
from example_runs import run
from long_videos import model_dir, read, three_videos, videos  # noqa: F401 - fixtures
from test_whole_video import make_pictures
from video_files import write_video

from vtn_hf.commands import stream


def test_stream_a_file_at_its_pace(model_dir, tmp_path, capsys):  # noqa: F811
    path = write_video(tmp_path / "video.mp4", make_pictures(16), fps=20)
    assert run("stream", "--model", model_dir, path, "--predict_every", 4) == 0
    output = capsys.readouterr().out
    assert "LABEL_" in output and "16 frames read" in output and "0 changes of size" in output


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.json", "scores.csv"])
def test_stream_writes_predictions_as_they_are_made(model_dir, videos, monkeypatch, capsys, name):  # noqa: F811
    push, frames_seen = stream.StreamingClassifier.push, []

    def stop_at_the_seventh(self, frames, times):
        if len(frames_seen) == 6:
            raise KeyboardInterrupt
        frames_seen.append(times)
        return push(self, frames, times)

    monkeypatch.setattr(stream.StreamingClassifier, "push", stop_at_the_seventh)
    arguments = ["--model", model_dir, "videos/a/x.mp4", "--predict_every", 2, "--top_k", 2, "--output", name]
    assert run("stream", *arguments) == 0
    rows = read(Path(name))
    assert [int(row["frames_seen"]) for row in rows] == [2, 4, 6]
    assert [float(row["end_sec"]) for row in rows] == pytest.approx([time for [time] in frames_seen[1::2]])
    best = rows[0]["label"] if name.endswith("csv") else rows[0]["scores"][0]["label"]
    assert f" {best} " in capsys.readouterr().out
    assert run("stream", *arguments) == 2 and f"{name} exists already" in capsys.readouterr().err
    frames_seen.clear()
    assert run("stream", *arguments, "--overwrite") == 0 and len(read(Path(name))) == 3


@pytest.mark.parametrize("output", ["videos/a/x.mp4", "link.mp4", "hard.mp4"])
def test_stream_refuses_to_write_into_its_source(model_dir, videos, capsys, output):  # noqa: F811
    Path("x.csv").symlink_to(output)
    for name in (output, "x.csv"):
        assert run("stream", "--model", model_dir, "videos/a/x.mp4", "--output", name, "--overwrite") == 2
        assert "is the input" in capsys.readouterr().err or name == output


def test_stream_asks_for_matplotlib_before_it_begins(model_dir, videos, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(stream.importlib.util, "find_spec", lambda name: None)
    assert run("stream", "--model", model_dir, "videos/a/x.mp4", "--show") == 2
    assert "--show needs matplotlib: pip install matplotlib" in capsys.readouterr().err


def test_stream_reports_a_source_that_fails(model_dir, tmp_path, capsys):  # noqa: F811
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert run("stream", "--model", model_dir, tmp_path / "broken.mp4") == 1
    captured = capsys.readouterr()
    assert "0 frames read" in captured.out and "The source failed" in captured.err
