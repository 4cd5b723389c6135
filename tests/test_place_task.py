"""examples/place_task.py on a few videos."""

import json

import numpy as np
import place_task
import pytest


def test_the_red_square_goes_to_its_corner():
    pixels, label, middles = place_task.draw_video(np.random.default_rng(0))
    assert pixels.shape == (6, 3, 64, 64) and middles.shape == (6, 2)
    assert 2 * int(middles[-1, 0] > 32) + int(middles[-1, 1] > 32) == label
    is_margin = np.ones((64, 64), dtype=bool)
    is_margin[place_task.MARGIN : -place_task.MARGIN, place_task.MARGIN : -place_task.MARGIN] = False
    assert pixels.numpy()[..., is_margin].max() < 1


def test_all_models_are_trained_on_the_same_features(tmp_path, capsys):
    small = ["--num_train", "8", "--num_val", "4", "--num_steps", "2", "--seeds", "1"]
    assert place_task.main(["--output", str(tmp_path / "places.json"), *small]) == 0
    results = json.loads((tmp_path / "places.json").read_text())
    assert [result["model"] for result in results] == list(place_task.MODELS)
    assert all(0 <= result["accuracy"] <= 1 for result in results)
    assert "attention" not in results[0] and results[1]["chance"] == pytest.approx(1 / 16)
    assert capsys.readouterr().out.count("accuracy") == 3
