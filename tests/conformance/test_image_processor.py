"""The suite of every image processor of transformers; what it calls a batch of images is a video here."""

import unittest

import numpy as np
import shared_suites  # noqa: F401 (makes `shared_tests`)
from shared_tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin

from vtn_hf import VTNImageProcessor


class VTNImageProcessingTester(ImageProcessingTester):
    num_images = 5

    def __init__(self, parent):
        # One video, whose frames are the images.
        super().__init__(
            parent, batch_size=1, max_resolution=60, size={"shortest_edge": 20}, crop_size={"height": 18, "width": 18}
        )

    def _get_image_processing_classes(self) -> dict[str, type]:
        # The suite would look for them under the name of this folder.
        return {"torchvision": VTNImageProcessor, "pil": VTNImageProcessor}

    def prepare_image_inputs(self, batch_size=None, **kwargs) -> list:
        return super().prepare_image_inputs(batch_size=self.num_images, **kwargs)

    def expected_output_image_shape(self, images: list) -> tuple[int, ...]:
        return len(images), *super().expected_output_image_shape(images)


class TestVTN(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = VTNImageProcessingTester
    test_cast_dtype = True

    def setUp(self):
        np.random.seed(0)
        super().setUp()
