"""What is written in two places is the same in both, and what is promised is packed."""

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import vtn_hf


ROOT = Path(__file__).parent.parent


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> dict:
    """The arguments of `setup()`."""
    called = {}
    fake = SimpleNamespace(setup=called.update, find_packages=lambda folder: [])
    monkeypatch.setitem(sys.modules, "setuptools", fake)
    runpy.run_path(str(ROOT / "setup.py"))
    return called


def read_pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {normalise(line.split("==")[0]): line.split("==")[1] for line in lines if not line.startswith("#")}


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_version_is_the_same_everywhere(package):
    assert package["version"] == vtn_hf.__version__
    assert f"\nversion: {vtn_hf.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {vtn_hf.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_lower_bounds_are_those_that_are_tested(package):
    pins = read_pins("constraints-floor.txt")
    bounds = dict(re.findall(r"([\w-]+)>=([\d.]+)", "\n".join(package["install_requires"])))
    assert pins.keys() == bounds.keys()
    for name, bound in bounds.items():
        assert (pins[name] + ".").startswith(f"{bound}."), name


def test_what_is_installed_is_pinned_and_named(package):
    pins, readme = read_pins("constraints.txt"), (ROOT / "README.md").read_text()
    for extra, packages in {"": package["install_requires"], **package["extras_require"]}.items():
        assert f"`{extra}`" in readme or not extra
        for each in packages:
            assert normalise(re.match(r"[\w-]+", each)[0]) in pins, each


def test_every_file_of_the_package_is_packed(package):
    others = {
        path.relative_to(ROOT / "src")
        for path in (ROOT / "src/vtn_hf").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    packed = {
        path.relative_to(ROOT / "src")
        for name, patterns in package["package_data"].items()
        for pattern in patterns
        for path in (ROOT / "src" / name.replace(".", "/")).glob(pattern)
    }
    assert others == packed
