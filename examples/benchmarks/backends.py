"""
Runs one Video Transformer Network in every way that docs/backends.md lists, and prints and writes that table: what
works, what is refused with which message, and how far the logits are from eager attention in float32.

    pip install -e '.[peft,onnx,quantization]'
    python examples/benchmarks/backends.py --json examples/benchmarks/results/backends.json --docs docs/backends.md

Without the options, it prints only. It keeps to the CPU; FSDP runs as two processes.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from transformers import TorchAoConfig

from vtn_hf import VTNConfig, VTNForVideoClassification, optimize
from vtn_hf.optimization.quantization import measure_quantization


sys.path.append(str(Path(__file__).parents[1]))

PACKAGES = ("torch", "transformers", "accelerate", "peft", "onnx", "onnxruntime", "torchao")
# Numbers of frames of one compiled or exported graph, none of them a neighbour's multiple.
NUM_FRAMES = (20, 33, 47, 100, 150)
LORA_TARGETS = r"vtn\.(backbone\..*\.(q_proj|v_proj)|temporal_encoder\..*\.(query|value|query_global|value_global))"
TABLE_START, TABLE_END = "<!-- made by examples/benchmarks/backends.py -->\n", "<!-- end -->\n"


def make_model() -> VTNForVideoClassification:
    """A VTN with random weights on a ViT of 4 layers, large enough for its rounding errors to be a model's."""
    torch.manual_seed(0)
    backbone = {
        "model_type": "vit",
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "intermediate_size": 768,
        "image_size": 64,
    }
    config = VTNConfig(
        backbone_config=backbone, num_attention_heads=3, intermediate_size=768, initializer_range=0.1, num_labels=400
    )
    return VTNForVideoClassification(config).eval()


class Bench:
    """The model, its inputs and its answers in float32 with eager attention, which all else is compared with."""

    def __init__(self, model: VTNForVideoClassification, num_frames: int = 33):
        self.directory = tempfile.TemporaryDirectory()
        self.path = self.directory.name
        model.save_pretrained(self.path)
        self.num_frames = num_frames
        backbone_config = model.config.backbone_config
        self.frame_shape = (getattr(backbone_config, "num_channels", 3), *[backbone_config.image_size] * 2)
        self.inputs = self.make_inputs(num_frames)
        self.expected = self.answer(self.load(attn_implementation="eager"))

    def load(self, **settings) -> VTNForVideoClassification:
        return VTNForVideoClassification.from_pretrained(self.path, **settings)

    def make_inputs(self, num_frames: int, num_videos: int = 2) -> dict[str, torch.Tensor]:
        """Random videos, of which the last is half as long as the others."""
        generator = torch.Generator().manual_seed(num_frames)
        mask = torch.ones(num_videos, num_frames, dtype=torch.long)
        mask[-1, (num_frames + 1) // 2 :] = 0
        shape = (num_videos, num_frames, *self.frame_shape)
        return {"pixel_values": torch.randn(shape, generator=generator), "attention_mask": mask}

    @torch.no_grad()
    def answer(self, model: Callable, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        inputs = {**self.inputs, "pixel_values": self.inputs["pixel_values"].to(dtype)}
        return model(**inputs).logits.float()

    def compare(self, model: Callable, dtype: torch.dtype = torch.float32) -> float:
        return (self.answer(model, dtype) - self.expected).abs().max().item()

    def compare_lengths(self, model: Callable) -> float:
        """As [`compare`], on videos of several numbers of frames."""
        reference = self.load(attn_implementation="eager")
        differences = []
        with torch.no_grad():
            for num_frames in NUM_FRAMES:
                inputs = self.make_inputs(num_frames, num_videos=2 + num_frames % 2)
                differences.append((model(**inputs).logits - reference(**inputs).logits).abs().max().item())
        return max(differences)


@dataclass
class Row:
    """One line of the table. `difference` is the largest of a logit, `None` where the way is refused."""

    name: str
    difference: float | None
    note: str = ""
    works: bool = True


def attend(bench: Bench, implementation: str | dict[str, str]) -> tuple[float, str]:
    return bench.compare(bench.load(attn_implementation=implementation)), ""


def use_precision(bench: Bench, dtype: torch.dtype) -> tuple[float, str]:
    return bench.compare(bench.load(dtype=dtype), dtype), ""


def use_autocast(bench: Bench, dtype: torch.dtype) -> tuple[float, str]:
    with torch.autocast("cpu", dtype):
        return bench.compare(bench.load()), ""


def checkpoint_gradients(bench: Bench) -> tuple[float, str]:
    """A training step with and without; dropout is off, so that the two are comparable."""
    model = bench.load(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.0).train()
    labels = torch.arange(len(bench.inputs["pixel_values"]))

    def step() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        outputs = model(**bench.inputs, labels=labels)
        outputs.loss.backward()
        return outputs.logits.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}

    _, expected = step()
    model.gradient_checkpointing_enable()
    logits, gradients = step()
    largest = max((gradients[name] - expected[name]).abs().max().item() for name in expected)
    return (logits - bench.expected).abs().max().item(), f"gradients differ by at most {largest:.1e}"


def compile_whole(bench: Bench) -> tuple[float, str]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    difference = bench.compare_lengths(torch.compile(bench.load(), fullgraph=True))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    # The first is for the length that it sees first, the second for any.
    if graphs > 2:
        raise RuntimeError(f"It compiled {graphs} graphs for {len(NUM_FRAMES)} numbers of frames.")
    return difference, f"{graphs} graphs for {len(NUM_FRAMES)} numbers of frames, no graph breaks"


def export_torch(bench: Bench) -> tuple[float, str]:
    axes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    inputs = bench.make_inputs(100)
    program = torch.export.export(
        bench.load(), (), kwargs=inputs, dynamic_shapes=dict.fromkeys(inputs, axes), strict=False
    )
    return bench.compare_lengths(program.module()), f"{len(NUM_FRAMES)} numbers of frames and 2 of videos"


def export_onnx(bench: Bench) -> tuple[float, str]:
    from vtn_hf.commands.export import COMPARED, export, make_inputs

    model, side = bench.load(), bench.frame_shape[-1]
    exported = export(model, side)
    largest = 0.0
    for num_frames in COMPARED:
        inputs = make_inputs(model, num_frames, side)
        with torch.no_grad():
            largest = max(largest, (exported(**inputs).logits - model(**inputs).logits).abs().max().item())
    return largest, f"ONNX Runtime, {len(COMPARED)} batches of different sizes"


def quantize_weights(bench: Bench) -> tuple[float, str]:
    from torchao.quantization import Int8WeightOnlyConfig

    quantized = bench.load(quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))
    effect = measure_quantization(bench.load(), quantized, bench.inputs)
    with tempfile.TemporaryDirectory() as folder:
        quantized.save_pretrained(folder)
        share = Path(folder, "model.safetensors").stat().st_size / Path(bench.path, "model.safetensors").stat().st_size
        loaded = VTNForVideoClassification.from_pretrained(folder)
    return bench.compare(loaded), f"{effect}; saved and loaded again, in {share:.2f} of the bytes"


