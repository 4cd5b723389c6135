"""The command `vtn`: what it lists, how quickly it answers, and what it says of mistakes."""

import subprocess
import sys
from pathlib import Path

import pytest
from example_runs import ROOT

import vtn_cli


COMMANDS = ROOT / "src/vtn_hf/commands"


def test_every_command_is_listed_and_there():
    modules = {path.stem for path in COMMANDS.glob("*.py") if "\n@command(" in path.read_text()}
    assert set(vtn_cli.COMMANDS) == modules
    assert all(f"\n  {name} " in vtn_cli.describe() for name in modules)


def test_help_does_not_wait_for_torch():
    code = "import sys, vtn_cli; vtn_cli.main(['--help']); print({'torch', 'transformers', 'vtn_hf'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("usage: vtn COMMAND") and result.stdout.endswith("set()\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clasify"], "vtn: error: there is no command 'clasify'; did you mean classify? `vtn --help` lists them.\n"),
        (["--model"], "vtn: error: there is no command '--model'. `vtn --help` lists them.\n"),
        (["scan", "--data_dir", "x"], "vtn scan: error: the following arguments are required: --output; vtn scan"),
        (["classify", "x.mp4", "--model", "nowhere/at/all"], "vtn classify: error: x.mp4: no such file or folder.\n"),
        (["train", "--recipe", "kinetics"], "vtn train: error: 'kinetics' is none of cached_features, kinetics400"),
        (["train", "--recipe", "x.yaml"], "vtn train: error: x.yaml: no such file.\n"),
        (["evaluate", "--modle", "x"], "vtn evaluate: error: the following arguments are required: "),
        (["attention", "x.mp4", "--model", "m", "--output_dir", "o"], "vtn attention: error: x.mp4: no such video.\n"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, monkeypatch, capsys, arguments: list[str], message: str):
    monkeypatch.chdir(tmp_path)
    try:
        status = vtn_cli.main(arguments)
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert status == 2 and error.startswith(message) and error.count("\n") == 1
