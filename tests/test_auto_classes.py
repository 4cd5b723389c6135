"""A saved VTN comes back through the Auto classes and `pipeline`, with torchvision and without it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tiny_models import make_vit_vtn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    pipeline,
)
from transformers.utils import is_torchvision_available
from video_files import write_video

import vtn_hf
from vtn_hf import (
    VideoDecodeError,
    VTNConfig,
    VTNForVideoClassification,
    VTNImageProcessor,
    VTNModel,
    VTNVideoProcessor,
)


LABELS = ["abseiling", "archery", "arm wrestling", "bowling", "juggling", "playing drums", "zumba"]
NUM_FRAMES = 32
PIXELS = {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}, "image_mean": [0.4, 0.5, 0.6]}

READABLE_CLIPS = [
    "arm_wrestling_k400.mp4",
    "decord_video_0.mov",
    "decord_video_90.mov",
    "decord_video_180.mov",
    "mm_det.mp4",
    "mm_part.mp4",
    "mm_test.avi",
    "mm_test.mp4",
    "ntu.avi",
    "tc_h264_10bits.mp4",
    "tc_h265_video.mp4",
    "tc_nasa_13013.mp4",
]
# Upright and of at most `NUM_FRAMES` frames: both processors see all frames.
SHORT_CLIPS = ["decord_video_0.mov", "mm_part.mp4", "tc_h264_10bits.mp4", "tc_h265_video.mp4"]

needs_torchvision = pytest.mark.skipif(
    not is_torchvision_available(), reason="without torchvision there is no AutoVideoProcessor"
)


def make_model(**settings):
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: index for index, label in enumerate(LABELS)}}
    return make_vit_vtn(max_position_embeddings=40, num_frames=NUM_FRAMES, **labels, **settings)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def video_processor():
    return VTNVideoProcessor(num_frames=NUM_FRAMES, resample=3, **PIXELS)


@pytest.fixture(scope="module")
def image_processor():
    return VTNImageProcessor(resample=3, **PIXELS)


def save(directory, *components):
    for component in components:
        component.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, model, video_processor, image_processor):
    return save(tmp_path_factory.mktemp("checkpoint"), model, video_processor, image_processor)


@pytest.fixture(scope="module")
def classify(checkpoint):
    return pipeline("video-classification", model=str(checkpoint))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    frames = np.random.default_rng(0).integers(0, 256, (20, 24, 30, 3), dtype=np.uint8)
    return str(write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", frames))


@torch.no_grad()
def score(model, inputs):
    """The probability of each label, by hand."""
    probabilities = model(**inputs).logits[0].softmax(-1).tolist()
    return dict(zip(LABELS, probabilities, strict=True))


def assert_same_scores(results, expected):
    """What the pipeline says is the best of `expected`, best first."""
    scores = [result["score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert {result["label"]: result["score"] for result in results} == {
        result["label"]: pytest.approx(expected[result["label"]], abs=1e-4) for result in results
    }
    assert min(scores) >= sorted(expected.values(), reverse=True)[len(scores) - 1] - 1e-4


def test_config(checkpoint, model):
    config = AutoConfig.from_pretrained(checkpoint)
    assert type(config) is VTNConfig
    assert config.to_dict() == {**model.config.to_dict(), "_name_or_path": str(checkpoint)}
    assert config.id2label == dict(enumerate(LABELS))
    assert (config.num_frames, config.backbone_config.model_type) == (NUM_FRAMES, "vit")
    assert config.architectures == ["VTNForVideoClassification"]
    assert type(AutoConfig.for_model("vtn")) is VTNConfig


def test_model(checkpoint, model, video_processor, clip):
    loaded, info = AutoModel.from_pretrained(checkpoint, output_loading_info=True)
    assert type(loaded) is VTNModel
    assert not loaded.training
    assert not info["missing_keys"]
    inputs = video_processor(clip, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).last_hidden_state, model.vtn(**inputs).last_hidden_state)
    for name, weight in model.vtn.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=0, atol=0)


def test_model_for_video_classification(checkpoint, model, video_processor, clip):
    loaded, info = AutoModelForVideoClassification.from_pretrained(checkpoint, output_loading_info=True)
    assert type(loaded) is VTNForVideoClassification
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=0, atol=0)
    inputs = video_processor(clip, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)


def test_new_models_from_a_config(model):
    assert type(AutoModel.from_config(model.config)) is VTNModel
    assert type(AutoModelForVideoClassification.from_config(model.config)) is VTNForVideoClassification


def test_new_number_of_labels(checkpoint, model):
    loaded = AutoModelForVideoClassification.from_pretrained(checkpoint, num_labels=3, ignore_mismatched_sizes=True)
    assert loaded.config.num_labels == 3
    assert loaded.classifier.out_proj.weight.shape[0] == 3
    assert loaded.classifier.out_proj.weight.isfinite().all()
    torch.testing.assert_close(loaded.classifier.dense.weight, model.classifier.dense.weight, rtol=0, atol=0)


def test_image_processor(checkpoint, image_processor):
    loaded = AutoImageProcessor.from_pretrained(checkpoint)
    assert type(loaded) is VTNImageProcessor
    for name in image_processor.to_dict():
        if name != "image_processor_type":
            assert getattr(loaded, name) == getattr(image_processor, name)
    frames = np.random.default_rng(0).integers(0, 256, (3, 24, 30, 3), dtype=np.uint8)
    expected = image_processor(frames, return_tensors="pt").pixel_values
    torch.testing.assert_close(loaded(frames, return_tensors="pt").pixel_values, expected, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["pil", "torchvision"])
def test_image_processor_of_a_backend(checkpoint, backend):
    if backend == "torchvision" and not is_torchvision_available():
        pytest.skip("asks for torchvision")
    assert type(AutoImageProcessor.from_pretrained(checkpoint, backend=backend)) is VTNImageProcessor


@needs_torchvision
def test_video_processor(checkpoint, video_processor, clip):
    loaded = AutoVideoProcessor.from_pretrained(checkpoint)
    assert type(loaded) is VTNVideoProcessor
    assert loaded.to_dict() == video_processor.to_dict()
    inputs, expected = loaded(clip, return_tensors="pt"), video_processor(clip, return_tensors="pt")
    assert list(inputs) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(inputs[name], values, rtol=0, atol=0)


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")
def test_video_processor_without_torchvision(checkpoint):
    with pytest.raises(ImportError, match="[Tt]orchvision"):
        AutoVideoProcessor.from_pretrained(checkpoint)
    assert type(VTNVideoProcessor.from_pretrained(checkpoint)) is VTNVideoProcessor


def test_pipeline_takes_both_processors(classify):
    """Without torchvision too, where `transformers.AutoVideoProcessor` only raises."""
    assert type(classify.model) is VTNForVideoClassification
    assert type(classify.image_processor) is VTNImageProcessor
    assert type(classify.video_processor) is VTNVideoProcessor


@pytest.mark.parametrize("name", READABLE_CLIPS)
def test_pipeline_on_real_clips(videos_dir, classify, model, video_processor, name):
    path = videos_dir / name
    results = classify(str(path), top_k=3)
    assert len(results) == 3
    assert all(0 < result["score"] < 1 for result in results)
    assert_same_scores(results, score(model, video_processor(path, return_tensors="pt")))


@pytest.mark.parametrize("name", SHORT_CLIPS)
def test_both_processors_agree_where_they_see_the_same_frames(
    videos_dir, model, video_processor, image_processor, name
):
    path = str(videos_dir / name)
    from_video = pipeline("video-classification", model=model, video_processor=video_processor)
    from_images = pipeline("video-classification", model=model, image_processor=image_processor)
    assert (from_video.image_processor, from_images.video_processor) == (None, None)
    results, expected = from_images(path, top_k=7), from_video(path, top_k=7)
    assert_same_scores(results, {result["label"]: result["score"] for result in expected})


def test_pipeline_tells_videos_apart(videos_dir, classify):
    scores = [
        [result["score"] for result in sorted(classify(str(videos_dir / name), top_k=7), key=lambda r: r["label"])]
        for name in SHORT_CLIPS
    ]
    for index, first in enumerate(scores):
        for second in scores[:index]:
            assert abs(np.subtract(first, second)).max() > 0.01


def test_pipeline_sees_the_whole_video(videos_dir, classify, model, video_processor):
    path = videos_dir / "mm_det.mp4"
    inputs = video_processor(path, return_tensors="pt")
    assert inputs.position_ids[0, -1] == 56
    assert_same_scores(classify(str(path)), score(model, inputs))


@pytest.mark.parametrize(("top_k", "num_results"), [(None, 5), (1, 1), (7, 7), (100, 7)])
def test_pipeline_top_k(classify, clip, top_k, num_results):
    results = classify(clip) if top_k is None else classify(clip, top_k=top_k)
    assert len(results) == num_results
    assert {result["label"] for result in results} <= set(LABELS)
    scores = [result["score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    if num_results == 7:
        assert sum(scores) == pytest.approx(1)
        assert len({result["label"] for result in results}) == 7


def test_pipeline_num_frames(checkpoint, clip, model, video_processor):
    classify = pipeline("video-classification", model=str(checkpoint))
    inputs = video_processor(clip, num_frames=5, return_tensors="pt")
    assert inputs.position_ids.tolist() == [[0, 4, 9, 14, 19]]
    assert_same_scores(classify(clip, num_frames=5, top_k=7), score(model, inputs))


def test_pipeline_on_a_list(classify, clip, videos_dir):
    paths = [clip, str(videos_dir / "decord_video_0.mov"), clip]
    results = classify(paths, top_k=2)
    assert len(results) == 3
    for path, result in zip(paths, results, strict=True):
        assert [label["label"] for label in result] == [label["label"] for label in classify(path, top_k=2)]
        assert result[0]["score"] == pytest.approx(classify(path, top_k=1)[0]["score"], abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pipeline_in_half_precision(checkpoint, classify, clip, dtype):
    half = pipeline("video-classification", model=str(checkpoint), dtype=dtype)
    assert half.model.dtype == dtype
    expected = {result["label"]: result["score"] for result in classify(clip, top_k=7)}
    for result in half(clip, top_k=7):
        assert result["score"] == pytest.approx(expected[result["label"]], abs=0.03)


def test_pipeline_multi_label(tmp_path, clip, video_processor, image_processor):
    model = make_model(problem_type="multi_label_classification")
    classify = pipeline("video-classification", model=str(save(tmp_path, model, video_processor, image_processor)))
    results = classify(clip, top_k=7)
    with torch.no_grad():
        expected = model(**video_processor(clip, return_tensors="pt")).logits[0].sigmoid().tolist()
    assert_same_scores(results, dict(zip(LABELS, expected, strict=True)))
    assert sum(result["score"] for result in results) != pytest.approx(1, abs=0.1)


def test_pipeline_on_a_damaged_file(videos_dir, classify):
    message = "decord_corrupted.mp4: Invalid data found when processing input; 28 of 50 frames decoded"
    with pytest.raises(VideoDecodeError, match=message) as error:
        classify(str(videos_dir / "decord_corrupted.mp4"))
    assert isinstance(error.value, ValueError)


def test_pipeline_on_a_text_file(tmp_path, classify):
    path = tmp_path / "text.mp4"
    path.write_text("This is no video.\n" * 100)
    with pytest.raises(VideoDecodeError, match="Invalid data found when processing input") as error:
        classify(str(path))
    assert isinstance(error.value, ValueError)
    assert str(path) in str(error.value)


def test_pipeline_on_a_missing_file(classify):
    with pytest.raises(VideoDecodeError, match="nowhere.mp4: No such file or directory"):
        classify("/nowhere.mp4")


@pytest.mark.parametrize("num_bytes", [0, 100, -2])
@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "preprocessor_config.json", "video_preprocessor_config.json"],
)
def test_damaged_file_is_named(checkpoint, tmp_path, name, num_bytes):
    """transformers' pipeline does without a processor that cannot be read, and then takes other frames."""
    folder = shutil.copytree(checkpoint, tmp_path / "damaged")
    content = (folder / name).read_bytes()
    content = (
        content.rstrip().removesuffix(b"}") if name.endswith(".json") and num_bytes == -1 else content[:num_bytes]
    )
    (folder / name).write_bytes(content[:num_bytes])
    for load in (
        AutoModelForVideoClassification.from_pretrained,
        VTNForVideoClassification.from_pretrained,
        lambda path: pipeline("video-classification", model=str(path)),
    ):
        with pytest.raises((OSError, ValueError), match=rf"{folder / name}\b"):
            load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model-00002-of-00003.safetensors"])
