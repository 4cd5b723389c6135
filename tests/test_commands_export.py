"""The export to ONNX, run as a user runs it on a tiny model."""

import copy
import os

import pytest
import torch
from example_runs import run, take_stock
from torch.testing import assert_close

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.commands import export


BACKBONE = {
    "model_type": "resnet",
    "layer_type": "basic",
    "embedding_size": 4,
    "hidden_sizes": [4, 16],
    "depths": [1, 1],
}


@pytest.fixture(params=[None, 2], ids=["vector", "grid"])
def model_dir(tmp_path, request):
    torch.manual_seed(0)
    config = VTNConfig(
        backbone_config=BACKBONE,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        initializer_range=0.3,
        num_labels=5,
        frame_grid=request.param,
    )
    VTNForVideoClassification(config).save_pretrained(tmp_path / "model")
    processor = VTNVideoProcessor(size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16})
    processor.save_pretrained(tmp_path / "model")
    before = take_stock(tmp_path / "model")
    yield tmp_path / "model"
    assert take_stock(tmp_path / "model") == before


@pytest.mark.slow
def test_file_runs_in_onnxruntime(model_dir, tmp_path, capsys):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    assert run("export", "--model", model_dir, "--output_dir", tmp_path / "exported") == 0

    assert capsys.readouterr().out.count("largest difference") == len(export.COMPARED)
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


@pytest.fixture
def as_torch(monkeypatch):
    """The model itself, with so much added to a bias, in the place of its export."""

    def export_with(change):
        def export_as_torch(model, side):
            exported = copy.deepcopy(model)
            exported.classifier.out_proj.bias.data += change
            return exported

        monkeypatch.setattr(export, "export", export_as_torch)
        monkeypatch.setattr(export, "COMPARED", ([2, 3],))
        monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: name)

    return export_with


def test_what_differs_is_not_written(as_torch, model_dir, tmp_path, capsys):
    as_torch(0.01)
    assert run("export", "--model", model_dir, "--output_dir", tmp_path / "exported") == 2
    assert "ONNX Runtime differs from torch by" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["model"]
    assert run("export", "--model", model_dir, "--output_dir", tmp_path / "exported", "--tolerance", 1) == 0
    assert "config.json" in os.listdir(tmp_path / "exported")


def test_nothing_is_overwritten_unasked_and_the_model_never(as_torch, model_dir, tmp_path, capsys):
    as_torch(0)
    (tmp_path / "link").symlink_to(model_dir)
    for output in (model_dir, tmp_path / "link"):
        for flags in ([], ["--overwrite"]):
            assert run("export", "--model", model_dir, "--output_dir", output, *flags) == 2
            assert "config.json is the input" in capsys.readouterr().err
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported/config.json").write_text("precious")
    (tmp_path / "exported/notes.txt").write_text("precious")
    assert run("export", "--model", model_dir, "--output_dir", tmp_path / "exported") == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "exported/config.json").read_text() == "precious"
    assert run("export", "--model", model_dir, "--output_dir", tmp_path / "exported", "--overwrite") == 0
    assert (tmp_path / "exported/config.json").read_text() != "precious"
    assert (tmp_path / "exported/notes.txt").read_text() == "precious"


def test_a_missing_package_is_asked_for_at_the_start(as_torch, model_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert run("export", "--model", model_dir, "--output_dir", tmp_path / "exported") == 2
    assert "The export needs onnxscript: pip install" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["model"]
