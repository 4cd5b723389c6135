"""`vtn scan` on a small collection with bad files in it."""

import pytest
from example_runs import run, run_process
from test_scan import collection, here  # noqa: F401 - fixtures

from vtn_hf.data.scan import read_scan


def test_the_table_and_the_exit_status(collection, tmp_path, here, capsys):  # noqa: F811
    table = tmp_path / "scan.csv"
    arguments = ["--data_dir", collection, "--output", table, "--num_workers", 1]
    assert run("scan", *arguments) == 1
    assert "2 of 4 videos are good" in capsys.readouterr().out
    assert len(read_scan(table)) == 4
    for name in ("cut", "text"):
        (collection / f"train/run/{name}.mp4").unlink()
    assert run("scan", *arguments) == 0
    assert len(here) == 4


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere", "nowhere is not a folder"), ("empty", "empty holds no file with one of the end")]
)
def test_without_videos(tmp_path, capsys, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/readme.txt").touch()
    assert run("scan", "--data_dir", tmp_path / name, "--output", tmp_path / "scan.csv") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "scan.csv").exists()


def test_as_a_process(collection, tmp_path):  # noqa: F811
    result = run_process("scan", "--data_dir", collection, "--output", tmp_path / "scan.csv", "--num_workers", 2)
    assert result.returncode == 1, result.stderr[-3000:]
    assert "2 of 4 videos are good" in result.stdout
