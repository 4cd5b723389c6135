"""Checkpoints of PySlowFast are read without trusting what is in them."""

import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from tiny_models import make_vit_vtn

from vtn_hf import VTNVideoProcessor
from vtn_hf.convert_vtn_checkpoint import convert_checkpoint, revert_checkpoint
from vtn_hf.pyslowfast import ConversionError, read_checkpoint


@pytest.fixture(scope="module")
def checkpoint_path(tmp_path_factory) -> Path:
    """What the original would save of a tiny model."""
    folder = tmp_path_factory.mktemp("model")
    model = make_vit_vtn()
    model.config.backbone_config.layer_norm_eps = 1e-6
    model.save_pretrained(folder)
    VTNVideoProcessor().save_pretrained(folder)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pyth"
    revert_checkpoint(folder, path)
    return path


@pytest.fixture
def checkpoint(checkpoint_path) -> dict:
    return torch.load(checkpoint_path, weights_only=True)


class Exploit:
    """What a pickle can do to its reader: here, create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save_exploit", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_code_in_a_checkpoint_is_not_executed(tmp_path, save_exploit):
    path, trace = tmp_path / "exploit.pyth", tmp_path / "executed"
    save_exploit({"epoch": 0, "model_state": Exploit(trace), "optimizer_state": {}, "cfg": "VTN: {}"}, path)
    with pytest.raises(ConversionError, match=f"(?s){re.escape(str(path))}.*would execute code"):
        read_checkpoint(path)
    assert not trace.exists()
    # Otherwise the above would prove nothing.
    torch.load(path, weights_only=False) if save_exploit is torch.save else pickle.loads(path.read_bytes())
    assert trace.exists()


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "as before torch 1.6"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_older_formats_and_other_precisions_are_read(checkpoint, tmp_path, archive, dtype):
    # Older transformers kept the numbers of the positions among the weights.
    weights = {name: weight.to(dtype) for name, weight in checkpoint["model_state"].items()}
    positions = {"temporal_encoder.embeddings.position_ids": torch.arange(288)[None]}
    path = tmp_path / "other.pyth"
    torch.save(checkpoint | {"model_state": weights | positions}, path, _use_new_zipfile_serialization=archive)
    model = convert_checkpoint(path, tmp_path / "out", backbone_num_attention_heads=2)
    assert model.dtype == torch.float32
    expected = weights["mlp_head.4.weight"].float()
    torch.testing.assert_close(model.classifier.out_proj.weight.data, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "value, message",
    [
        (torch.tensor([1.0, float("nan")]), "not finite"),
        (torch.tensor([1.0, float("inf")]), "not finite"),
        (torch.tensor([1, 2]), "no plain tensor of floats"),
        (torch.tensor([True, False]), "no plain tensor of floats"),
        (torch.tensor([1j, 2j]), "no plain tensor of floats"),
        (torch.tensor([[1.0, 0.0]]).to_sparse(), "no plain tensor of floats"),
        (torch.ones(1).expand(10**6, 10**6), "4,000,000,0.* bytes, more than the file"),
        (3, "no named tensors"),
        (None, "no named tensors"),
        ([torch.ones(2)], "no named tensors"),
    ],
)
def test_weights_that_are_none_are_refused(checkpoint, tmp_path, value, message):
    path = tmp_path / "odd.pyth"
    checkpoint["model_state"]["mlp_head.1.bias"] = value
    torch.save(checkpoint, path)
    with pytest.raises(ConversionError, match=f"{re.escape(str(path))}.*{message}") as error:
        read_checkpoint(path)
    if "named" not in message and "file" not in message:
        assert "mlp_head.1.bias" in str(error.value)


def test_names_that_are_none_are_refused(checkpoint, tmp_path):
    checkpoint["model_state"][1] = torch.ones(2)
    torch.save(checkpoint, tmp_path / "odd.pyth")
    with pytest.raises(ConversionError, match="no named tensors"):
        read_checkpoint(tmp_path / "odd.pyth")


def test_a_compressed_archive_is_refused(checkpoint_path, tmp_path):
    """A thousandth of what comes out of it may be in the file."""
    with zipfile.ZipFile(checkpoint_path) as archive, zipfile.ZipFile(tmp_path / "bomb.pyth", "w") as bomb:
        for entry in archive.infolist():
            bomb.writestr(entry.filename, archive.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(ConversionError, match="content is compressed"):
        read_checkpoint(tmp_path / "bomb.pyth")


def test_no_message_says_how_to_load_it_unsafely(checkpoint_path, tmp_path):
    content = checkpoint_path.read_bytes()
    for number, damaged in enumerate(
        [b"", b"PK\x03\x04", b"text", content[:100], content[:-1], content[100:], content.replace(b"\x80", b"\x00")]
    ):
        path = tmp_path / f"{number}.pyth"
        path.write_bytes(damaged)
        with pytest.raises(ConversionError) as error:
            read_checkpoint(path)
        assert str(path) in str(error.value) and "weights_only" not in str(error.value)


def test_a_flipped_bit_among_the_weights_is_noticed(checkpoint, checkpoint_path, tmp_path):
    """torch does not compare the checksums."""
    weight = checkpoint["model_state"]["mlp_head.1.weight"].numpy().tobytes()
    content = bytearray(checkpoint_path.read_bytes())
    content[content.index(weight) + 10] ^= 1
    (tmp_path / "flipped.pyth").write_bytes(content)
    torch.load(tmp_path / "flipped.pyth", weights_only=True)
    with pytest.raises(ConversionError, match="is damaged: the checksum"):
        read_checkpoint(tmp_path / "flipped.pyth")
