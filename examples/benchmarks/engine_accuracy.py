"""
What engines and precisions do to the accuracy on a filmed collection (`filmed_videos.py`) with a frozen backbone: how
features and logits differ from those of plain PyTorch, and top-1 over five folds. The models are trained on the
features of plain PyTorch.

    export PYTHONPATH=examples:examples/benchmarks
    python examples/benchmarks/engine_accuracy.py fights ROOT --backbone_name_or_path BACKBONE --output_dir RUN

OpenVINO's int8 is that of its toolkit (`pip install nncf`), whose ranges come from the pictures of some videos,
without their classes; it is left out where the toolkit is missing. Milliseconds per frame are medians over the videos,
and mean something on a machine that does nothing else.
"""

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from anytime import Example, classify
from filmed_videos import NUM_FOLDS, VARIANTS, Cell, Videos, extract_features, read_videos
from torch import nn
from tqdm import tqdm
from transformers.modeling_utils import PreTrainedModel

from vtn_hf import VTNVideoProcessor
from vtn_hf.backbone_vtn import encode, is_convolutional
from vtn_hf.data.feature_cache import FeatureCacheInfo
from vtn_hf.optimization import optimize_backbone
from vtn_hf.pretrained_backbone import load_backbone


PLAIN = "plain PyTorch"
NUM_CALIBRATION_VIDEOS = 32
Engine = Callable[[torch.Tensor], torch.Tensor]  # frames (frames, 3, height, width) to features (frames, features)


class Encoder(nn.Module):
    """A backbone from frames to features."""

    def __init__(self, backbone: PreTrainedModel):
        super().__init__()
        self.backbone = backbone

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return encode(self.backbone, frames)


def quantize(backbone: PreTrainedModel, frames: torch.Tensor) -> Engine:
    """A backbone in static int8, by OpenVINO's toolkit; the ranges are those of these frames."""
    import nncf
    import openvino

    model = openvino.convert_model(Encoder(backbone), example_input=frames[:2])
    pictures = nncf.Dataset([frame[None].numpy() for frame in frames])
    kind = None if is_convolutional(backbone) else nncf.ModelType.TRANSFORMER
    quantized = nncf.quantize(model, pictures, subset_size=len(frames), model_type=kind)
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(quantized, "CPU", settings)
    return lambda frames: torch.from_numpy(compiled(frames.numpy())[0].copy())


def make_engines(backbone: PreTrainedModel, frames: torch.Tensor) -> dict[str, Engine]:
    """Plain PyTorch first."""
    engines = {PLAIN: Encoder(backbone), "optimised PyTorch": Encoder(optimize_backbone(backbone))}
    for dtype in ("float32", "bfloat16"):
        engines[f"OpenVINO, {dtype}"] = Encoder(optimize_backbone(backbone, engine="openvino", dtype=dtype))
    if importlib.util.find_spec("nncf"):
        engines["OpenVINO, static int8"] = quantize(backbone, frames)
    return engines


@torch.no_grad()
def compute_features(
    videos: Videos, processor: VTNVideoProcessor
) -> tuple[dict[str, list[Example]], dict[str, list[float]]]:
    """What each engine makes of all videos, and milliseconds per frame."""

    def read(path: str) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = processor(path, return_tensors="pt")
        return inputs["pixel_values"][0], inputs["position_ids"][0]

    some = videos.paths[:: max(1, len(videos.paths) // NUM_CALIBRATION_VIDEOS)]
    engines = make_engines(
        load_backbone(videos.backbone_name_or_path).eval(), torch.cat([read(path)[0][::4] for path in some])
    )
    examples, milliseconds = ({name: [] for name in engines} for _ in range(2))
    for path in tqdm(videos.paths, unit="video"):
        frames, position_ids = read(path)
        for name, engine in engines.items():
            start = time.perf_counter()
            features = engine(frames)
            milliseconds[name].append(1000 * (time.perf_counter() - start) / len(frames))
            examples[name].append({"inputs_embeds": features, "position_ids": position_ids})
    return examples, milliseconds


def classify_all(variant: str, videos: Videos, seeds: list[int], examples: dict[str, list[Example]]) -> dict:
    """Logits of each engine over all folds and seeds, `(seeds, videos, classes)`."""
    logits = {name: torch.zeros(len(seeds), len(videos.paths), len(videos.class_names)) for name in examples}
    for place, seed in enumerate(seeds):
        for fold in range(NUM_FOLDS):
            cell = Cell(VARIANTS[variant], videos, seed, fold, protocol="test")
            trainer, _ = cell.train_model()
            model = trainer.model.eval()
            for name, each in examples.items():
                for index in cell.test.tolist():
                    logits[name][place, index] = classify(
                        model, each[index], np.arange(len(each[index]["position_ids"]))
                    )
    return logits


def compare(videos: Videos, examples: dict, milliseconds: dict, logits: dict) -> dict[str, dict[str, float]]:
    """The rows of the table."""
    labels, rows = torch.from_numpy(videos.labels), {}
    plain = torch.cat([each["inputs_embeds"] for each in examples[PLAIN]])
    for name in examples:
        features = torch.cat([each["inputs_embeds"] for each in examples[name]])
        top1 = (logits[name].argmax(dim=-1) == labels).double().mean(dim=-1)
        rows[name] = {
            "ms per frame": statistics.median(milliseconds[name]),
            "features differ by": ((features - plain).abs().max() / plain.abs().max()).item(),
            "least cosine": torch.cosine_similarity(features, plain, dim=-1).min().item(),
            "logits differ by": (logits[name] - logits[PLAIN]).abs().max().item(),
            "other answers": (logits[name].argmax(dim=-1) != logits[PLAIN].argmax(dim=-1)).double().mean().item(),
            "top-1": top1.mean().item(),
            "standard deviation": top1.std().item() if len(top1) > 1 else 0.0,
        }
    return rows


def print_table(rows: dict[str, dict[str, float]]):
    names = list(rows[PLAIN])
    print(f"| engine | {' | '.join(names)} |\n" + "| --- " * (1 + len(names)) + "|")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[each]:.3g}' for each in names)} |")


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Accuracy of engines and precisions on filmed videos.")
    parser.add_argument("name", help="of the collection, in the output")
    parser.add_argument("data_dir", help="ROOT/CLASS/VIDEO")
    parser.add_argument("--backbone_name_or_path", required=True, help="image model")
    parser.add_argument("--output_dir", type=Path, required=True, help="features")
    parser.add_argument("--variant", choices=[name for name in VARIANTS if VARIANTS[name]], default="VTN")
    parser.add_argument("--frame_size", type=int, default=224, help="pixels of a side of the frames")
    parser.add_argument("--num_frames", type=int, default=8, help="of a video, at most")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that decode what becomes features")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/engine_accuracy.json")
    options = parser.parse_args(argv)
    videos = read_videos(options)
    extract_features(options.data_dir, videos, None)
    info = FeatureCacheInfo.load(videos.find_features_dir(None))
    examples, milliseconds = compute_features(videos, VTNVideoProcessor.from_dict(info.processor))
    rows = compare(videos, examples, milliseconds, classify_all(options.variant, videos, options.seeds, examples))
    record = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    record[options.name] = rows
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print_table(rows)


if __name__ == "__main__":
    main()
