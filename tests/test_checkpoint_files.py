"""The code that travels with a checkpoint: nine files, and a list of what they need that may go."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import vtn_hf


ROOT = Path(vtn_hf.__file__).parent
FILES = {path.name: path for path in ROOT.glob("*_vtn.py")}
LIBRARIES = ("torch", "transformers", "huggingface_hub")
DOCUMENT = Path(__file__).parents[1] / "docs" / "checkpoints.md"


def test_at_most_nine_files_travel():
    assert len(FILES) <= 9


def test_the_configuration_names_all_of_them():
    """transformers copies what a file names, and what that names; this one is there wherever a part of a VTN is."""
    seen, names = set(), {"configuration_vtn.py"}
    while names:
        name = names.pop()
        seen.add(name)
        found = re.findall(r"^\s*from \.(\w+) import", FILES[name].read_text(), re.MULTILINE)
        names |= {f"{module}.py" for module in found} - seen
    assert seen == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_only_siblings_are_imported(name):
    """What transformers' search for relative imports does not see would be missing from a checkpoint."""
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and f"{node.module}.py" in FILES
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            assert not any(module.split(".")[0] == "vtn_hf" for module in modules)


def find_private_names() -> set[str]:
    """Underscore names that are not our own alone, and imports from within a library of what it does not export."""
    trees = [ast.parse(path.read_text()) for path in FILES.values()]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    written = {name for node in nodes for name in list_written(node) if name.startswith("_") and name[1:2] != "_"}
    private = {name for name in written if name.strip("_") and (name not in find_own(nodes) or is_inherited(name))}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.split(".")[0] in LIBRARIES:
            library = importlib.import_module(node.module.split(".")[0])
            # PyTorch documents what lies in its modules.
            is_public = library.__name__ == "torch"
            private |= {
                f"{node.module}.{alias.name}"
                for alias in node.names
                if alias.name.startswith("_") or not (is_public or hasattr(library, alias.name))
            }
    return private


def list_written(node: ast.AST) -> list[str]:
    """The names in a part of the code, as strings for `getattr`, too."""
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.Name):
        return [node.id]
    is_name = isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier()
    return [node.value] if is_name else []


def find_own(nodes: list[ast.AST]) -> set[str]:
    """What the code defines itself."""
    own = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in nodes:
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.For, ast.comprehension)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            own |= {name for target in targets for part in ast.walk(target) for name in list_written(part)}
    return own | set(dir(tuple)) | {"_replace", "_asdict"}  # named tuples have these in public


def is_inherited(name: str) -> bool:
    modules = [importlib.import_module(f"vtn_hf.{Path(file).stem}") for file in FILES]
    classes = {thing for module in modules for thing in vars(module).values() if inspect.isclass(thing)}
    bases = {base for each in classes for base in each.__mro__ if base.__module__.split(".")[0] in LIBRARIES}
    return any(name in vars(base) for base in bases)


def test_private_names_are_written_down():
    """docs/checkpoints.md says of each what happens if it goes."""
    rows = re.findall(r"^\| (`[^|]+) \|[^|]+\|[^|]+\|$", DOCUMENT.read_text().split("if it goes |")[1], re.MULTILINE)
    table = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert find_private_names() == table
