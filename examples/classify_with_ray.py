"""
Classifies a folder of videos with Ray Data, on a machine or a cluster, and writes parquet files.

    pip install 'vtn_hf[ray]'
    python examples/classify_with_ray.py --model RUN --data_dir VIDEOS --output_dir SCORES --num_actors 8

Each actor has a model of its own and decodes its videos itself; one that dies is replaced, and what it had begun is
done again. Stopped and started again, the same command classifies what is not in SCORES yet. A cluster needs more CPUs
than actors, or the task that reads the list waits for ever.
"""

import argparse
from pathlib import Path

import pyarrow.parquet
import ray

from vtn_hf.data.listing import PassedOver, find_videos
from vtn_hf.inference.ray import VideoScorer


def find_done(output_dir: Path) -> set[str]:
    """The videos that have been classified; a file that a stop cut off is removed."""
    done = set()
    for file in output_dir.glob("*.parquet"):
        try:
            done |= set(pyarrow.parquet.read_table(file, columns=["path"])["path"].to_pylist())
        except pyarrow.ArrowInvalid:
            file.unlink()
    return done


def classify(args: argparse.Namespace):
    """Adds to the output what is missing there."""
    done = find_done(args.output_dir)
    videos = sorted(str(path.resolve()) for path in find_videos(args.data_dir, PassedOver()))
    to_do = [{"path": path} for path in videos if path not in done]
    print(f"{len(videos) - len(to_do):,} of {len(videos):,} videos are done already.", flush=True)
    if not to_do:
        return
    num_blocks = -(-len(to_do) // args.videos_per_file)
    rows = ray.data.from_items(to_do, override_num_blocks=num_blocks)
    scores = rows.map_batches(
        VideoScorer,
        fn_constructor_args=[args.model],
        fn_constructor_kwargs={"num_frames": args.num_frames},
        compute=ray.data.ActorPoolStrategy(size=args.num_actors),
        batch_size=args.videos_per_file,
        num_gpus=args.gpus_per_actor,
    )
    scores.write_parquet(str(args.output_dir.resolve()), mode="append")


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser("classify_with_ray.py", description="Classify a folder of videos with Ray Data.")
    parser.add_argument("--model", required=True, help="a folder that all machines see, or a repository on the Hub")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with videos at any depth")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for parquet files")
    parser.add_argument("--num_frames", type=int, default=250, help="frames spread over each video")
    parser.add_argument("--num_actors", type=int, default=1, help="processes with a model each")
    parser.add_argument("--gpus_per_actor", type=float, default=0, help="GPUs, or parts of one, for each")
    parser.add_argument("--videos_per_file", type=int, default=64, help="what a stop may cost each actor")
    classify(parser.parse_args(argv))


if __name__ == "__main__":
    main()
