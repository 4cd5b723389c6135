"""The recipes, read as a user's command reads them; the paper's one traced in a run."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers.utils import is_torchvision_available
from video_files import write_video

from vtn_hf import VTNConfig, configs
from vtn_hf.commands import train as train_script
from vtn_hf.data.class_names import read_class_names


CONFIGS = Path(configs.__file__).parent / "recipes"
# As small as a ViT can be that takes pictures of 224 x 224.
TINY_BACKBONE = {
    "model_type": "vit",
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "image_size": 224,
    "patch_size": 112,
}


def parse(name, tmp_path, *flags):
    flags = ("--data_dir", tmp_path / "videos", "--output_dir", tmp_path / "run", "--device", "cpu", *flags)
    return train_script.parse_arguments(["--recipe", name, *map(str, flags)])


def shrink(model_args):
    """Lets the recipe train a model that takes no time, and needs no download."""
    model_args.backbone_name_or_path = None
    fields = {"backbone_config": TINY_BACKBONE, "num_attention_heads": 2, "intermediate_size": 8}
    model_args.model_config = json.dumps(json.loads(model_args.model_config) | fields)


@pytest.fixture
def videos(tmp_path):
    """Two classes, one training video each: 10 s with 30 frames per second, and 4 s with 25, shorter than a clip."""
    generator = np.random.default_rng(0)
    for name, num_frames, fps, size in (("a", 300, 30, (36, 48)), ("b", 100, 25, (48, 36))):
        folder = tmp_path / "videos" / "train" / name
        folder.mkdir(parents=True)
        write_video(folder / "clip.mp4", generator.integers(0, 256, (num_frames, *size, 3), dtype=np.uint8), fps)
    return tmp_path / "videos"


def read_frames(path):
    from vtn_hf.video_decoding_vtn import decode_video

    return torch.from_numpy(decode_video(path)[0]).permute(0, 3, 1, 2)


def test_paper_recipe_on_a_traced_run(tmp_path, videos, monkeypatch):
    """Frames, crops, flips, positions, learning rates and decay of each of 50 steps follow the original's rules."""
    flags = ("--per_device_train_batch_size", 1, "--num_workers", 0, "--report_to", "none")
    flags += ("--dataloader_persistent_workers", "false", "--eval_strategy", "no", "--save_strategy", "no")
    flags += ("--logging_steps", 1, "--disable_tqdm", "true")
    model_args, data_args, training_args = parse("kinetics400", tmp_path, *flags)
    shrink(model_args)
    data_args.class_names = None

    batches, rates = [], []
    collate = train_script.collate_videos
    monkeypatch.setattr(train_script, "collate_videos", lambda rows: batches.append(collate(rows)) or batches[-1])

    class TracingTrainer(train_script.VTNTrainer):
        def training_step(self, *args, **kwargs):
            rates.append({group["lr"] for group in self.optimizer.param_groups})
            return super().training_step(*args, **kwargs)

        def _clip_grad_norm(self, model):
            raise AssertionError("The original does not clip gradients.")

    monkeypatch.setattr(train_script, "VTNTrainer", TracingTrainer)
    trainer = train_script.train(model_args, data_args, training_args)

    # Two steps in each of 25 epochs: SOLVER.STEPS [0, 13, 24], LRS [1, 0.1, 0.01], BASE_LR 0.001.
    assert len(batches) == len(rates) == 50
    expected = [1e-3] * 26 + [1e-4] * 22 + [1e-5] * 2
    assert all(len(rate) == 1 for rate in rates)
    np.testing.assert_allclose([rate.pop() for rate in rates], expected, rtol=1e-9)

    optimizer = trainer.optimizer.optimizer
    assert type(optimizer) is torch.optim.SGD
    decayed = 0
    for group in optimizer.param_groups:
        assert (group["momentum"], group["dampening"], group["nesterov"]) == (0.9, 0, True)
        # A ViT has no batch normalisation, so everything decays, biases and layer normalisations too.
        assert group["weight_decay"] == 1e-4 or not group["params"]
        decayed += len(group["params"])
    assert decayed == len(list(trainer.model.parameters()))

    names = ["train/a/clip.mp4", "train/b/clip.mp4"]
    sources = [(read_frames(videos / names[0]), 30), (read_frames(videos / names[1]), 25)]
    sides, offsets, flips, starts = set(), set(), set(), set()
    for step, batch in enumerate(batches):
        epoch, (label,) = step // 2, batch["labels"].tolist()
        frames, fps = sources[label]
        generator = np.random.default_rng([0, epoch, zlib.crc32(names[label].encode()), 0])

        # NUM_FRAMES 16, SAMPLING_RATE 8, TARGET_FPS 25: a window of 5.12 s that starts anywhere, from the first whole
        # frame on; shorter videos repeat their last frame.
        clip_size = 8 * 16 / 25 * fps
        start = generator.uniform(0, max(len(frames) - clip_size, 0))
        decoded = frames[int(np.ceil(start)) :]
        index = torch.linspace(0, clip_size - 1, 16).clamp(0, len(decoded) - 1).long()
        assert batch["position_ids"][0].tolist() == index.tolist()
        starts.add(int(np.ceil(start)))

        # Normalised, resized to a short side of 256 to 320 without antialiasing, cropped to 224 and flipped.
        clip = (decoded[index] / 255 - 0.45) / 0.225
        side = int(round(generator.uniform(256, 320)))
        height, width = (side * length // 36 if length != 36 else side for length in clip.shape[-2:])
        clip = nn.functional.interpolate(clip, (height, width), mode="bilinear", align_corners=False)
        top, left = generator.integers(height - 223), generator.integers(width - 223)
        clip = clip[..., top : top + 224, left : left + 224]
        flip = generator.random() < 0.5
        clip = clip.flip(-1) if flip else clip
        assert batch["pixel_values"].shape == (1, 16, 3, 224, 224)
        torch.testing.assert_close(batch["pixel_values"][0], clip, rtol=0, atol=2e-4)
        sides.add(side)
        offsets.add((top, left))
        flips.add(flip)
    assert 256 <= min(sides) < 265 and 311 < max(sides) <= 320
    assert len(offsets) > 45 and len(starts) > 20
    assert flips == {False, True}


def test_paper_recipe_has_the_numbers_of_the_original(tmp_path):
    model_args, data_args, training_args = parse("kinetics400", tmp_path)
    config = VTNConfig(**json.loads(model_args.model_config))
    # The defaults are the paper's model; the recipe says the same.
    assert config.to_diff_dict() == VTNConfig().to_diff_dict()
    assert model_args.backbone_name_or_path == "timm/vit_base_patch16_224.orig_in21k_ft_in1k"
    assert not model_args.freeze_backbone
    assert training_args.num_train_epochs == 25
    # TRAIN.BATCH_SIZE 16 on 4 GPUs.
    assert training_args.per_device_train_batch_size * 4 == 16
    assert training_args.gradient_accumulation_steps == 1
    assert training_args.dataloader_drop_last
    assert training_args.dataloader_num_workers == 8
    assert training_args.seed == 0
    assert training_args.label_smoothing_factor == 0
    assert not (training_args.bf16 or training_args.fp16)
    assert training_args.layer_decay is training_args.ema_decay is None
    for name in ("rand_augment", "erasing_prob", "mixup_alpha", "cutmix_alpha", "crop_scale"):
        assert not getattr(data_args, name)
    assert data_args.num_repeats == 1
    model_args.backbone_name_or_path = None
    processor = train_script.make_processor(model_args, data_args)
    # Evaluation as the original's: 250 frames of the first 10 s, 256 and 224 pixels.
    assert (processor.num_frames, processor.frame_sampling, processor.pixel_protocol) == (
        250,
        "pyslowfast",
        "pyslowfast",
    )
    assert (dict(processor.size), dict(processor.crop_size)) == ({"shortest_edge": 256}, {"height": 224, "width": 224})
    assert (list(processor.image_mean), list(processor.image_std)) == ([0.45] * 3, [0.225] * 3)
    assert len(read_class_names(data_args.class_names)) == 400


@pytest.mark.parametrize("with_torchvision", [False, True])
def test_modern_recipe_runs(tmp_path, videos, with_torchvision):
    if with_torchvision and not is_torchvision_available():
        pytest.skip("RandAugment needs torchvision")
    flags = ("--num_workers", 0, "--dataloader_persistent_workers", "false", "--report_to", "none")
    flags += ("--num_train_epochs", 2, "--save_strategy", "no", "--eval_strategy", "no", "--dtype", "float32")
    flags += ("--dataloader_drop_last", "false", "--logging_steps", 1, "--disable_tqdm", "true")
    model_args, data_args, training_args = parse("kinetics400_modern", tmp_path, *flags)
    shrink(model_args)
    data_args.class_names = None
    if not with_torchvision:
        data_args.rand_augment = None
    trainer = train_script.train(model_args, data_args, training_args)
    rates = sorted({round(group["initial_lr"], 12) for group in trainer.optimizer.param_groups})
    np.testing.assert_allclose(rates, [5e-4 * 0.75**power for power in (3, 2, 1, 0)])
    assert isinstance(trainer.optimizer.optimizer, torch.optim.AdamW)
    assert all(np.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_each_recipe_says_how_to_run_it_and_what_to_expect(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"--recipe {path.stem} " in line for line in header)
    if path.name.startswith("kinetics"):
        text = " ".join(header)
        assert "Hardware:" in text
        assert "To expect:" in text
