"""
Compares the temporal encoder with transformers' `LongformerModel`, which the original uses: time, memory, results.

Both get the same weights and features, run interleaved in one process, and give the class token that a classifier
reads (`all` also the frames). The floor is the time that the matrix products of the linear layers take alone, as
Longformer counts them and with what the temporal encoder leaves out. Memory is what a fresh process grows by, over
what it holds after a pass of 16 frames, weights and gradients included.

    python examples/benchmarks/temporal_encoder.py --output examples/benchmarks/results/temporal_encoder.json
    python examples/benchmarks/temporal_encoder.py --frames 100000 --modes forward --no_longformer --output …
    python examples/benchmarks/temporal_encoder.py --device cuda --dtype bfloat16 --compile --output …

Rows that the output file already holds are kept unless they are measured again, so a run can be made in parts. The
plots in docs/figures (`NAME_time.png`, `NAME_memory.png`) are drawn from all of its rows.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import transformers
from original import make_longformer, read_status, run_longformer
from torch import nn
from transformers import LongformerModel

from vtn_hf import VTNConfig, VTNModel, optimize
from vtn_hf.convert_vtn_checkpoint import revert_state_dict
from vtn_hf.optimization.linear import OneDNN, multiply_by_onednn


WIDTH, NUM_LAYERS, MAX_POSITIONS = 768, 3, 288
WARM_UP_FRAMES = 16
KEYS = ("machine", "dtype", "window", "batch_size", "frames", "mode")


def make_models(window: int, device: str, dtype: torch.dtype) -> tuple[VTNModel, LongformerModel]:
    """A VTN of the paper's size (without dropout, and with a backbone that is not used) and its Longformer."""
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    backbone = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, WIDTH], "depths": [1, 1]}
    sizes = {
        "num_hidden_layers": NUM_LAYERS,
        "max_position_embeddings": MAX_POSITIONS,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-12,
    }
    vtn = VTNModel(VTNConfig(backbone_config=backbone, attention_window=window, **sizes))
    vtn.backbone.requires_grad_(False)
    vtn = vtn.to(device, dtype)
    return optimize(vtn), make_longformer(vtn.temporal_encoder)


def run_vtn(vtn: VTNModel, features: torch.Tensor, class_token_only: bool = True) -> torch.Tensor:
    """Last hidden states `(B, 1, H)` or `(B, N, H)`."""
    return vtn(inputs_embeds=features, class_token_only=class_token_only).last_hidden_state


def make_floor(vtn: VTNModel, features: torch.Tensor, as_longformer: bool, backward: bool) -> Callable:
    """The matrix products of the linear layers alone; in the backward pass each has one by its input and weight."""
    tokens = torch.cat([features[:, :1], features], dim=1).flatten(0, 1)
    class_tokens = features[:, 0].contiguous()
    products = []
    for layer in vtn.temporal_encoder.layers:
        attention, mlp = layer.attention, layer.mlp
        per_token = [attention.query, attention.key, attention.value, attention.output, mlp.fc1, mlp.fc2]
        per_video = [attention.query_global]
        of_global = [attention.key_global, attention.value_global]
        if as_longformer:
            per_token += of_global
        elif layer is vtn.temporal_encoder.layers[-1]:
            per_token, per_video = [], per_video + of_global + [attention.output, mlp.fc1, mlp.fc2]
        else:
            per_video += of_global
        products += [(linear, tokens) for linear in per_token] + [(linear, class_tokens) for linear in per_video]
    # By oneDNN where the model computes so, which is faster than PyTorch's own.
    is_onednn = isinstance(vtn.temporal_encoder.layers[0].mlp.fc1, OneDNN)
    multiply = multiply_by_onednn if is_onednn else nn.functional.linear
    wide = {id(states): states.new_ones(len(states), mlp.fc1.out_features) for states in (tokens, class_tokens)}

    @torch.no_grad()
    def floor():
        for linear, states in products:
            inputs = wide[id(states)] if linear.in_features != WIDTH else states
            multiply(inputs, linear.weight, linear.bias)
            if backward:
                gradient = wide[id(states)] if linear.out_features != WIDTH else states
                multiply(gradient, linear.weight.T)
                multiply(gradient.T, inputs.T)

    return floor


def train(model: nn.Module, forward: Callable) -> torch.Tensor:
    """One forward and backward pass; returns what `forward` gave."""
    model.zero_grad()
    states = forward(model)
    compute_loss(states).backward()
    return states


def compute_loss(states: torch.Tensor) -> torch.Tensor:
    """Not the sum of squares, which normalisation makes the same for all states: gradients would be zero."""
    return (states[:, 0].float() @ torch.linspace(-1, 1, WIDTH, device=states.device)).sum()


