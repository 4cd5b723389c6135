"""`pipeline("video-classification")` as it is where this package is imported."""

import os

from transformers.pipelines.video_classification import VideoClassificationPipeline


class CompleteVideoClassificationPipeline(VideoClassificationPipeline):
    """transformers' pipeline, but it saves its video processor, too."""

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        # First, because it brings an image processor, which need not be the one of the pipeline.
        if self.video_processor is not None:
            self.video_processor.save_pretrained(save_directory, **kwargs)
        super().save_pretrained(save_directory, **kwargs)
