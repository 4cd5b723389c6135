"""The command `vtn`: what it lists, how quickly it answers, and what it says of mistakes."""

import subprocess
import sys
from pathlib import Path

import pytest
from example_runs import ROOT
from transformers import ViTConfig

import vtn_cli
from vtn_hf.commands.arguments import parse_json
from vtn_hf.commands.console import _describe


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
        (
            ["evaluate", "--model", "no/such", "--data_dir", "x", "--output_dir", "o"],
            "vtn evaluate: error: no/such is no fol",
        ),
        (["classify", ".", "--model", "no/such"], "vtn classify: error: .: no videos there, which end in "),
        (["train", "--data_dir", "x", "--output_dir", "o"], "vtn train: error: x is not a folder.\n"),
        (
            ["app", "--model", "m", "--port", "x"],
            "vtn app: error: argument --port: invalid int value: 'x'; vtn app --help",
        ),
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


def test_what_is_no_vtn_is_said_to_be_none(tmp_path: Path, capsys):
    ViTConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1).save_pretrained(tmp_path / "VIT")
    (tmp_path / "VIDEOS").mkdir()
    arguments = ["--model", str(tmp_path / "VIT"), "--data_dir", str(tmp_path / "VIDEOS")]
    assert vtn_cli.main(["evaluate", *arguments, "--output_dir", str(tmp_path / "OUT")]) == 2
    assert capsys.readouterr().err.endswith("VIT is a model of the type 'vit', and not a VTN.\n")


@pytest.mark.parametrize("text", ["{bad", "[1]"])
def test_json_that_is_none_names_its_option(tmp_path: Path, capsys, text: str):
    with pytest.raises(ValueError, match="--processor_config must be JSON") as error:
        parse_json("processor_config", text)
    assert repr(text) in str(error.value)


def test_a_model_that_is_not_found_is_named_however_it_is_given():
    error = OSError("There is no such file.")
    for words in (["--model", "no/such"], ["--model=no/such"]):
        assert _describe(error, words) == "no/such is no folder, and not found on the Hub. There is no such file."
