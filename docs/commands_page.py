"""
Writes docs/commands.md: what commands there are, and which options they have in common.

    python docs/commands_page.py
"""

import importlib
from argparse import Action
from pathlib import Path

import vtn_cli


PAGE = Path(__file__).parent / "commands.md"
HEAD = """# Commands

`pip install` brings one command, `vtn`; `vtn NAME --help` says what one does and lists its options. Each is a module
with a `main(argv)`, so that `accelerate launch -m vtn_hf.commands.NAME` runs it on several devices.

What a user can mend ends a command with one line and the exit status 2; 1 says that it is done, but that some videos
failed, which are listed. No command writes into what it reads, and what was stopped goes on with the same command.

<!-- written by docs/commands_page.py -->

"""


def list_options(name: str) -> dict[str, Action]:
    """The options of a command by their names, but for those of transformers; what has no name is in capitals."""
    parser = importlib.import_module(f"vtn_hf.commands.{name}").make_parser()
    theirs = {
        action
        for group in parser._action_groups
        if group.title == "transformers.TrainingArguments"
        for action in group._group_actions
    }
    actions = [action for action in parser._actions if action not in theirs and action.dest != "help"]
    return {
        action.option_strings[0] if action.option_strings else action.dest.upper(): action
        for action in actions
        if not any(option.startswith("--no_") for option in action.option_strings)
    }


def make_page() -> str:
    """The text of the page."""
    options = {name: list_options(name) for name in vtn_cli.COMMANDS}
    lines = ["| command | what it does |", "| --- | --- |"]
    lines += [f"| `vtn {name}` | {what} |" for name, what in vtn_cli.COMMANDS.items()]
    lines += [
        "",
        "## The same everywhere",
        "",
        f"| option | {' | '.join(options)} |",
        "| --- |" + " :-: |" * len(options),
    ]
    counts: dict[str, int] = {}
    for each in options.values():
        counts |= {option: counts.get(option, 0) + 1 for option in each}
    for option in sorted(option for option, count in counts.items() if count > 1 and option.startswith("--")):
        lines.append(
            f"| `{option}` | " + " | ".join("●" if option in each else "" for each in options.values()) + " |"
        )
    lines += ["", "## Of one command", "", "| command | options |", "| --- | --- |"]
    for name, each in options.items():
        own = [f"`{option}`" for option in each if counts[option] == 1 or not option.startswith("--")]
        lines.append(f"| {name} | {', '.join(own)} |")
    lines += ["", "`vtn train` also has all options of transformers' `TrainingArguments`.", ""]
    return HEAD + "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
