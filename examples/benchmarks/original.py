"""
What the speed of a VTN is measured against, and how: the original's computation from the same weights, and helpers.

The original is a ViT and a Longformer on all frames at once. Here they are transformers' `ViTModel` and
`LongformerModel`.
"""

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import LongformerConfig, LongformerModel, ViTModel

from vtn_hf import VTNConfig, VTNForVideoClassification
from vtn_hf.configs import find_config
from vtn_hf.convert_vtn_checkpoint import revert_state_dict
from vtn_hf.temporal_encoder_vtn import VTNTemporalEncoder


CLOCK = os.environ.get("BENCHMARK_CLOCK", "wall")

_shares_of_others: list[float] = []  # of the CPUs, one per measurement of this process


def make_longformer(temporal_encoder: VTNTemporalEncoder) -> LongformerModel:
    """The original's temporal encoder, with the weights of ours, which both share."""
    config = temporal_encoder.config
    longformer = LongformerModel(
        LongformerConfig(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            attention_window=list(config.attention_windows),
            max_position_embeddings=config.max_position_embeddings,
            type_vocab_size=2,
            layer_norm_eps=config.layer_norm_eps,
            hidden_dropout_prob=config.hidden_dropout_prob,
            attention_probs_dropout_prob=config.attention_probs_dropout_prob,
            # It looks its padding up in the table of words and in that of positions.
            vocab_size=config.max_position_embeddings,
            pad_token_id=config.max_position_embeddings - 1,
            bos_token_id=None,
            eos_token_id=None,
            sep_token_id=None,
        ),
        add_pooling_layer=False,
    )
    weights = {f"vtn.temporal_encoder.{name}": weight for name, weight in temporal_encoder.state_dict().items()}
    weights = {name.removeprefix("temporal_encoder."): weight for name, weight in revert_state_dict(weights).items()}
    del weights["cls_token"]
    missing, unexpected = longformer.load_state_dict(weights, strict=False, assign=True)
    if unexpected or set(missing) > {"embeddings.word_embeddings.weight", "embeddings.position_ids"}:
        raise ValueError(f"Longformer lacks {unexpected} or needs {missing}.")
    return longformer.requires_grad_(True).train(temporal_encoder.training)


def run_longformer(longformer: LongformerModel, class_token: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """
    Last hidden states `(B, N, H)` of features `(B, T, H)`. The class token `(1, 1, H)` has global attention, type 1
    and the last but one position.
    """
    num_videos, num_frames, _ = features.shape
    is_class_token = torch.zeros(num_videos, 1 + num_frames, dtype=torch.long, device=features.device)
    is_class_token[:, 0] = 1
    max_frame_positions = longformer.config.max_position_embeddings - 2
    positions = torch.arange(num_frames, device=features.device) % max_frame_positions
    return longformer(
        inputs_embeds=torch.cat([class_token.expand(num_videos, -1, -1), features], dim=1),
        position_ids=nn.functional.pad(positions, (1, 0), value=max_frame_positions).expand(num_videos, -1),
        token_type_ids=is_class_token,
        global_attention_mask=is_class_token,
        attention_mask=torch.ones_like(is_class_token),
    ).last_hidden_state


class OriginalVTN(nn.Module):
    """The original's computation with the weights, shared, of a ViT-VTN of ours: `(B, T, 3, 224, 224)` to logits."""

    def __init__(self, vtn: VTNForVideoClassification):
        super().__init__()
        self.backbone = ViTModel(vtn.config.backbone_config, add_pooling_layer=False)
        self.backbone.load_state_dict(vtn.vtn.backbone.state_dict(), assign=True)
        self.temporal_encoder = make_longformer(vtn.vtn.temporal_encoder)
        self.cls_token = nn.Parameter(vtn.vtn.temporal_encoder.embeddings.cls_token.detach())
        self.classifier = vtn.classifier
        self.requires_grad_(True)
        self.train(vtn.training)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        features = self.backbone(pixel_values=pixel_values.flatten(0, 1)).last_hidden_state[:, 0]
        features = features.unflatten(0, pixel_values.shape[:2])
        return self.classifier(run_longformer(self.temporal_encoder, self.cls_token, features)[:, 0])


def make_vit_b_vtn(**fields) -> VTNForVideoClassification:
    """ViT-B-VTN with random weights, which cost what trained ones cost."""
    torch.manual_seed(0)
    return VTNForVideoClassification(
        VTNConfig.from_pretrained(find_config("models", "vit_b_vtn"), num_labels=400, **fields)
    )


def measure_seconds(function: Callable) -> float:
    """
    Seconds that a function takes; `add_round` writes down how busy other processes kept the machine meanwhile.

    With the environment variable `BENCHMARK_CLOCK=cpu`, the seconds of computing instead, in one thread: on a machine
    that is shared, ratios of those are still right.
    """
    if CLOCK == "cpu":
        torch.set_num_threads(1)
        start = time.process_time()
        function()
        return time.process_time() - start
    machine, own, start = _read_machine_seconds(), time.process_time(), time.perf_counter()
    function()
    seconds = time.perf_counter() - start
    others = (_read_machine_seconds() - machine) - (time.process_time() - own)
    _shares_of_others.append(max(0.0, others) / (os.cpu_count() * seconds))
    return seconds


def _read_machine_seconds() -> float:
    """Seconds that all CPUs have been busy or taken away by the host so far."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def measure_memory_growth(function: Callable) -> float:
    """MB by which the memory of this process rises above its present level while `function` runs."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    before = read_status("VmRSS")
    function()
    return read_status("VmHWM") - before


def read_status(field: str) -> float:
    """A field of this process's memory, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def add_round(path: Path, round: dict) -> dict:
    """
    Adds one round of measurements, a number per name, to a JSON file that also names the machine; returns the medians
    of all rounds so far, so that a long measurement can be made in short pieces.
    """
    if CLOCK == "cpu":
        path = path.with_stem(f"{path.stem}_cpu_seconds")
    record = json.loads(path.read_text()) if path.exists() else {"rounds": []}
    if _shares_of_others:
        round = {**round, "largest share of the CPUs that others used": max(_shares_of_others)}
    record["rounds"].append(round)
    names = {name for round in record["rounds"] for name in round}
    record["medians"] = {
        name: statistics.median(round[name] for round in record["rounds"] if name in round) for name in sorted(names)
    }
    record["machine"] = _describe_machine()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record["medians"]


def _describe_machine() -> dict:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
