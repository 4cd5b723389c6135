"""The export to ONNX, run as a user runs it on a tiny model."""

import copy
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor


SCRIPT = Path(__file__).parents[1] / "examples/export_onnx.py"
BACKBONE = {
    "model_type": "resnet",
    "layer_type": "basic",
    "embedding_size": 4,
    "hidden_sizes": [4, 16],
    "depths": [1, 1],
}


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("export_onnx", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model_dir(tmp_path):
    torch.manual_seed(0)
    config = VTNConfig(
        backbone_config=BACKBONE,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        initializer_range=0.3,
        num_labels=5,
    )
    VTNForVideoClassification(config).save_pretrained(tmp_path / "model")
    processor = VTNVideoProcessor(size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16})
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["export_onnx.py", *map(str, arguments)])
    script.main()


@pytest.mark.slow
def test_file_runs_in_onnxruntime(script, model_dir, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    run(script, monkeypatch, model_dir, tmp_path / "exported")

    assert capsys.readouterr().out.count("largest difference") == len(script.COMPARED)
    model = VTNForVideoClassification.from_pretrained(model_dir)
    processor = VTNVideoProcessor.from_pretrained(tmp_path / "exported")
    session = onnxruntime.InferenceSession(tmp_path / "exported/model.onnx")
    generator = torch.Generator().manual_seed(0)
    videos = [
        torch.randint(256, (frames, 24, 32, 3), generator=generator, dtype=torch.uint8) for frames in (90, 41, 5)
    ]
    inputs = processor(videos, return_tensors="pt")
    (logits,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.no_grad():
        assert_close(torch.from_numpy(logits), model(**inputs).logits, atol=1e-4, rtol=1e-4)


def test_difference_is_reported(script, model_dir, tmp_path, monkeypatch):
    """With a model that is a little off in the place of its export."""

    def export(model, side):
        exported = copy.deepcopy(model)
        exported.classifier.out_proj.bias.data += 0.01
        exported.save_pretrained(tmp_path / "exported")
        return exported

    monkeypatch.setattr(script, "export", export)
    with pytest.raises(SystemExit, match="differs from torch"):
        run(script, monkeypatch, model_dir, tmp_path / "exported")
