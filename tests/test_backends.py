"""The ways to run a VTN that docs/backends.md lists, through the script that makes its table."""

import importlib.util
import math
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
# Where numbers are rounded, the size of one error in each matrix product, relative to its result: one unit in the last
# place of a floating-point number. Of int8, the standard deviation of rounding to a grid, 1 / sqrt(12) of its step, of
# which normally distributed weights span 4 standard deviations in 127 steps, activations about 10 in 255.
INT8_WEIGHTS = 4 / 127 / 12**0.5
INT8_ACTIVATIONS = 10 / 255 / 12**0.5
ERROR_PER_PRODUCT = {
    "precision: bfloat16": 2**-8,
    "precision: float16": 2**-11,
    "precision: autocast to bfloat16": 2**-8,
    "precision: autocast to float16": 2**-11,
    "8-bit weights (torchao)": INT8_WEIGHTS,
    "optimize(model, int8=True)": math.hypot(INT8_WEIGHTS, INT8_ACTIVATIONS),
}
# One after another: the patches; query, output and two of the feed-forward network in 4 + 3 layers; two of the head.
NUM_PRODUCTS = 1 + 4 * (4 + 3) + 2
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
        assert row.difference <= get_tolerance(name, bench)


def get_tolerance(name: str, bench) -> float:
    """Independent errors add up in quadrature. Of 800 logits, the largest is not beyond 4 standard deviations."""
    if name not in ERROR_PER_PRODUCT:
        return EXACT
    return 4 * NUM_PRODUCTS**0.5 * ERROR_PER_PRODUCT[name] * bench.expected.std().item()


def test_exact_is_exact_for_logits_of_this_size(bench):
    assert 1 < bench.expected.std() < 2
