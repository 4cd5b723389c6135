"""The commands have one name for one thing, and their page is what their parsers say."""

import importlib.util
from argparse import Action
from collections import defaultdict

import pytest
from example_runs import ROOT

import vtn_cli


spec = importlib.util.spec_from_file_location("commands_page", ROOT / "docs/commands_page.py")
commands_page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(commands_page)

# Where commands have the same option with another default, and why.
DEFAULTS = {
    "--backbone_name_or_path": "vtn new is to work without one",
    "--val_share": "vtn new and vtn split hold out by themselves; the others where they are told to",
    "--num_workers": "where nothing else computes, one per CPU",
    "--seed": "transformers' own in training",
    "--time_limit_sec": "a scan is quicker than what follows it",
    "--memory_limit_gib": "a scan keeps no frames",
    "--frames_per_chunk": "by the machine where the model has no say",
    "--clip_num_frames": "of the paper, where views are asked for; whole videos train too",
    "--clip_duration_sec": "as for clip_num_frames",
    "--top_k": "a line of a terminal, written again and again, is short",
}


def test_the_page_is_what_the_parsers_say():
    assert commands_page.PAGE.read_text() == commands_page.make_page(), "python docs/commands_page.py writes it anew"


def collect_options() -> dict[str, dict[str, Action]]:
    """By name and command."""
    options = defaultdict(dict)
    for command in vtn_cli.COMMANDS:
        for name, action in commands_page.list_options(command).items():
            if name.startswith("--"):
                options[name][command] = action
    del options["--seed"]["train"]  # in transformers' words
    return options


def test_one_name_means_one_thing_and_one_thing_has_one_name():
    options = collect_options()
    meanings = {
        name: {action.help.partition("; default")[0].partition(":")[0] for action in each.values()}
        for name, each in options.items()
    }
    assert {name: each for name, each in meanings.items() if len(each) > 1} == {}
    names = defaultdict(set)
    for name, each in options.items():
        for action in each.values():
            names[action.help.partition("; default")[0]].add(name)
    assert {text: each for text, each in names.items() if len(each) > 1} == {}


def test_a_default_is_the_same_everywhere_or_has_a_reason():
    differ = {
        name for name, each in collect_options().items() if len({repr(action.default) for action in each.values()}) > 1
    }
    assert differ <= DEFAULTS.keys()


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
