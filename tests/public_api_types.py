"""
A user's program, for `make types`: mypy must accept it and know what everything is. It is not run.
"""

from pathlib import Path
from typing import assert_type

import numpy as np
import torch
from datasets import DatasetDict, IterableDatasetDict

from vtn_hf import VTNForVideoClassification, VTNImageProcessor, VTNModel, VTNVideoProcessor, optimize
from vtn_hf.data.clips import ClipTransform, collate_videos
from vtn_hf.data.collection import read_collection
from vtn_hf.data.feature_cache import CachedClips
from vtn_hf.data.scan import ScannedVideo, read_scan
from vtn_hf.inference.attention import Look, look_at
from vtn_hf.inference.multi_view import MultiView, score_views
from vtn_hf.inference.streaming import StreamingClassifier, StreamPrediction
from vtn_hf.inference.whole_video import Segment, VideoClassification, classify_video
from vtn_hf.training.metrics import compute_top_accuracy
from vtn_hf.training.report import Evaluation, write_report


model = VTNForVideoClassification.from_pretrained("me/my-vtn")
assert_type(model, VTNForVideoClassification)
assert_type(model.vtn, VTNModel)
assert_type(model.config.num_frames, int)
assert_type(
    VTNForVideoClassification.from_backbone_pretrained("facebook/dinov2-small", num_labels=10),
    VTNForVideoClassification,
)
assert_type(optimize(model, int8=True), VTNForVideoClassification)

processor = VTNVideoProcessor.from_pretrained("me/my-vtn", num_frames=16)

for video in ("video.mp4", Path("video.mp4"), b"", np.zeros((2, 8, 8, 3)), ["a.mp4", "b.mp4"]):
    inputs = processor(video, return_tensors="pt")
    logits = model(**inputs).logits
frames = VTNImageProcessor()([np.zeros((8, 8, 3))], return_tensors="pt")
assert_type(model.vtn.get_frame_features(frames["pixel_values"]), torch.Tensor)

assert_type(read_collection("VIDEOS", val_share=0.2).videos, DatasetDict | IterableDatasetDict)
assert_type(collate_videos([CachedClips("FEATURES", "val", num_frames=8)[0]]), dict[str, torch.Tensor])
assert_type(read_scan("scan.csv"), dict[str, ScannedVideo])
transform = ClipTransform(processor, num_frames=16, clip_duration_sec=5.12)

result = classify_video(model, processor, "video.mp4", window=50)
assert_type(result, VideoClassification)
assert_type(result.timeline, list[Segment])
views = MultiView(num_clips=10, num_crops=3, num_frames=16, clip_duration_sec=2.56)
assert_type(score_views(model, views.load("video.mp4", processor)), torch.Tensor)
stream = StreamingClassifier(model, processor)
assert_type(stream.predict(), list[StreamPrediction | None])

seen = look_at(model, processor, "video.mp4")
assert_type(seen, Look)
evaluation = Evaluation(["a", "b"], ["video.mp4"], np.array([0]), np.array([[0.5, 0.5]]))
assert_type(write_report("report", evaluation, look=lambda number: seen), Path)
metrics = compute_top_accuracy
