"""Model cards: what the Hub reads off them, and which are replaced."""

import pytest
from huggingface_hub import ModelCard, ModelCardData

from vtn_hf import VTNConfig
from vtn_hf.model_card import add_evaluation, make_model_card, replace_generic_card


def make_config(**settings) -> VTNConfig:
    backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 16, 24]}
    return VTNConfig(backbone_config=backbone, num_attention_heads=4, **settings)


def test_metadata_and_use():
    card = make_model_card(make_config(num_labels=3), "me/vtn", license="mit")
    data = card.data
    assert (data.pipeline_tag, data.library_name, data.license) == ("video-classification", "transformers", "mit")
    assert data.tags == ["vtn"]
    assert (data.base_model, data.datasets, data.metrics, data.eval_results) == (None, None, None, None)
    assert 'pipeline("video-classification", model="me/vtn", trust_remote_code=True)' in card.text
    assert "a resnet backbone, which tells 3 classes of videos apart: LABEL_0, LABEL_1, LABEL_2." in card.text
    assert "## Results" not in card.text


def test_results_say_how_they_were_measured():
    card = make_model_card(
        make_config(), "me/vtn", dataset="kinetics400", metrics={"top1": 0.75, "top5": 0.9}, protocol="one centre crop"
    )
    assert "On kinetics400; one centre crop.\n\n| metric | value |\n| --- | --- |\n| top1 | 0.7500 |" in card.text
    results = card.data.eval_results
    assert [(result.metric_name, result.metric_value) for result in results] == [
        ("top1 (one centre crop)", 0.75),
        ("top5 (one centre crop)", 0.9),
    ]
    assert {result.dataset_name for result in results} == {"kinetics400"}
    assert card.data.metrics == ["accuracy"]


def test_results_on_unnamed_videos_stay_out_of_the_metadata():
    card = make_model_card(make_config(), "me/vtn", metrics={"top1": 0.75}, protocol="one centre crop")
    assert "On the evaluation set; one centre crop." in card.text
    assert card.data.eval_results is None


def test_results_without_a_protocol_are_refused():
    with pytest.raises(ValueError, match="top1 mean nothing without a `protocol`"):
        make_model_card(make_config(), "me/vtn", dataset="kinetics400", metrics={"top1": 0.75})


def test_base_model_is_a_repository(tmp_path):
    """The Hub refuses metadata that name a directory."""
    config = make_config()
    config.backbone_config.name_or_path = "microsoft/resnet-50"
    assert make_model_card(config, "me/vtn").data.base_model == "microsoft/resnet-50"
    config.name_or_path = "you/vtn"
    assert make_model_card(config, "me/vtn").data.base_model == "you/vtn"
    assert make_model_card(config, "you/vtn").data.base_model == "microsoft/resnet-50"
    assert make_model_card(config, "me/vtn", base_model=tmp_path).data.base_model == "you/vtn"
    assert make_model_card(config, "me/vtn", base_model="a/b/c").data.base_model == "you/vtn"
    assert make_model_card(config, "me/vtn", base_model="facebook/dinov2-small").data.base_model == (
        "facebook/dinov2-small"
    )


def test_many_labels_are_not_all_listed():
    text = make_model_card(make_config(num_labels=400), "me/vtn").text
    assert "LABEL_19 and 380 more." in text
    assert "LABEL_20" not in text


def test_only_a_generic_card_is_replaced(tmp_path):
    path, card = tmp_path / "README.md", make_model_card(make_config(), "me/vtn")
    generic = ModelCard.from_template(
        ModelCardData(tags=["mine"], library_name="transformers"),
        model_description="This model card has been automatically generated.",
    )
    generic.save(path)
    replace_generic_card(path, card)
    assert ModelCard.load(path).data.pipeline_tag == "video-classification"
    assert ModelCard.load(path).data.tags == ["vtn", "mine"]
    for text in ("---\nlicense: mit\n---\n\n# Mine\n", "# No metadata\n"):
        path.write_text(text)
        replace_generic_card(path, card)
        assert path.read_text() == text


def test_results_are_added_and_replaced(tmp_path):
    path = tmp_path / "README.md"
    make_model_card(make_config(), "tiny").save(path)
    add_evaluation(path, "clips", {"top1": 0.25}, "whole videos; 4 of 4 videos")
    add_evaluation(path, "clips", {"top1": 0.5}, "10 clips; 4 of 4 videos")
    add_evaluation(path, "clips", {"top1": 0.75}, "whole videos; 4 of 4 videos")

    card = ModelCard.load(path)
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert values == {"top1 (whole videos; 4 of 4 videos)": 0.75, "top1 (10 clips; 4 of 4 videos)": 0.5}
    assert card.text.count("## Evaluation on clips: whole videos") == 1
    assert "| top1 | 0.7500 |" in card.text and "| top1 | 0.2500 |" not in card.text
    assert "## Use" in card.text
