"""Every family of 2D backbones: one vector per frame, gradients, saving and loading, pretrained weights."""

import importlib
import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModel, CLIPModel, SiglipModel, ViTForImageClassification

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNImageProcessor, VTNModel, VTNVideoProcessor


def import_problem(name):
    """Why a package cannot be imported, or `None`."""
    try:
        importlib.import_module(name)
    except Exception as error:
        return f"{name} cannot be imported: {error}"


TRANSFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
DINOV2 = {name: value for name, value in TRANSFORMER.items() if name != "intermediate_size"} | {"mlp_ratio": 2}
CONVNET = {"hidden_sizes": [8, 8, 16, 24], "depths": [1, 1, 1, 1]}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
TEXT = {**TRANSFORMER, "vocab_size": 10, "max_position_embeddings": 8}
TIMM_VIT = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2}

# Family: (model type, fields, features per frame).
BACKBONES = {
    "vit": ("vit", TRANSFORMER, 32),
    "deit": ("deit", TRANSFORMER, 32),
    "dinov2": ("dinov2", DINOV2, 32),
    "dinov2_with_registers": ("dinov2_with_registers", {**DINOV2, "num_register_tokens": 2}, 32),
    "dinov3_vit": ("dinov3_vit", {**TRANSFORMER, "num_register_tokens": 2}, 32),
    "dinov3_convnext": ("dinov3_convnext", CONVNET, 24),
    "siglip": ("siglip_vision_model", TRANSFORMER, 32),
    "siglip2": ("siglip2_vision_model", {**TRANSFORMER, "num_patches": 16}, 32),
    "clip": ("clip_vision_model", TRANSFORMER, 32),
    "beit": ("beit", TRANSFORMER, 32),
    # Its class token is in the head.
    "aimv2": ("aimv2_vision_model", TRANSFORMER, 32),
    "radio": ("radio", {**TRANSFORMER, "max_img_size": 32}, 32),
    "swin": ("swin", SWIN, 16),
    "swinv2": ("swinv2", SWIN, 16),
    "convnext": ("convnext", CONVNET, 24),
    "convnextv2": ("convnextv2", CONVNET, 24),
    "resnet": ("resnet", {**CONVNET, "embedding_size": 8}, 24),
    "regnet": ("regnet", {**CONVNET, "embedding_size": 8, "groups_width": 4}, 24),
    "mobilevit": (
        "mobilevit",
        {
            "image_size": 32,
            "hidden_sizes": [8, 12, 16],
            "neck_hidden_sizes": [4, 4, 8, 8, 12, 16, 24],
            "num_attention_heads": 2,
        },
        24,
    ),
    # Its last layer has a quarter of 1280 features.
    "efficientnet": (
        "efficientnet",
        {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320},
        320,
    ),
    "pvt": ("pvt", {**CONVNET, "image_size": 32, "num_attention_heads": [1, 1, 2, 2]}, 24),
    "pvt_v2": ("pvt_v2", {**CONVNET, "image_size": 32, "num_attention_heads": [1, 1, 2, 2]}, 24),
    "poolformer": ("poolformer", CONVNET, 24),
    # No field of these tells how wide their features are.
    "mobilenet_v1": ("mobilenet_v1", {"image_size": 32, "depth_multiplier": 0.25}, 256),
    "mobilenet_v2": ("mobilenet_v2", {"image_size": 32, "depth_multiplier": 0.1, "min_depth": 4}, 1280),
    "mobilevitv2": (
        "mobilevitv2",
        {"image_size": 32, "output_stride": 8, "width_multiplier": 0.1, "n_attn_blocks": [1, 1, 1]},
        48,
    ),
    "swiftformer": ("swiftformer", {"depths": [1, 1, 1, 1], "embed_dims": [8, 8, 16, 24]}, 24),
    "timm_vit": ("timm_wrapper", {"architecture": "vit_tiny_patch16_224", "model_args": TIMM_VIT}, 24),
    "timm_resnet": (
        "timm_wrapper",
        {"architecture": "resnet10t", "model_args": {"channels": [8, 8, 8, 16], "stem_width": 8}},
        16,
    ),
    # Its pooling has a layer behind it, which widens the features.
    "timm_mobilenet": ("timm_wrapper", {"architecture": "mobilenetv3_small_050"}, 1024),
}

VTN_FIELDS = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "attention_window": 2,
    "num_labels": 3,
}

# Parameters that never get a gradient, with the reason.
UNUSED = {
    # Replaces masked patches, and nothing masks any here.
    "dinov2": {"embeddings.mask_token"},
    "dinov2_with_registers": {"embeddings.mask_token"},
    "dinov3_vit": {"embeddings.mask_token"},
}