def measure_times(functions: dict[str, Callable], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each function. They take turns, so that whatever else the machine does slows down all."""
    times = {name: [] for name in functions}
    for _ in range(1 + repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}


def measure_memory(name: str, case: dict, options: argparse.Namespace) -> float:
    """MiB that a pass needs above what remains of a short one. To be called in a fresh process."""
    torch.set_num_threads(options.threads)
    vtn, longformer = make_models(case["window"], options.device, getattr(torch, options.dtype))
    model = (longformer if name == "longformer" else vtn).train(case["mode"] == "forward_backward")
    class_token = vtn.temporal_encoder.embeddings.cls_token.detach()
    peaks = []
    for num_frames in (WARM_UP_FRAMES, WARM_UP_FRAMES, case["frames"]):
        features = make_features(case["batch_size"], num_frames, options)
        if options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() / 2**20
        else:
            Path("/proc/self/clear_refs").write_text("5")
            before = read_status("VmRSS")
        with torch.set_grad_enabled(case["mode"] == "forward_backward"):
            states = run_vtn(vtn, features) if model is vtn else run_longformer(longformer, class_token, features)
            if case["mode"] == "forward_backward":
                compute_loss(states).backward()
        del states
        peak = torch.cuda.max_memory_allocated() / 2**20 if options.device == "cuda" else read_status("VmHWM")
        peaks.append(peak - before)
    return peaks[-1]


def make_features(batch_size: int, num_frames: int, options: argparse.Namespace) -> torch.Tensor:
    """Random frame features `(batch_size, num_frames, WIDTH)`."""
    generator = torch.Generator().manual_seed(num_frames)
    features = torch.randn(batch_size, num_frames, WIDTH, generator=generator)
    return features.to(options.device, getattr(torch, options.dtype))


def compare(case: dict, options: argparse.Namespace) -> dict:
    """One row: seconds, ratios, memory and differences of one case."""
    dtype = getattr(torch, options.dtype)
    vtn, longformer = make_models(case["window"], options.device, dtype)
    features = make_features(case["batch_size"], case["frames"], options)
    class_token = vtn.temporal_encoder.embeddings.cls_token.detach()
    backward = case["mode"] == "forward_backward"
    forwards = {
        "ours": (vtn, partial(run_vtn, features=features)),
        "longformer": (longformer, partial(run_longformer, class_token=class_token, features=features)),
        "all": (vtn, partial(run_vtn, features=features, class_token_only=False)),
    }
    if options.no_longformer:
        del forwards["longformer"], forwards["all"]
    if options.compile:
        forwards = {name: (model, torch.compile(forward)) for name, (model, forward) in forwards.items()}
    for model in (vtn, longformer):
        model.train(backward)
    functions = {
        name: partial(train, model, forward) if backward else torch.no_grad()(partial(forward, model))
        for name, (model, forward) in forwards.items()
    }

    row = dict(case)
    results = {name: function()[:, 0].detach().float() for name, function in functions.items()}
    if not options.no_longformer:
        row["largest_difference"] = (results["ours"] - results["longformer"]).abs().max().item()
        if backward:
            row["largest_gradient_difference"] = compare_gradients(functions, vtn, longformer)
    functions["floor"] = make_floor(vtn, features, False, backward)
    if not options.no_longformer:
        functions["floor_as_longformer"] = make_floor(vtn, features, True, backward)
    repeats = min(options.max_repeats, max(options.min_repeats, 10_000 // features[..., 0].numel()))
    row["seconds"] = measure_times(functions, repeats, options.device)
    row["repeats"] = repeats
    if not options.no_longformer:
        row["speedup"] = row["seconds"]["longformer"] / row["seconds"]["ours"]
        row["speedup_all"] = row["seconds"]["longformer"] / row["seconds"]["all"]
    row["times_floor"] = row["seconds"]["ours"] / row["seconds"]["floor"]
    return row


def compare_gradients(functions: dict[str, Callable], vtn: VTNModel, longformer: LongformerModel) -> float:
    """The largest difference between two gradients of one parameter, relative to that gradient's largest entry."""
    gradients = {}
    for name, encoder in (("ours", vtn.temporal_encoder), ("longformer", longformer)):
        functions[name]()
        gradients[name] = {name: parameter.grad for name, parameter in encoder.named_parameters()}
    ours = {f"vtn.temporal_encoder.{name}": gradient for name, gradient in gradients["ours"].items()}
    differences = []
    for name, gradient in revert_state_dict(ours).items():
        expected = gradients["longformer"].get(name.removeprefix("temporal_encoder."))
        if expected is None:  # the class token, which Longformer gets as an input
            continue
        # A key's bias adds the same to all scores of a query, so its gradient is zero but for rounding.
        is_zero = name.endswith(("key.bias", "key_global.bias"))
        measure = name.removesuffix("bias") + "weight" if is_zero else name
        scale = gradients["longformer"][measure.removeprefix("temporal_encoder.")].abs().max()
        # Where the class token needs nothing of the last layer, both are zero.
        differences.append((gradient - expected).abs().max() / scale.clamp(min=torch.finfo(scale.dtype).tiny))
    return torch.stack(differences).max().item()


def describe_machine(options: argparse.Namespace) -> str:
    """The processor or GPU, threads and versions."""
    if options.device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")
        name += f", {options.threads} threads"
    compiled = ", compiled" if options.compile else ""
    return f"{name}{compiled}, torch {torch.__version__}, transformers {transformers.__version__}, Python " + (
        platform.python_version()
    )


def print_table(rows: list[dict]):
    """The rows as a markdown table, times in milliseconds and memory in MiB."""
    print("| pass | window | batch | frames | Longformer | ours | faster | all states | × floor | memory | ours |")
    print("| --- " * 11 + "|")
    for row in rows:
        seconds, memory = row.get("seconds", {}), row.get("memory", {})
        cells = [row["mode"].replace("_", " + "), row["window"], row["batch_size"], f"{row['frames']:,}"]
        cells += [f"{1000 * seconds[name]:,.1f}" if name in seconds else "–" for name in ("longformer", "ours")]
        cells += [f"{row[name]:.2f}" if name in row else "–" for name in ("speedup", "speedup_all", "times_floor")]
        cells += [f"{memory[name]:,.0f}" if name in memory else "–" for name in ("longformer", "ours")]
        print("| " + " | ".join(map(str, cells)) + " |")


def plot(rows: list[dict], output: Path):
    """Time and memory against frames, batch 1, the first window."""
    rows = [row for row in rows if row["batch_size"] == 1 and row["window"] == rows[0]["window"]]
    for quantity, label in (("seconds", "seconds"), ("memory", "memory growth (MiB)")):
        figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
        for axis, mode in zip(axes, ("forward", "forward_backward"), strict=True):
            for name in ("longformer", "ours", "floor"):
                points = sorted(
                    (row["frames"], row[quantity][name])
                    for row in rows
                    if row["mode"] == mode and name in row.get(quantity, {})
                )
                if points:
                    axis.loglog(*zip(*points, strict=True), "--" if name == "floor" else "o-", label=name)
            axis.set(title=mode.replace("_", " + "), xlabel="frames")
            axis.grid(alpha=0.3)
        axes[0].set_ylabel(label)
        axes[0].legend()
        figure.tight_layout()
        name = f"{output.stem}_{'time' if quantity == 'seconds' else quantity}.png"
        figure.savefig(Path(__file__).parents[2] / "docs/figures" / name, dpi=120)
        plt.close(figure)


def parse_options() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description="The temporal encoder beside LongformerModel.")
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 250, 1000, 4000, 16000])
    parser.add_argument("--windows", type=int, nargs="+", default=[18, 32])
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--modes", nargs="+", default=["forward", "forward_backward"])
    parser.add_argument("--max_tokens", type=int, default=16_000, help="leave out batches of more frames")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true", help="torch.compile both")
    parser.add_argument("--no_longformer", action="store_true", help="ours and its floor alone")
    parser.add_argument("--no_time", action="store_true", help="memory only, for rows that have been timed")
    parser.add_argument("--no_memory", action="store_true")
    parser.add_argument("--min_repeats", type=int, default=3)
    parser.add_argument("--max_repeats", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="JSON file to write or to add to")
    return parser.parse_args()


