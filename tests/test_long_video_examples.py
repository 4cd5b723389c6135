"""`examples/classify.py` and `examples/stream.py` on files, folders and what cannot be decoded."""

import csv
import json
import re
import runpy
import sys
from pathlib import Path

import av
import pytest
from test_whole_video import PROCESSOR, make_model, make_pictures
from video_files import write_video


EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(directory)
    PROCESSOR.save_pretrained(directory)
    return directory


def run(monkeypatch, name, *arguments):
    """The exit status of an example."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return exit_info.value.code


def test_classify_folders_globs_and_broken_files(model_dir, tmp_path, monkeypatch, capsys):
    (tmp_path / "folder/below").mkdir(parents=True)
    for number, name in enumerate(("folder/a.mp4", "folder/below/b.mp4", "c1.mp4")):
        write_video(tmp_path / name, make_pictures(12, seed=number, width=41 + 7))
    (tmp_path / "folder/broken.mp4").write_bytes(b"no video")
    arguments = [model_dir, tmp_path / "folder", tmp_path / "c*.mp4", "--window", 6, "--top_k", 2]
    code = run(monkeypatch, "classify.py", *arguments, "--output", tmp_path / "out/scores.json")
    rows = json.loads((tmp_path / "out/scores.json").read_text())
    assert code == 1 and "1 of 4 videos cannot be decoded" in capsys.readouterr().err
    assert [Path(row["video"]).name for row in rows] == ["a.mp4", "b.mp4", "c1.mp4"]
    assert all(len(row["scores"]) == 2 and row["frames"] == 12 for row in rows)
    assert [(part["start_sec"], part["end_sec"]) for part in rows[0]["timeline"]] == [
        (0.0, 0.4),
        (0.4, 0.7),
        (0.7, 1.2),
    ]
    assert run(monkeypatch, "classify.py", *arguments, "--output", tmp_path / "scores.csv") == 1
    lines = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert len(lines) == 3 * 2 * (1 + 3)
    assert float(lines[0]["score"]) == rows[0]["scores"][0]["score"] and lines[0]["start_sec"] == ""


@pytest.mark.parametrize("option", ["--int8", "--compile"])
def test_classify_faster(model_dir, tmp_path, monkeypatch, capsys, option):
    path = write_video(tmp_path / "video.mp4", make_pictures(10))
    if option == "--compile":
        import torch

        compile = torch.compile
        monkeypatch.setattr(torch, "compile", lambda function: compile(function, backend="eager"))
    scores = []
    for flags in ([], [option]):
        assert run(monkeypatch, "classify.py", model_dir, path, *flags, "--output", tmp_path / "scores.json") == 0
        [row] = json.loads((tmp_path / "scores.json").read_text())
        scores.append({best["label"]: best["score"] for best in row["scores"]})
    assert scores[1] == pytest.approx(scores[0], abs=0.1 if option == "--int8" else 1e-5)
    printed = re.findall(
        r"int8: [\d.]+ times as fast .* logits, of up to [\d.]+, change by at most", capsys.readouterr().out
    )
    assert len(printed) == (option == "--int8")


def test_classify_saves_an_annotated_copy(model_dir, tmp_path, monkeypatch):
    path = write_video(tmp_path / "video.mp4", make_pictures(12, height=41, width=64), fps=5)
    copy = tmp_path / "copies/annotated.mp4"
    assert run(monkeypatch, "classify.py", model_dir, path, "--fps", 2.5, "--window", 2, "--save_video", copy) == 0
    with av.open(str(copy)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 5
    assert len(frames) == 12 and frames[0].shape == (40, 64, 3)
    # The label lies on black, where the noise was.
    assert (frames[0][6:14, 6:30] < 30).mean() > 0.5 > (frames[0][20:] < 30).mean()


def test_classify_names_what_is_missing(model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["classify.py", str(model_dir), str(tmp_path / "*.mp4")])
    with pytest.raises(FileNotFoundError, match=r"\*.mp4: no videos there"):
        runpy.run_path(str(EXAMPLES / "classify.py"), run_name="__main__")


def test_stream_a_file_at_its_pace(model_dir, tmp_path, monkeypatch, capsys):
    path = write_video(tmp_path / "video.mp4", make_pictures(16), fps=20)
    assert run(monkeypatch, "stream.py", model_dir, path, "--predict_every", 4) == 0
    output = capsys.readouterr().out
    assert "LABEL_" in output and "16 frames read" in output and "0 changes of size" in output


def test_stream_reports_a_source_that_fails(model_dir, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert run(monkeypatch, "stream.py", model_dir, tmp_path / "broken.mp4") == 1
    captured = capsys.readouterr()
    assert "0 frames read" in captured.out and "The source failed" in captured.err


def test_stream_drops_what_it_is_too_slow_for(monkeypatch):
    source_class = runpy.run_path(str(EXAMPLES / "stream.py"))["LiveSource"]
    source = source_class("/no/such/file", size=2)
    source._thread.join()
    pictures = make_pictures(5)
    for number, picture in enumerate(pictures):
        source._put(picture, number / 10)
    assert (source.num_read, source.num_dropped) == (5, 3)
    assert [source.read(0)[1], source.read(0)[1], source.read(0)] == [0.3, 0.4, None]
    assert source.error is not None