def skip_without_timm(name):
    if BACKBONES[name][0] == "timm_wrapper" and (problem := import_problem("timm")):
        pytest.skip(problem)


@pytest.fixture(params=BACKBONES)
def family(request):
    skip_without_timm(request.param)
    return request.param


def make_backbone_config(name):
    model_type, fields, _ = BACKBONES[name]
    return AutoConfig.for_model(model_type, **fields)


def randomize(model):
    """Weights and statistics of normalisations large enough that everything matters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = 0.1 * torch.randn(tensor.shape, generator=generator)
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    return model


def make_frames(num_videos=2, num_frames=5, size=32):
    return torch.randn(num_videos, num_frames, 3, size, size, generator=torch.Generator().manual_seed(1))


def make_model(name):
    torch.manual_seed(0)
    model = randomize(VTNForVideoClassification(VTNConfig(backbone_config=make_backbone_config(name), **VTN_FIELDS)))
    # Deep convolutional networks need statistics of their own, or nothing of the frame is left at their end.
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(make_frames())
    return model


# Every family


def test_one_vector_per_frame(family):
    model = make_model(family).eval()
    feature_size = BACKBONES[family][2]
    assert VTNConfig(backbone_config=make_backbone_config(family), num_attention_heads=1).hidden_size == feature_size
    pixel_values = make_frames()
    with torch.no_grad():
        features = model.vtn.get_frame_features(pixel_values)
        logits = model(pixel_values).logits
        shuffled = model.vtn.get_frame_features(pixel_values.flip(0, 1)).flip(0, 1)
    assert features.shape == (2, 5, feature_size)
    assert features.isfinite().all() and logits.isfinite().all()
    # A frame's vector depends on that frame, and on no other.
    assert (features[0, 0] - features[0, 1]).abs().max() > 1e-4
    torch.testing.assert_close(features, shuffled, atol=1e-5, rtol=1e-5)


def test_chunks_change_nothing(family):
    model = make_model(family).eval()
    pixel_values = make_frames()
    with torch.no_grad():
        whole = model.vtn.get_frame_features(pixel_values)
        model.config.frames_per_chunk = 4
        chunked = model.vtn.get_frame_features(pixel_values)
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-5)


def test_every_used_parameter_gets_a_gradient(family):
    model = make_model(family).train()
    model(make_frames(), labels=torch.tensor([0, 2])).loss.backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unused == {f"vtn.backbone.{name}" for name in UNUSED.get(family, ())}
    gradients = [parameter.grad for parameter in model.vtn.backbone.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    # Some are zero for good reasons: biases of keys, and biases in front of batch normalisation.
    assert sum(gradient.abs().max() > 0 for gradient in gradients) > len(gradients) / 2


def test_save_and_load(family, tmp_path):
    model = make_model(family).eval()
    model.save_pretrained(tmp_path)
    loaded, info = VTNForVideoClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert type(loaded.vtn.backbone) is type(model.vtn.backbone)
    weights = model.state_dict()
    assert loaded.state_dict().keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in loaded.state_dict().items())
    with torch.no_grad():
        # Convolutions round differently where the weights lie differently in memory.
        torch.testing.assert_close(loaded(make_frames()).logits, model(make_frames()).logits, atol=1e-6, rtol=1e-5)


def test_frozen_means_unchanged(family):
    """Neither weights nor the statistics of normalisations, and the same features as in eval mode."""
    model = make_model(family).train()
    model.freeze_backbone()
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if not name.startswith("vtn.backbone.")}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model(make_frames(), labels=torch.tensor([0, 2])).loss.backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and not any(name.startswith("vtn.backbone.") for name in changed)
    with torch.no_grad():
        features = model.vtn.get_frame_features(make_frames())
        torch.testing.assert_close(model.eval().vtn.get_frame_features(make_frames()), features)


PREPROCESSING = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "image_processor_type": "ViTImageProcessor",
    "resample": 3,
    "rescale_factor": 0.5,
    "size": {"height": 32, "width": 32},
}


def save_backbone(model, path, preprocessing=PREPROCESSING):
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(preprocessing))


def assert_pretrained(model, backbone):
    """The model has that backbone, but for BERT's pooler."""
    weights = backbone.state_dict()
    ours = model.vtn.backbone.state_dict()
    assert weights.keys() - ours.keys() <= {"pooler.dense.weight", "pooler.dense.bias"}
    assert ours.keys() <= weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in ours.items())
    assert not model.training and (model.config.num_labels, model.config.hidden_size) == (3, 16)


