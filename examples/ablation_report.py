"""Tables and figures of the ablations: what `examples/ablate.py` left, with mean and spread over the seeds."""

import json
from pathlib import Path
from statistics import mean, stdev

import matplotlib


matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402 - the backend comes first


# Title: rows of label, variant and protocol. A row that stands in several tables is trained once.
TABLES = {
    "The whole video against parts of it": [
        ("VTN, 250 frames in one pass", "250 frames", "whole video"),
        ("the same weights on 10 clips of 16 frames over 2.56 s, averaged", "250 frames", "clips"),
        ("VTN with an attention window of 64, 250 frames in one pass", "250 frames with window 64", "whole video"),
        ("the same weights on 10 clips of 16 frames over 2.56 s, averaged", "250 frames with window 64", "clips"),
        ("VTN trained on such clips, 10 clips averaged", "clips of 16 over 64", "clips"),
        ("LSTM, 250 frames", "250 frames, LSTM", "whole video"),
        ("frame average, 250 frames", "250 frames, average", "whole video"),
    ],
    "Depth of the temporal encoder (64 frames)": [
        ("0 (frame average)", "no layer", "whole video"),
        ("1", "1 layer", "whole video"),
        ("2 (base)", "base", "whole video"),
        ("3", "3 layers", "whole video"),
        ("6", "6 layers", "whole video"),
    ],
    "Positions (64 frames)": [
        ("sinusoidal (base)", "base", "whole video"),
        ("learned", "learned positions", "whole video"),
        ("none", "no positions", "whole video"),
        ("sinusoidal, frames shuffled", "shuffled", "whole video"),
    ],
    "Frames per video, in training and at evaluation": [
        ("16", "16 frames", "whole video"),
        ("32", "32 frames", "whole video"),
        ("64 (base)", "base", "whole video"),
        ("128", "128 frames", "whole video"),
        ("250", "250 frames", "whole video"),
    ],
    "Temporal footprint of a clip (10 clips averaged, whole video for comparison)": [
        ("16 frames over 2.56 s", "clips of 16 over 64", "clips"),
        ("32 frames over 2.56 s", "clips of 32 over 64", "clips"),
        ("16 frames over 5.12 s", "clips of 16 over 128", "clips"),
        ("32 frames over 5.12 s", "clips of 32 over 128", "clips"),
        ("32 frames over the whole video", "32 frames", "whole video"),
    ],
    "Attention window (64 frames)": [
        ("4", "window 4", "whole video"),
        ("18 (base)", "base", "whole video"),
        ("64", "window 64", "whole video"),
    ],
    "The class token's global attention (64 frames)": [
        ("with (base)", "base", "whole video"),
        ("without: mean of the frames after local attention", "no global attention", "whole video"),
    ],
    "Backbone (64 frames; base, then one epoch more)": [
        ("base", "base", "whole video"),
        ("frozen", "frozen for one epoch more", "whole video"),
        ("fine-tuned", "fine-tuned for one epoch more", "whole video"),
    ],
    "Frames at inference, for a VTN trained on 250": [
        (str(num_frames), "250 frames", f"{num_frames} frames") for num_frames in (8, 16, 32, 64, 128, 250)
    ],
}


def read_results(cells_dir: Path) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Accuracies of the cells that are there, by task, variant and protocol: one per seed."""
    results = {}
    for path in sorted(cells_dir.glob("*/*/seed*/result.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        variant = results.setdefault(cell["task"], {}).setdefault(cell["variant"], {})
        for protocol, top1 in cell["top1"].items():
            variant.setdefault(protocol, []).append(top1)
    return results


def format_spread(values: list[float]) -> str:
    """Mean ± standard deviation over the seeds, or what there is."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.3f} (1 seed)"
    return f"{mean(values):.3f} ± {stdev(values):.3f}" + (f" ({len(values)} seeds)" if len(values) != 3 else "")


def write_report(cells_dir: Path, report_dir: Path):
    """Writes REPORT_DIR/ablations.md, ablations.json and figures/ablations_*.png."""
    results = read_results(cells_dir)
    tasks = list(results)
    lines = [
        "# Ablations",
        "",
        "Written by `python examples/ablate.py --report_only`: top-1 on 200 held-out videos of each task; mean ±",
        "standard deviation over three seeds. What they mean is in [results.md](../results.md).",
    ]
    for title, rows in TABLES.items():
        lines += ["", f"## {title}", "", f"| | {' | '.join(tasks)} |", "| --- " * (1 + len(tasks)) + "|"]
        for label, variant, protocol in rows:
            cells = [format_spread(results[task].get(variant, {}).get(protocol, [])) for task in tasks]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    figures_dir = report_dir / "figures"
    figures_dir.mkdir(parents=True, exist_ok=True)
    plot_tables(results, figures_dir / "ablations.png")
    lines += ["", "![The tables as bars](figures/ablations.png)"]
    (report_dir / "ablations.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (report_dir / "ablations.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def plot_tables(results: dict, path: Path):
    """One panel of horizontal bars per table, with every seed as a dot."""
    figure, panels = plt.subplots(3, 3, figsize=(16, 11), layout="constrained", sharex=True)
    height = 0.8 / max(len(results), 1)
    for axes, (title, rows) in zip(panels.flat, TABLES.items(), strict=True):
        for shift, (task, variants) in enumerate(results.items()):
            for row, (_, variant, protocol) in enumerate(rows):
                values = variants.get(variant, {}).get(protocol, [])
                if values:
                    place = row + (shift - (len(results) - 1) / 2) * height
                    axes.barh(place, mean(values), height, color=f"C{shift}", alpha=0.6, label=task)
                    axes.plot(values, [place] * len(values), ".", color="black", markersize=3)
        axes.set_yticks(range(len(rows)), [label if len(label) < 35 else f"{label[:33]}…" for label, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(title, fontsize=10)
        axes.set_xlim(0, 1)
    handles = {
        label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        panels[0, 0].legend(handles.values(), handles.keys(), loc="lower right")
    for axes in panels[-1]:
        axes.set_xlabel("top-1")
    figure.savefig(path, dpi=90)
    plt.close(figure)
