"""The suite of every configuration of transformers, one test for each of its checks."""

import json
import unittest

import model_testers
import pytest
import shared_suites  # noqa: F401 (makes `shared_tests`)
from shared_tests.test_configuration_common import ConfigTester
from transformers import VivitConfig

from vtn_hf import VTNConfig


def make_backbone_fields(backbone_config: dict) -> dict:
    """A backbone's configuration as it stands in a file, where some fields are left out."""
    config = VTNConfig(backbone_config=backbone_config, num_attention_heads=4)
    return json.loads(config.to_json_string())["backbone_config"]


CHECKS = [name for name in vars(ConfigTester) if name.startswith(("create_and_test_", "check_"))]
COMMON_PROPERTIES = ["hidden_size", "num_attention_heads", "num_hidden_layers"]


class ConfigTest:
    config_class = VTNConfig

    @pytest.mark.parametrize("check", CHECKS)
    def test_config(self, check):
        parent = unittest.TestCase()
        parent.model_tester = self
        tester = ConfigTester(
            parent,
            self.config_class,
            has_text_modality=False,
            common_properties=list(COMMON_PROPERTIES),
            **self.config_fields,
        )
        getattr(tester, check)()


class TestViTBackbone(ConfigTest):
    config_fields = {
        "backbone_config": make_backbone_fields(model_testers.VIT),
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "attention_window": [2, 4],
        "num_frames": 8,
    }


class TestResNetBackbone(ConfigTest):
    config_fields = {
        "backbone_config": make_backbone_fields(model_testers.RESNET),
        "hidden_size": 16,
        "num_attention_heads": 2,
        "position_embedding_type": "none",
        "frames_per_chunk": 2,
    }


class TestViViT(ConfigTest):
    """For comparison."""

    config_class = VivitConfig
    config_fields = {"hidden_size": 37}