def run_faster(bench: Bench) -> tuple[float, str]:
    model = bench.load()
    fast = optimize(model)
    pairs = zip(fast.modules(), model.modules(), strict=True)
    return bench.compare(fast), f"{sum(type(ours) is not type(theirs) for ours, theirs in pairs)} modules replaced"


def quantize_for_cpu(bench: Bench) -> tuple[float, str]:
    quantized = optimize(bench.load(), int8=True)
    return bench.compare(quantized), str(measure_quantization(bench.load(), quantized, bench.inputs))


def add_lora(bench: Bench) -> tuple[float, str]:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(bench.load(), LoraConfig(target_modules=LORA_TARGETS, modules_to_save=["classifier"]))
    fresh = bench.compare(model)
    model(**bench.inputs, labels=torch.zeros(len(bench.expected), dtype=torch.long)).loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if any(parameter.grad is None for parameter in trained):
        raise RuntimeError("An adapter got no gradient.")
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    adapted = bench.answer(model)
    merged = (bench.answer(model.merge_and_unload()) - adapted).abs().max().item()
    share = sum(parameter.numel() for parameter in trained) / sum(
        weight.numel() for weight in bench.load().parameters()
    )
    return fresh, f"trains {share:.1%} of the weights; merged, the logits of the adapters change by {merged:.1e}"


def place(bench: Bench, **settings) -> tuple[float, str]:
    with tempfile.TemporaryDirectory() as folder:
        model = bench.load(device_map="auto", offload_folder=folder, **settings)
        places = sorted({str(place) for place in (getattr(model, "hf_device_map", None) or {"": "cpu"}).values()})
        return bench.compare(model), f"weights on: {', '.join(places)}"


def shard(bench: Bench) -> tuple[float, str]:
    with tempfile.TemporaryDirectory() as folder:
        torch.save((bench.inputs, bench.expected), f"{folder}/inputs.pt")
        torch.multiprocessing.spawn(_run_shard, (bench.path, folder), nprocs=2)
        difference, num_sharded, num_layers = torch.load(f"{folder}/result.pt")
    if not num_sharded == num_layers > 0:
        raise RuntimeError(f"Of {num_layers} layers, {num_sharded} are sharded on their own.")
    return difference, f"2 processes, each of the {num_layers} layers sharded on its own; one training step"


