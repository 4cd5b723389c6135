"""Recipes and configurations of models are found by their names, and files of one's own by their paths."""

import json
from pathlib import Path

import pytest

from vtn_hf import VTNConfig
from vtn_hf.configs import find_config


def test_names_and_paths(tmp_path: Path):
    assert find_config("recipes", "kinetics400").name == "kinetics400.yaml"
    config = VTNConfig.from_pretrained(find_config("models", "r50_vtn"))
    assert config.backbone_config.depths == [3, 4, 6, 3]
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"num_hidden_layers": 1}))
    assert find_config("models", str(own)) == own


@pytest.mark.parametrize(("kind", "name"), [("recipes", "kinetics"), ("recipes", "r50_vtn"), ("models", "own.yaml")])
def test_what_is_neither(kind: str, name: str):
    with pytest.raises(ValueError, match=f"'{name}' is none of "):
        find_config(kind, name)


def test_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"nowhere.yaml: no such file\."):
        find_config("recipes", "nowhere.yaml")
