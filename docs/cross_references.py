"""
For mkdocstrings: docstrings are written as those of transformers. On the pages, other objects, [`Name`], are links;
types stand without marks, and what the signature says already is left out.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import griffe


_REFERENCE = re.compile(r"\[`~?([\w.]+)`\](?![(\[])")
# `name (`type`, *optional*, defaults to `3`): description`
_PARAMETER = re.compile(r"^( +[\w*]+ )\(([^\n]+?)(?:, \*optional\*[^\n]*?)?\):", re.MULTILINE)


class CrossReferences(griffe.Extension):
    """Turns the names of objects that the pages below reference/ show into links, and the others into code."""

    def on_package(self, *, pkg: griffe.Module, **kwargs):
        pages = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("reference/*.md"))
        # The package's own page shows what it exports; those of a room show everything in it.
        shown = [path for path in re.findall(r"^::: (\S+)", pages, re.MULTILINE) if path != pkg.path]
        objects = [*_walk(pkg)]
        paths = {
            path.removeprefix(f"{each.module.path}."): path
            for each in objects
            if not each.is_module and (path := each.path).startswith(tuple(shown)) and "._" not in path
        }
        for name in map(str, pkg.exports or ()):
            members = [] if name.startswith("_") else [name, *(f"{name}.{member}" for member in pkg[name].members)]
            paths |= {member: f"{pkg.path}.{member}" for member in members}
        for each in objects:
            if each.docstring is not None:
                text = _REFERENCE.sub(lambda match: _link(match[1], paths), each.docstring.value)
                each.docstring.value = _PARAMETER.sub(lambda match: f"{match[1]}({match[2].replace('`', '')}):", text)


def _walk(parent: griffe.Object) -> Iterator[griffe.Object]:
    """An object and all that is defined in it."""
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from _walk(member)


def _link(name: str, paths: dict[str, str]) -> str:
    path = paths.get(name) or paths.get(name.removeprefix("vtn_hf."))
    return f"`{name}`" if path is None else f"[`{name}`][{path}]"
