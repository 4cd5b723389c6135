"""The ways to run a VTN that docs/backends.md lists, through the script that makes its table."""

import importlib.util
import sys
from pathlib import Path

import pytest

from vtn_hf import VTNForVideoClassification


SCRIPT = Path(__file__).parents[1] / "examples/benchmarks/backends.py"
spec = importlib.util.spec_from_file_location("backends", SCRIPT)
backends = importlib.util.module_from_spec(spec)
sys.modules["backends"] = backends  # the processes of FSDP import it by name
sys.path.append(str(SCRIPT.parent))
spec.loader.exec_module(backends)

EXACT = 2e-5
# What a logit, of a magnitude of about 2, may differ by.
TOLERANCE = {
    "precision: bfloat16": 0.1,
    "precision: float16": 0.01,
    "precision: autocast to bfloat16": 0.1,
    "precision: autocast to float16": 0.01,
    "8-bit weights (torchao)": 0.3,
    "8-bit backbone for CPUs (quantize_backbone)": 0.5,
}
PACKAGE = {
    "ONNX, dynamic batch and frames": "onnxruntime",
    "8-bit weights (torchao)": "torchao",
    "PEFT: LoRA on backbone and temporal encoder": "peft",
}
# Refused exactly where the model does not claim it.
CLAIM = {"attention: flash_attention_2": "_supports_flash_attn", "attention: flex_attention": "_supports_flex_attn"}
SLOW = {
    "attention: flex_attention",
    "torch.compile(fullgraph=True)",
    "torch.export, dynamic batch and frames",
    "ONNX, dynamic batch and frames",
    "FSDP2 by the model's plan",
}


@pytest.fixture(scope="module")
def bench():
    return backends.Bench(backends.make_model())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in backends.WAYS]
)
def test_way(bench, name):
    if name in PACKAGE:
        pytest.importorskip(PACKAGE[name])
    row = backends.try_way(bench, name)
    assert row.works == (name not in CLAIM or getattr(VTNForVideoClassification, CLAIM[name])), row.note
    if row.works:
        assert row.difference <= TOLERANCE.get(name, EXACT)


def test_logits_are_of_the_magnitude_that_the_tolerances_assume(bench):
    assert 0.3 < bench.expected.abs().max() < 10
