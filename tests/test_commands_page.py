"""The commands have one name for one thing, and their page is what their parsers say."""

import importlib.util
from collections import defaultdict

import pytest
from example_runs import ROOT

import vtn_cli


spec = importlib.util.spec_from_file_location("commands_page", ROOT / "docs/commands_page.py")
commands_page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(commands_page)

# What every command that has such a thing calls it.
NAMES = {
    "model",
    "data_dir",
    "output_dir",
    "output",
    "device",
    "dtype",
    "num_workers",
    "num_frames",
    "fps",
    "split",
    "seed",
}


def test_the_page_is_what_the_parsers_say():
    assert commands_page.PAGE.read_text() == commands_page.make_page(), "python docs/commands_page.py writes it anew"


def test_one_name_means_one_thing_and_one_thing_has_one_name():
    texts, names = defaultdict(set), defaultdict(set)
    for command in vtn_cli.COMMANDS:
        for name, action in commands_page.list_options(command).items():
            if (command, name) == ("train", "--seed"):
                continue  # in transformers' words
            text = action.help.partition("; default")[0]
            texts[name].add(text.partition(":")[0])
            names[text].add(name)
    assert {
        name: each for name, each in texts.items() if name in {f"--{each}" for each in NAMES} and len(each) > 1
    } == {}
    assert {text: each for text, each in names.items() if len(each) > 1} == {}


@pytest.mark.parametrize("command", vtn_cli.COMMANDS)
def test_help_says_what_is_needed_and_the_defaults(command: str, capsys: pytest.CaptureFixture, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    # A package that is not there, as in an environment with the package's own requirements alone.
    for package in ("matplotlib", "gradio", "onnx", "onnxruntime", "onnxscript", "torchvision", "tensorboard"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(SystemExit) as end:
        vtn_cli.main([command, "--help"])
    printed = capsys.readouterr().out
    assert end.value.code == 0 and printed.startswith(f"usage: vtn {command} ") and f"\n    vtn {command} " in printed
    assert "(default: None)" not in printed and "-dir" not in printed
    if command == "train":
        assert printed.index("--backbone_name_or_path") < printed.index("transformers.TrainingArguments:")
    for action in commands_page.list_options(command).values():
        if action.default not in (None, False, True) and "default" not in action.help:
            assert "(default: " in printed
