"""The examples in the docstrings run, and every public class has one."""

import doctest
import importlib
import pkgutil

import pytest

import vtn_hf


MODULES = ["vtn_hf", *(module.name for module in pkgutil.walk_packages(vtn_hf.__path__, "vtn_hf."))]
# As transformers' own doctests do, so that examples need not spell out every digit and blank.
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("module_name", MODULES)
def test_examples_run(module_name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(importlib.import_module(module_name), optionflags=OPTIONS)
    assert results.failed == 0, "see the output above"


@pytest.mark.parametrize("class_name", vtn_hf.__all__)
def test_public_class_has_an_example(class_name):
    examples = doctest.DocTestFinder().find(getattr(vtn_hf, class_name), class_name)
    assert any(example.examples for example in examples)