def main():
    """Measures the cases asked for, prints a table, writes JSON and plots."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("highest")
    machine = describe_machine(options)

    rows = {}
    if options.output is not None and options.output.exists():
        rows = {tuple(row[key] for key in KEYS): row for row in json.loads(options.output.read_text("utf-8"))}
    cases = [
        dict(zip(KEYS, (machine, options.dtype, window, batch_size, frames, mode), strict=True))
        for window in options.windows
        for batch_size in options.batch_sizes
        for frames in options.frames
        for mode in options.modes
    ]
    names = ["ours"] if options.no_longformer else ["ours", "longformer"]
    for case in cases:
        if case["batch_size"] > 1 and case["batch_size"] * case["frames"] > options.max_tokens:
            print(f"left out: {case['batch_size']} videos of {case['frames']} frames exceed --max_tokens", flush=True)
            continue
        key = tuple(case.values())
        row = rows.get(key, {}) if options.no_time else rows.get(key, {}) | compare(case, options)
        if not options.no_memory:
            row["memory"] = {}
            for name in names:
                # A fresh process each: what one has freed, the next would not have to ask the system for.
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    row["memory"][name] = pool.submit(measure_memory, name, case, options).result()
        rows[key] = row
        print_table([row])
        if options.output is not None:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(list(rows.values()), indent=2) + "\n", encoding="utf-8")
    ordered = [rows[key] for key in sorted(rows)]
    print_table(ordered)
    if options.output is not None:
        plot(ordered, options.output)


if __name__ == "__main__":
    main()
