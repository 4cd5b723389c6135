"""examples/shape_backbone.py on a tiny image model."""

import json
import sys
from pathlib import Path

from tiny_models import RESNET
from transformers import AutoConfig, AutoModel

from vtn_hf import VTNVideoProcessor


sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import shape_backbone  # noqa: E402


def test_an_image_model_comes_out(tmp_path):
    given = AutoModel.from_config(AutoConfig.for_model(**RESNET))
    given.save_pretrained(tmp_path / "given")
    shape_backbone.main(
        [str(tmp_path / "given"), str(tmp_path / "found"), "--size", "16", "--num_steps", "2", "--batch_size", "4"]
    )
    found = AutoModel.from_pretrained(tmp_path / "found").state_dict()
    assert found.keys() == given.state_dict().keys()
    assert not all(weights.equal(found[name]) for name, weights in given.state_dict().items())
    assert VTNVideoProcessor.from_pretrained(tmp_path / "found").crop_size.height == 16
    assert json.loads((tmp_path / "found/quality.json").read_text()).keys() == {"shape_accuracy", "place_error"}