def _run_shard(rank: int, path: str, folder: str):
    from torch.distributed.fsdp import FSDPModule
    from transformers.distributed import DistributedConfig

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29577"}
    torch.set_num_threads(1)
    inputs, expected = torch.load(f"{folder}/inputs.pt")
    model = VTNForVideoClassification.from_pretrained(path, distributed_config=DistributedConfig(fsdp_size=2))
    with torch.no_grad():
        difference = (model(**inputs).logits - expected).abs().max().item()
    model(**inputs, labels=torch.zeros(len(expected), dtype=torch.long)).loss.backward()
    # What is sharded on its own has another class, named after its own.
    names = ("VTNLayer", "ViTLayer")
    layers = [module for module in model.modules() if type(module).__name__.removeprefix("FSDP") in names]
    if rank == 0:
        sharded = sum(isinstance(layer, FSDPModule) for layer in layers)
        torch.save((difference, sharded, len(layers)), f"{folder}/result.pt")
    torch.distributed.destroy_process_group()


WAYS: dict[str, Callable[[Bench], tuple[float, str]]] = {
    "attention: eager": lambda bench: attend(bench, "eager"),
    "attention: sdpa": lambda bench: attend(bench, "sdpa"),
    "attention: flex_attention": lambda bench: attend(bench, "flex_attention"),
    "attention: flash_attention_2": lambda bench: attend(bench, "flash_attention_2"),
    "attention: eager, the backbone sdpa": lambda bench: attend(bench, {"": "eager", "backbone_config": "sdpa"}),
    "precision: bfloat16": lambda bench: use_precision(bench, torch.bfloat16),
    "precision: float16": lambda bench: use_precision(bench, torch.float16),
    "precision: autocast to bfloat16": lambda bench: use_autocast(bench, torch.bfloat16),
    "precision: autocast to float16": lambda bench: use_autocast(bench, torch.float16),
    "gradient checkpointing": checkpoint_gradients,
    "torch.compile(fullgraph=True)": compile_whole,
    "torch.export, dynamic batch and frames": export_torch,
    "ONNX, dynamic batch and frames": export_onnx,
    "optimize(model)": run_faster,
    "8-bit weights (torchao)": quantize_weights,
    "optimize(model, int8=True)": quantize_for_cpu,
    "PEFT: LoRA on backbone and temporal encoder": add_lora,
    'device_map="auto"': place,
    'device_map="auto", weights on disk': lambda bench: place(bench, max_memory={"cpu": 1_000_000}),
    "FSDP2 by the model's plan": shard,
}


def try_way(bench: Bench, name: str) -> Row:
    """Runs one way; the first sentence of what it raises is the note of a way that is refused."""
    try:
        return Row(name, *WAYS[name](bench))
    except Exception as error:  # whatever it is, it goes into the table
        sentence = re.split(r"(?<=\.)\s|\n", str(error))[0]
        return Row(name, None, f"{type(error).__name__}: {sentence}", works=False)


def make_table(rows: list[Row]) -> str:
    lines = ["| | | largest difference of a logit | |", "| --- | --- | --- | --- |"]
    for row in rows:
        difference = "–" if row.difference is None else f"{row.difference:.1e}"
        note = row.note.replace("|", "\\|")
        lines.append(f"| {row.name} | {'works' if row.works else 'refused'} | {difference} | {note} |")
    return "\n".join(lines) + "\n"


def find_version(package: str) -> str | None:
    with contextlib.suppress(PackageNotFoundError):
        return version(package)


def main():
    """Runs all ways, prints the table and writes it where told."""
    parser = argparse.ArgumentParser(description="What works, and how exactly.")
    parser.add_argument("--json", type=Path, help="JSON file to write")
    parser.add_argument("--docs", type=Path, help="Markdown file whose table to replace")
    options = parser.parse_args()
    bench = Bench(make_model())
    rows = []
    for name in WAYS:
        rows.append(try_way(bench, name))
        print(json.dumps(asdict(rows[-1])), flush=True)
    print(make_table(rows))
    if options.json is not None:
        machine = {
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
        }
        versions = {package: find_version(package) for package in PACKAGES}
        result = {
            "machine": machine,
            "versions": {"python": platform.python_version(), **versions},
            "largest_logit": bench.expected.abs().max().item(),
            "rows": [asdict(row) for row in rows],
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.docs is not None:
        before, _, after = options.docs.read_text(encoding="utf-8").partition(TABLE_START)
        after = after.partition(TABLE_END)[2]
        largest, spread = bench.expected.abs().max(), bench.expected.std()
        scale = f"\nThe largest logit is {largest:.1f}, their standard deviation {spread:.1f}.\n"
        options.docs.write_text(before + TABLE_START + make_table(rows) + scale + TABLE_END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
