"""
Run by test_hub.py as a process that has transformers, torch and av, but not vtn_hf: loads a model from the Hub, or
from a folder, through the Auto classes, compares its answers with those of the publisher, and saves it again.

    python hub_reader.py MODEL CLIP.mp4 EXPECTED.pt [FOLDER TO SAVE TO; THE PIPELINE SAVES TO FOLDER-pipeline]
"""

import importlib.util
import sys

import conftest  # noqa: F401 - lets torchvision be imported
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    pipeline,
)
from transformers.utils import is_torchvision_available


def assert_same(actual: torch.Tensor, expected: torch.Tensor):
    """To the last digits: how numbers lie in memory, which differs from process to process, decides on those."""
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def main(name: str, clip: str, expected_path: str, save_to: str | None = None):
    assert importlib.util.find_spec("vtn_hf") is None
    expected = torch.load(expected_path)

    config = AutoConfig.from_pretrained(name, trust_remote_code=True)
    assert config.model_type == "vtn" and config.num_labels == 5
    classifier = AutoModelForVideoClassification.from_pretrained(name, trust_remote_code=True)
    model = AutoModel.from_pretrained(name, trust_remote_code=True)
    assert type(model).__name__ == "VTNModel" and type(classifier).__name__ == "VTNForVideoClassification"
    AutoModelForVideoClassification.from_config(config, trust_remote_code=True)
    with torch.no_grad():
        assert_same(classifier(**expected["inputs"]).logits, expected["logits"])
        assert_same(model(**expected["inputs"]).pooler_output, expected["pooler_output"])

    image_processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=True)
    assert type(image_processor).__name__ == "VTNImageProcessor"
    assert image_processor.crop_size == {"height": 16, "width": 16}
    if is_torchvision_available():
        video_processor = AutoVideoProcessor.from_pretrained(name, trust_remote_code=True)
        inputs = video_processor(clip, return_tensors="pt")
        assert all(inputs[key].equal(value) for key, value in expected["inputs"].items())
    else:
        try:
            AutoVideoProcessor.from_pretrained(name, trust_remote_code=True)
        except ImportError as error:
            assert "orchvision" in str(error)
        else:
            raise AssertionError("AutoVideoProcessor without torchvision")

    classify = pipeline("video-classification", model=name, trust_remote_code=True)
    # This one does not need torchvision, whatever transformers says of the class that is to load it.
    assert type(classify.video_processor).__name__ == "VTNVideoProcessor"
    assert classify.video_processor.num_frames == 8
    scores = classify(clip)
    # The checkpoint's own pipeline takes videos of any length, in batches.
    assert type(classify).__name__ == "VTNVideoClassificationPipeline"
    for others in classify([clip, clip, clip], batch_size=2):
        assert_same(*(torch.tensor([score["score"] for score in results]) for results in (others, scores)))
    assert repr(classify.model.config)
    result = classify(clip, fps=5, timeline=True)
    assert result["timeline"][0]["start_sec"] == 0 and len(result["scores"]) == len(scores)
    assert [score["label"] for score in scores] == [score["label"] for score in expected["scores"]]
    assert_same(*(torch.tensor([score["score"] for score in results]) for results in (scores, expected["scores"])))

    if save_to is not None:
        for part in (classifier, classify.video_processor):
            part.save_pretrained(save_to)
        classify.save_pretrained(f"{save_to}-pipeline")
    print(transformers.__version__)
    print("torchvision" if is_torchvision_available() else "no torchvision")


if __name__ == "__main__":
    main(*sys.argv[1:])