def test_missing_file_is_named(model, video_processor, tmp_path, name):
    model.save_pretrained(tmp_path, max_shard_size="20KB" if "-of-" in name else "1GB")
    video_processor.save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises((OSError, ValueError), match=name):
        AutoModelForVideoClassification.from_pretrained(tmp_path)
    with pytest.raises((OSError, ValueError), match=name):
        pipeline("video-classification", model=str(tmp_path))


def test_tags_of_a_model_are_its_own(model):
    """transformers adds those of a push to the model's list."""
    other = make_model()
    other.add_model_tags("mine")
    assert (model.model_tags, other.model_tags[2:]) == (["vtn", "video-classification"], ["mine"])


def test_no_warning_that_a_processor_is_missing(checkpoint, caplog):
    """Loading through the Auto classes says nothing; a newcomer would take it for a fault."""
    transformers.logging.enable_propagation()
    try:
        with caplog.at_level("WARNING"):
            AutoModelForVideoClassification.from_pretrained(checkpoint)
            AutoImageProcessor.from_pretrained(checkpoint)
            VTNVideoProcessor.from_pretrained(checkpoint)
    finally:
        transformers.logging.disable_propagation()
    assert caplog.messages == []


WITHOUT_OPTIONAL_PACKAGES = """
import sys

for name in ("accelerate", "av", "datasets", "evaluate", "timm", "torchvision"):
    sys.modules[name] = None  # as if it were not installed
import torch
from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor

backbone = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1]}
model = VTNForVideoClassification(VTNConfig(backbone_config=backbone, num_attention_heads=2)).eval()
inputs = VTNVideoProcessor()(torch.zeros(4, 3, 40, 40, dtype=torch.uint8), return_tensors="pt")
assert model(**inputs).logits.shape == (1, 2)
"""


def test_model_and_processor_run_without_optional_packages():
    paths = os.pathsep.join([str(Path(vtn_hf.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_OPTIONAL_PACKAGES],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