def test_pretrained_backbone(family, tmp_path):
    torch.manual_seed(0)
    backbone = randomize(AutoModel.from_config(make_backbone_config(family))).eval()
    save_backbone(backbone, tmp_path)
    model = VTNForVideoClassification.from_backbone_pretrained(tmp_path, **VTN_FIELDS)
    assert_pretrained(model, backbone)
    for processor_class in (VTNImageProcessor, VTNVideoProcessor):
        processor = processor_class.from_backbone_pretrained(tmp_path)
        assert list(processor.image_mean) == PREPROCESSING["image_mean"]
        assert list(processor.image_std) == PREPROCESSING["image_std"]
        assert (processor.resample, processor.rescale_factor) == (3, 0.5)
        assert (processor.crop_size.height, processor.crop_size.width) == (32, 32)
        # 32 of 37 pixels are what the paper's 224 are of 256.
        assert processor.size.shortest_edge == 37
    with torch.no_grad():
        assert model(make_frames()).logits.isfinite().all()


# The rule for the vector, where it can be computed by hand


def run_backbone(name, size=32):
    model = make_model(name).eval()
    pixel_values = make_frames(size=size)
    with torch.no_grad():
        outputs = model.vtn.backbone(pixel_values=pixel_values.flatten(0, 1))
        return model.vtn.get_frame_features(pixel_values).flatten(0, 1), outputs


@pytest.mark.parametrize("name", ["vit", "deit", "pvt"])
def test_class_token(name):
    features, outputs = run_backbone(name)
    torch.testing.assert_close(features, outputs.last_hidden_state[:, 0])


@pytest.mark.parametrize("name", ["pvt_v2", "poolformer"])
def test_mean_over_the_feature_map(name):
    features, outputs = run_backbone(name, size=64)
    assert outputs.last_hidden_state.shape[2:] == (2, 2)
    torch.testing.assert_close(features, outputs.last_hidden_state.mean(dim=(2, 3)))


@pytest.mark.parametrize("name", ["dinov2", "clip", "siglip", "swin", "convnext", "resnet", "efficientnet"])
def test_pooled_output(name):
    features, outputs = run_backbone(name)
    torch.testing.assert_close(features, outputs.pooler_output.flatten(1))


def test_mean_over_the_tokens():
    torch.manual_seed(0)
    backbone = AutoConfig.for_model("ijepa", **TRANSFORMER)
    model = randomize(VTNModel(VTNConfig(backbone_config=backbone, **VTN_FIELDS))).eval()
    pixel_values = make_frames()
    with torch.no_grad():
        features = model.get_frame_features(pixel_values)
        tokens = model.backbone(pixel_values=pixel_values.flatten(0, 1)).last_hidden_state
    torch.testing.assert_close(features.flatten(0, 1), tokens.mean(dim=1))


def test_naflex_gets_patches():
    """SigLIP 2 takes patches instead of pixels; its own processor cuts them like this."""
    from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

    model = make_model("siglip2").eval()
    pixel_values = make_frames()
    frames = pixel_values.flatten(0, 1).numpy()
    patches = torch.stack([torch.from_numpy(convert_image_to_patches(frame, 8)) for frame in frames])
    with torch.no_grad():
        expected = model.vtn.backbone(
            pixel_values=patches,
            pixel_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long),
            spatial_shapes=torch.tensor([[4, 4]] * len(patches)),
        ).pooler_output
        features = model.vtn.get_frame_features(pixel_values)
    torch.testing.assert_close(features.flatten(0, 1), expected)


def test_masked_autoencoders_see_the_whole_frame():
    """In eval too, ViT-MAE hides three quarters of the patches at random unless it is told not to."""
    torch.manual_seed(0)
    backbone = AutoConfig.for_model("vit_mae", **TRANSFORMER)
    model = randomize(VTNModel(VTNConfig(backbone_config=backbone, **VTN_FIELDS))).eval()
    with torch.no_grad():
        first, second = (model.get_frame_features(make_frames()) for _ in range(2))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


# Pretrained weights in other wrappings


@pytest.mark.parametrize("model_class", [CLIPModel, SiglipModel])
def test_vision_tower_of_a_pair(model_class, tmp_path):
    torch.manual_seed(0)
    pair = randomize(model_class(model_class.config_class(vision_config=TRANSFORMER, text_config=TEXT))).eval()
    save_backbone(pair, tmp_path)
    model = VTNForVideoClassification.from_backbone_pretrained(tmp_path, **VTN_FIELDS)
    pixel_values = make_frames()
    with torch.no_grad():
        expected = pair.vision_model(pixel_values=pixel_values.flatten(0, 1)).pooler_output
        features = model.vtn.get_frame_features(pixel_values)
    torch.testing.assert_close(features.flatten(0, 1), expected)
    assert list(VTNVideoProcessor.from_backbone_pretrained(tmp_path).image_mean) == PREPROCESSING["image_mean"]


