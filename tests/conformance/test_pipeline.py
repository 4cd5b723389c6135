"""The suite of every pipeline of transformers; VTN has one task, video classification."""

import json
import unittest
from pathlib import Path

import model_testers
import shared_suites
from huggingface_hub import VideoClassificationOutputElement
from transformers import VideoClassificationPipeline

from drawn_videos.motion_clips import write_motion_clips
from vtn_hf import VTNForVideoClassification, VTNImageProcessor


TASK = "video-classification"
FOLDER = Path(shared_suites.HUB.name)
# Before the suite is imported, which reads it.
(FOLDER / "reports").mkdir()
(FOLDER / "reports" / "tiny_model_summary.json").write_text(
    json.dumps({"VTNForVideoClassification": {"tokenizer_classes": [], "processor_classes": ["VTNImageProcessor"]}}),
    encoding="utf-8",
)

from shared_tests.test_pipeline_mixin import PipelineTesterMixin, pipeline_test_mapping  # noqa: E402


# The suite keeps what it asks of each task in a file that is not in the source distribution.
pipeline_test_mapping[TASK] = {"test": f"{__name__}.VideoClassificationPipelineTests"}


class VideoClassificationPipelineTests:
    """What is asked of the task."""

    def get_test_pipeline(self, model, tokenizer=None, image_processor=None, dtype="float32", **processors):
        pipeline = VideoClassificationPipeline(model=model, image_processor=image_processor, dtype=dtype, top_k=2)
        clips = write_motion_clips(FOLDER / "clips", num_train=1, num_val=2)
        return pipeline, [str(path) for path in sorted(clips.glob("val/*/*.mp4"))]

    def run_pipeline_test(self, pipeline, examples):
        assert len(examples) == 2
        for outputs in (*(pipeline(example) for example in examples), *pipeline(examples)):
            assert len(outputs) == 2
            assert outputs[0]["score"] >= outputs[1]["score"] > 0
            assert {output["label"] for output in outputs} <= set(pipeline.model.config.id2label.values())
            assert {key for output in outputs for key in output} <= set(
                VideoClassificationOutputElement.__annotations__
            )


class VTNPipelineTest(PipelineTesterMixin):
    pipeline_model_mapping = {TASK: VTNForVideoClassification}
    backbone_config: dict

    def setUp(self):
        config = model_testers.VTNModelTester(self, self.backbone_config).get_config()
        config.num_frames = 8
        folder = FOLDER / "vtn" / "VTNForVideoClassification"
        VTNForVideoClassification(config).save_pretrained(folder)
        VTNImageProcessor(size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)

    def run_task_tests(self, task, dtype="float32"):
        if task != TASK:
            self.skipTest("VTN classifies videos: the task is another one.")
        super().run_task_tests(task, dtype)


class TestViTBackbone(VTNPipelineTest, unittest.TestCase):
    backbone_config = model_testers.VIT


class TestResNetBackbone(VTNPipelineTest, unittest.TestCase):
    backbone_config = model_testers.RESNET
