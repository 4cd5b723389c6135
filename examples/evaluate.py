"""
Evaluates a Video Transformer Network on a collection of videos, whole or in several views.

    accelerate launch examples/evaluate.py --model RUN --data_dir VIDEOS --output_dir RESULTS
    accelerate launch examples/evaluate.py … --output_dir RESULTS_10X3 --num_clips 10 --num_crops 3

The first passes each video as a whole, as its processor samples it; the second averages the class probabilities of
ten clips with three crops each. RESULTS gets results.json (accuracies, calibration, speed, what was not decoded) and
report/index.html (confusion matrix, classes, what was wrong); `--update_card true` adds the results to the model card
of RUN. Any number of processes share the videos. The probabilities are kept in RESULTS/scores-*.jsonl, so the same
command goes on where a stopped run ended.

The code is in evaluation.py: this file has the name of a library.
"""

import importlib
import sys
from pathlib import Path


if __name__ == "__main__":
    from evaluation import main

    sys.exit(main())
else:
    # The folder of a running script comes first on the path, so whatever in this folder imports the library `evaluate`
    # (train.py does, through `vtn_hf.training.metrics`) finds this file. It lets the library take its place.
    search_path = sys.path.copy()
    sys.path[:] = [entry for entry in search_path if Path(entry).resolve() != Path(__file__).resolve().parent]
    del sys.modules[__name__]
    try:
        importlib.import_module(__name__)
    finally:
        sys.path[:] = search_path
