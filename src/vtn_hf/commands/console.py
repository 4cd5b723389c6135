"""How all commands speak: their help, their errors, and names that are no text."""

import argparse
import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import NoReturn, TextIO, get_type_hints

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser

from ..data.class_names import escape_bytes


# What a user can mend; anything else is a mistake of ours, whose traceback is wanted.
USER_ERRORS = (ValueError, OSError, FloatingPointError, StrictDataclassError, yaml.YAMLError)


def command(name: str) -> Callable[[Callable[[list[str] | None], int | None]], Callable[..., int]]:
    """
    Makes a function of the arguments the `main` of a command, which returns the exit status: that of the function; 2
    after an error that a user can mend, told in one line; 130 if it was stopped.
    """

    def decorate(function: Callable[[list[str] | None], int | None]) -> Callable[..., int]:
        @functools.wraps(function)
        def main(argv: list[str] | None = None) -> int:
            try:
                return function(argv) or 0
            except USER_ERRORS as error:
                show(f"vtn {name}: error: {_describe(error, sys.argv[1:] if argv is None else argv)}", file=sys.stderr)
                return 2
            except KeyboardInterrupt:
                show("Stopped; the same command goes on.", file=sys.stderr)
                return 130

        return main

    return decorate


def _describe(error: Exception, argv: list[str]) -> str:
    """In one line, with the name of a model that is not found, which transformers may leave out."""
    text = " ".join(str(error).split())
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    options = zip(words, words[1:], strict=False)
    names = [name for option, name in options if option in ("--model", "--backbone_name_or_path")]
    unknown = [name for name in names if not Path(name).is_dir() and name not in text]
    # Those of the system have a number, and classes of their own.
    is_of_transformers = type(error) is OSError and error.errno is None
    return f"{unknown[0]} is no folder, and not found on the Hub. {text}" if unknown and is_of_transformers else text


class CommandParser(HfArgumentParser):
    """
    Reads the arguments of a command.

    Args:
        name (`str`): Of the command.
        doc (`str`): With which the help begins: the docstring of the command's module.
    """

    def __init__(self, name: str, doc: str):
        super().__init__(
            prog=f"vtn {name}",
            description=inspect.cleandoc(doc),
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )

    def add_fields(self, dataclass_type: type, title: str | None = None, names: Iterable[str] | None = None):
        """
        Adds the fields of a dataclass that are not there yet, as a group of options.

        Args:
            dataclass_type (`type`): Whose fields to fill.
            title (`str`, *optional*): Of the group.
            names (`Iterable[str]`, *optional*): Of the fields; default: all.
        """
        group = self if title is None else self.add_argument_group(title)
        types = get_type_hints(dataclass_type)
        there = {action.dest for action in self._actions}
        for each in fields(dataclass_type):
            if each.init and each.name not in there and (names is None or each.name in names):
                each.type = types[each.name]
                self._parse_dataclass_field(group, each)
        if dataclass_type not in self.dataclass_types:
            self.dataclass_types.append(dataclass_type)

    def parse(self, argv: list[str] | None) -> tuple:
        """The dataclasses that the arguments fill."""
        return self.parse_dict(vars(self.parse_args(argv)), allow_extra_keys=True)

    def error(self, message: str) -> NoReturn:
        self.exit(2, escape_bytes(f"{self.prog}: error: {message}; {self.prog} --help lists the options.\n"))


def show(text: str, file: TextIO | None = None):
    """Prints; names of files may hold what is no text."""
    print(escape_bytes(text), file=file, flush=True)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Says what is needed, defaults where there are any, and each option under one name."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28)

    def add_usage(self, usage: str | None, actions: Iterable[argparse.Action], groups, prefix: str | None = None):
        needed = [self._describe(action) for action in actions if action.required]
        super().add_usage(" ".join([self._prog, *needed, "[OPTIONS]"]), actions, groups, prefix)

    def add_argument(self, action: argparse.Action):
        if not (_is_switch(action) and action.default is True):  # the other one, --no_…, is what can be said
            super().add_argument(action)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.option_strings and action.option_strings[0].startswith("--no_"):
            return f"not: {text}"
        has_default = action.option_strings and action.default not in (None, False, argparse.SUPPRESS)
        return f"{text} (default: %(default)s)".strip() if has_default and "default" not in text else text

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return self._describe(action)

    def _describe(self, action: argparse.Action) -> str:
        if action.nargs == 0 or _is_switch(action):
            names = [name for name in action.option_strings if "-" not in name[2:]]
            return ", ".join(names)
        kind = {int: "N", float: "X"}.get(getattr(action.type, "kind", action.type))
        values = self._format_args(action, action.metavar or kind or action.dest.rpartition("_")[2].upper())
        return " ".join([*action.option_strings[:1], values])


def _is_switch(action: argparse.Action) -> bool:
    """Whether it says yes by itself."""
    return action.nargs == "?" and action.const is True
