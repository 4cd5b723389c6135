"""
Evaluates a Video Transformer Network on the whole videos of a collection.

    accelerate launch examples/evaluate.py --model RUN --data_dir VIDEOS --output_dir RESULTS

To copy and to change; any number of processes share the videos. `vtn evaluate` also goes on where it was stopped,
evaluates clips and crops, writes a report, and keeps to videos that can be decoded.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm


if __name__ != "__main__":
    # The library `evaluate` is what other scripts of this folder want, which find this file first: it makes way.
    search_path = sys.path.copy()
    sys.path[:] = [entry for entry in search_path if Path(entry).resolve() != Path(__file__).resolve().parent]
    del sys.modules[__name__]
    importlib.import_module(__name__)
    sys.path[:] = search_path


@torch.no_grad()
def main(argv: list[str] | None = None):
    from vtn_hf import VideoDecodeError, VTNForVideoClassification, VTNVideoProcessor, optimize
    from vtn_hf.data.collection import read_collection
    from vtn_hf.data.rows import find_sources
    from vtn_hf.training.metrics import compute_mean_class_accuracy, compute_top_accuracies

    parser = argparse.ArgumentParser(description="Evaluates a VTN on the whole videos of a collection.")
    parser.add_argument("--model", required=True, help="a folder, or a repository on the Hub")
    parser.add_argument("--data_dir", required=True, help="folder of videos, {train,val}/CLASS/VIDEO")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for results.json")
    parser.add_argument("--split", default="val")
    options = parser.parse_args(argv)

    state = PartialState(cpu=not torch.accelerator.is_available())
    model = optimize(VTNForVideoClassification.from_pretrained(options.model).to(state.device).eval())
    processor = VTNVideoProcessor.from_pretrained(options.model)
    class_names = [model.config.id2label[label] for label in range(model.config.num_labels)]
    videos = read_collection(options.data_dir, class_names).get_split(options.split)
    mine = videos.select(range(state.process_index, len(videos), state.num_processes))
    results = []  # label and logits, or the name of a video that cannot be decoded
    for row in tqdm(mine, unit="video", disable=not state.is_main_process):
        [source] = find_sources({name: [value] for name, value in row.items()})
        try:
            inputs = processor(source, return_tensors="pt").to(state.device)
        except VideoDecodeError:
            results.append((row["name"], None))
            continue
        results.append((row["label"], model(**inputs).logits[0].tolist()))
    results = gather_object(results)
    if not state.is_main_process:
        return
    decoded = [result for result in results if result[1] is not None]
    labels, logits = (torch.tensor(column).numpy() for column in zip(*decoded, strict=True))
    metrics = compute_top_accuracies(logits, labels)
    metrics["mean_class_accuracy"] = compute_mean_class_accuracy(logits, labels)
    metrics |= {"coverage": len(decoded) / len(results)}
    metrics |= {"not_decoded": [name for name, scores in results if scores is None]}
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "results.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
