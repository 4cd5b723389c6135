"""The suite of every model of transformers, on VTN with a transformer and with a convolutional backbone."""

import tempfile
import unittest

import model_testers
import shared_suites  # noqa: F401 (makes `shared_tests`)
from shared_tests.test_modeling_common import ModelTesterMixin
from torch import nn
from transformers import VivitForVideoClassification, VivitModel

from vtn_hf import VTNForVideoClassification, VTNModel


class VisionModelTest(ModelTesterMixin):
    """What the suite leaves to models without tokens, whose vocabulary could be resized or looked up."""

    test_resize_embeddings = False

    def test_model_get_set_embeddings(self):
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIsInstance(model.get_input_embeddings(), nn.Module)
            self.assertIsNone(model.get_output_embeddings())


class VTNModelTest(VisionModelTest):
    all_model_classes = (VTNModel, VTNForVideoClassification)
    _is_composite = True
    test_can_init_all_missing_weights_before_2023 = True
    backbone_config: dict

    def setUp(self):
        self.model_tester = model_testers.VTNModelTester(self, self.backbone_config)

    @unittest.skip("`inputs_embeds` are features of frames, not embeddings of `input_ids`")
    def test_inputs_embeds(self):
        pass

    @unittest.skip("`inputs_embeds` are features of frames, not embeddings of `input_ids`")
    def test_inputs_embeds_matches_input_ids(self):
        pass

    def test_sdpa_can_dispatch_composite_models(self):
        """The suite knows the parts of language models; those of VTN are the temporal encoder and the backbone."""
        for model_class in self.all_model_classes:
            with self.subTest(model_class.__name__), tempfile.TemporaryDirectory() as folder:
                model_class(self.model_tester.get_config()).save_pretrained(folder)
                for requested in (None, "sdpa", "eager"):
                    model = model_class.from_pretrained(folder, attn_implementation=requested).base_model
                    expected = requested or "sdpa"
                    self.assertEqual(model.config._attn_implementation, expected)
                    if not model.backbone._supports_sdpa:
                        expected = "eager"
                    self.assertEqual(model.backbone.config._attn_implementation, expected)


class TestViTBackbone(VTNModelTest, unittest.TestCase):
    backbone_config = model_testers.VIT


class TestResNetBackbone(VTNModelTest, unittest.TestCase):
    backbone_config = model_testers.RESNET


class TestViViT(VisionModelTest, unittest.TestCase):
    """For comparison."""

    all_model_classes = (VivitModel, VivitForVideoClassification)

    def setUp(self):
        self.model_tester = model_testers.VivitModelTester(self)