def test_classifier_without_its_head(tmp_path):
    classifier = randomize(ViTForImageClassification(make_backbone_config("vit"))).eval()
    save_backbone(classifier, tmp_path)
    model = VTNForVideoClassification.from_backbone_pretrained(tmp_path, **VTN_FIELDS)
    assert_pretrained(model, classifier.vit)
    # The labels of the pictures are not those of the videos.
    assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_become_full(dtype, tmp_path):
    backbone = randomize(AutoModel.from_config(make_backbone_config("vit"))).to(dtype)
    save_backbone(backbone, tmp_path)
    model = VTNForVideoClassification.from_backbone_pretrained(tmp_path, **VTN_FIELDS)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert torch.equal(model.vtn.backbone.layernorm.weight, backbone.layernorm.weight.float())
    with torch.no_grad():
        assert model(make_frames()).logits.isfinite().all()


def test_weights_that_are_missing_are_refused(tmp_path):
    """Otherwise a part of the backbone would be random, and nobody would notice."""
    backbone = AutoModel.from_config(make_backbone_config("vit"))
    weights = backbone.state_dict()
    del weights["layernorm.weight"]
    backbone.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match="layernorm.weight"):
        VTNForVideoClassification.from_backbone_pretrained(tmp_path, **VTN_FIELDS)


@pytest.mark.parametrize(
    "settings, crop, short_side",
    [
        # DINOv2 and CLIP: a crop of their own.
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
            224,
            256,
        ),
        ({"size": 224, "crop_size": 224, "do_center_crop": True}, 224, 224),
        # ViT and SigLIP: the whole picture, squeezed into a square.
        ({"size": {"height": 384, "width": 384}}, 384, 439),
        ({"size": {"height": 224, "width": 224}, "do_center_crop": False, "crop_size": 192}, 224, 256),
        # ConvNeXt: the share of the crop.
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, 224, 256),
    ],
)
def test_picture_size_of_the_processors(settings, crop, short_side, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, **settings}))
    processor = VTNVideoProcessor.from_backbone_pretrained(tmp_path)
    assert (processor.crop_size.height, processor.crop_size.width) == (crop, crop)
    assert processor.size.shortest_edge == short_side
    assert list(processor.image_mean) == [0.5, 0.5, 0.5]


# Models that are no backbones


def make_detection_config():
    resnet = AutoConfig.for_model("resnet", **CONVNET, embedding_size=8, out_features=["stage4"])
    return AutoConfig.for_model(
        "detr",
        backbone_config=resnet,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=5,
    )


# Name: (configuration, what the message must say).
REFUSED = {
    "text": (lambda: AutoConfig.for_model("bert", **TEXT), "BertModel reads `input_ids`"),
    "text_tower": (lambda: AutoConfig.for_model("clip_text_model", **TEXT), "CLIPTextModel reads `input_ids`"),
    "speech": (lambda: AutoConfig.for_model("wav2vec2", **TRANSFORMER), "Wav2Vec2Model reads `input_values`"),
    "video": (lambda: AutoConfig.for_model("videomae", **TRANSFORMER), "VideoMAEModel.*video"),
    "detection": (make_detection_config, "DetrModel.*queries"),
    # Its features are narrower than its hidden states.
    "segmentation": (
        lambda: AutoConfig.for_model("sam_vision_model", **TRANSFORMER, output_channels=8),
        "SamVisionModel.*8.*32",
    ),
    "pair": (lambda: AutoConfig.for_model("clip", text_config=TEXT, vision_config=TRANSFORMER), "CLIPModel|`clip`"),
    "unknown": (lambda: {"model_type": "no_such_model"}, "no_such_model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_without_a_usable_vector_are_refused(name):
    make_config, message = REFUSED[name]
    with pytest.raises((ValueError, StrictDataclassError), match=f"(?s){message}"):
        model = VTNForVideoClassification(VTNConfig(backbone_config=make_config(), **VTN_FIELDS)).eval()
        # What cannot be seen before a frame goes through must at least be said then.
        model(make_frames())


def test_text_model_is_refused_when_loaded(tmp_path):
    AutoModel.from_config(AutoConfig.for_model("bert", **TEXT)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="BertModel reads `input_ids`"):
        VTNForVideoClassification.from_backbone_pretrained(tmp_path, **VTN_FIELDS)
