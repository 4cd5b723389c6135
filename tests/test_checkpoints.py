"""Every way back into a model gives the same model, with every family of backbones, or an error."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_backbones import BACKBONES, VTN_FIELDS, make_backbone_config, randomize, skip_without_timm
from test_resume import Clips as SmallClips
from tiny_models import RESNET_VTN, make_vit_vtn
from transformers import Trainer, TrainerCallback, TrainingArguments

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.training.checkpoints import load_to_fine_tune, load_weights
from vtn_hf.training.trainer import VTNTrainer


# Those that the README names.
NAMED = (
    "vit",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "beit",
    "swin",
    "clip",
    "siglip",
    "resnet",
    "convnext",
    "timm_resnet",
)


def make_model(family: str, seed: int = 0) -> VTNForVideoClassification:
    torch.manual_seed(seed)
    return VTNForVideoClassification(VTNConfig(backbone_config=make_backbone_config(family), **VTN_FIELDS))


def list_differences(first: torch.nn.Module, second: torch.nn.Module) -> list[str]:
    weights = second.state_dict()
    assert first.state_dict().keys() == weights.keys()
    return [name for name, weight in first.state_dict().items() if not weight.equal(weights[name])]


@pytest.mark.parametrize("family", BACKBONES)
def test_a_folder_gives_back_what_was_saved(tmp_path, family):
    skip_without_timm(family)
    model = randomize(make_model(family))
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    (tmp_path / "bin").mkdir()
    torch.save(load_file(tmp_path / "whole/model.safetensors"), tmp_path / "bin/pytorch_model.bin")
    for name in ("whole", "shards", "bin"):
        loaded = make_model(family, seed=1)
        load_weights(loaded, tmp_path / name)
        assert list_differences(model, loaded) == []
    assert list_differences(model, load_to_fine_tune(tmp_path / "whole")) == []
    # torch's own loading, which `Trainer` uses, knows both names of a weight.
    loaded = make_model(family, seed=1)
    loaded.load_state_dict(load_file(tmp_path / "whole/model.safetensors"))
    assert list_differences(model, loaded) == []


class Clips(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator), "labels": torch.tensor(index % 3)}


def make_trainer(trainer_class, output_dir, model, clips=None, **settings):
    arguments = TrainingArguments(
        str(output_dir),
        **{"per_device_train_batch_size": 4, "max_steps": 4, "learning_rate": 1e-2, "save_steps": 2} | settings,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    clips = clips or Clips()
    processor = {"processing_class": VTNVideoProcessor()} if trainer_class is VTNTrainer else {}
    return trainer_class(model=model, args=arguments, train_dataset=clips, eval_dataset=clips, **processor)


class Wreck(TrainerCallback):
    """Spoils the weights after the second step, so that the checkpoint of that step is the best one."""

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step == 3:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("family", NAMED)
@pytest.mark.parametrize("trainer_class", [Trainer, VTNTrainer])
def test_trainers_resume_and_find_the_best(tmp_path, trainer_class, family):
    skip_without_timm(family)
    whole = make_trainer(trainer_class, tmp_path / "whole", make_model(family))
    whole.train()
    resumed = make_trainer(trainer_class, tmp_path / "resumed", make_model(family, seed=1))
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-2"))
    assert list_differences(whole.model, resumed.model) == []

    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2}
    spoilt = make_trainer(trainer_class, tmp_path / "best", make_model(family), **best)
    spoilt.add_callback(Wreck)
    spoilt.train()
    assert spoilt.state.best_global_step == 2
    saved = VTNForVideoClassification.from_pretrained(tmp_path / "best/checkpoint-2")
    assert list_differences(saved, spoilt.model) == []


def add_adapters(model, seed, is_wrapped):
    torch.manual_seed(seed)
    config = LoraConfig(
        target_modules=["q_proj", "query", "value"], modules_to_save=["classifier"], init_lora_weights=False
    )
    if is_wrapped:
        return get_peft_model(model, config)
    model.add_adapter(config)
    return model


@pytest.mark.parametrize("is_wrapped", [True, False], ids=["get_peft_model", "add_adapter"])
def test_adapters_resume_and_the_best_ones_are_found(tmp_path, is_wrapped):
    def make_adapted(seed):
        return add_adapters(make_vit_vtn(num_labels=2), seed, is_wrapped)

    whole = make_trainer(VTNTrainer, tmp_path / "whole", make_adapted(0), SmallClips())
    whole.train()
    resumed = make_trainer(VTNTrainer, tmp_path / "resumed", make_adapted(1), SmallClips())
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-2"))
    assert list_differences(whole.model, resumed.model) == []

    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2}
    spoilt = make_trainer(VTNTrainer, tmp_path / "best", make_adapted(0), SmallClips(), **best)
    spoilt.add_callback(Wreck)
    spoilt.train()
    assert spoilt.state.best_global_step == 2
    # Its first two steps were the same.
    saved = make_adapted(1)
    load_weights(saved, tmp_path / "whole/checkpoint-2")
    names = [name for name in list_differences(saved, spoilt.model) if "lora" in name or "modules_to_save" in name]
    assert names == []


def test_adapters_of_another_shape_or_kind_are_refused(tmp_path):
    add_adapters(make_vit_vtn(num_labels=2), 0, True).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights.popitem()
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="is not one of this model's"):
        load_weights(add_adapters(make_vit_vtn(num_labels=2), 1, True), tmp_path)
    with pytest.raises(ValueError, match="holds a PEFT adapter"):
        load_to_fine_tune(tmp_path)


def test_statistics_that_adapters_do_not_hold_are_refused(tmp_path):
    model = VTNForVideoClassification(VTNConfig(**RESNET_VTN, num_labels=2))
    adapted = get_peft_model(model, LoraConfig(target_modules=["query", "value"]))
    with pytest.raises(ValueError, match="freeze_backbone"):
        make_trainer(VTNTrainer, tmp_path, adapted)
    model.freeze_backbone()
    make_trainer(VTNTrainer, tmp_path, adapted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("classifier.norm.weight"), 'Missing key.*"classifier.norm.weight"'),
        (lambda weights: weights.update(extra=torch.zeros(1)), 'Unexpected key.*"extra"'),
        (
            lambda weights: weights.update({"classifier.norm.bias": torch.zeros(3)}),
            "mismatch for classifier.norm",
        ),
    ],
    ids=["missing", "left over", "shape"],
)
def test_weights_of_another_model_are_refused(tmp_path, change, message):
    make_vit_vtn().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        load_weights(make_vit_vtn(), tmp_path)
    with pytest.raises(ValueError, match="are not those of this model"):
        load_to_fine_tune(tmp_path)


def test_files_that_are_missing_or_cut_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="model.safetensors is missing"):
        load_weights(make_vit_vtn(), tmp_path)
    make_vit_vtn().save_pretrained(tmp_path, max_shard_size="10KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shard = tmp_path / sorted(index["weight_map"].values())[0]
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"{shard.name} is damaged"):
        load_weights(make_vit_vtn(), tmp_path)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"{shard.name} is missing"):
        load_weights(make_vit_vtn(), tmp_path)


def test_fine_tuning_replaces_the_last_layer_alone(tmp_path):
    model = make_vit_vtn(num_labels=3)
    model.save_pretrained(tmp_path)
    tuned = load_to_fine_tune(tmp_path, num_labels=5)
    weights = model.state_dict()
    same = {name for name, weight in tuned.state_dict().items() if weight.equal(weights[name])}
    assert weights.keys() - same == {"classifier.out_proj.weight", "classifier.out_proj.bias"}
    with pytest.raises(ValueError, match="another shape.*position_embeddings"):
        load_to_fine_tune(tmp_path, num_labels=5, max_position_embeddings=99)
