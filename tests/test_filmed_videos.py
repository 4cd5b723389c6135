"""Tests of examples/filmed_videos.py on drawn videos: that it runs, goes on and keeps groups together."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import RESNET
from transformers import ResNetConfig, ResNetModel
from video_files import write_video


sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import filmed_videos  # noqa: E402
from filmed import equalize, variants  # noqa: E402
from filmed.collection import find_groups, make_folds  # noqa: E402
from filmed.report import format_spread  # noqa: E402

from vtn_hf.data.feature_cache import FeatureCacheInfo  # noqa: E402
from vtn_hf.video_decoding_vtn import decode_video  # noqa: E402


@pytest.fixture(scope="module")
def collection(tmp_path_factory) -> Path:
    """Two classes of five speakers, two videos each."""
    root = tmp_path_factory.mktemp("words")
    generator = np.random.default_rng(0)
    for label, name in enumerate(("down", "up")):
        (root / name).mkdir()
        for speaker in range(5):
            for repetition in range(2):
                frames = generator.integers(60, size=(6 + speaker, 24, 32, 3), dtype=np.uint8) + np.uint8(100 * label)
                write_video(root / name / f"F{speaker:02d}_{repetition:02d}.mp4", frames, 10)
    return root


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    ResNetModel(
        ResNetConfig(**{name: value for name, value in RESNET.items() if name != "model_type"})
    ).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "BitImageProcessor", **sizes})
    )
    return folder


def test_it_runs_goes_on_and_reports(collection, backbone, tmp_path, monkeypatch, capsys):
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}
    shorter = {"num_train_epochs": 1}
    tiny = {
        "frozen": variants.CHANGES.change(small, shorter),
        "places": variants.SMALL.change(small | variants.PLACES["2 x 2"], shorter),
        "shuffled": replace(variants.PLAIN.change(small, shorter), is_shuffled=True),
        "end to end": variants.END_TO_END.change(small, shorter),
        "pixels": None,
    }
    monkeypatch.setattr(filmed_videos, "VARIANTS", tiny)
    command = [str(collection), "--backbone_name_or_path", str(backbone), "--output_dir", str(tmp_path)]
    command += ["--seeds", "0"]

    filmed_videos.main([*command, "--only", "frozen|places|shuffled|pixels", "--folds", "0"])
    first = filmed_videos.read_results(tmp_path)
    filmed_videos.main([*command, "--folds", "0", "1", "--num_timed", "2"])
    results = filmed_videos.read_results(tmp_path)

    assert [(line["variant"], line["fold"]) for line in first] == [(name, 0) for name in tiny if name != "end to end"]
    assert results[: len(first)] == first and len(results) == len(tiny) * 2
    grids = [FeatureCacheInfo.load(tmp_path / name).frame_grid for name in ("features", "features_2x2")]
    assert grids == [None, 2]
    rows = {row["variant"]: row for row in json.loads((tmp_path / "report.json").read_text())}
    assert set(rows) == set(tiny)
    for name, row in rows.items():
        mine = [line["top1"]["whole"] for line in results if line["variant"] == name]
        assert row["top1"] == [pytest.approx(np.mean(mine))]
        assert (row["sec_per_video"] is None) == (row["parts"] == [None]) == (name == "pixels")
    assert "| end to end (test) | 1 | " in capsys.readouterr().out

    filmed_videos.main([*command, "--protocol", "val", "--only", "pixels", "--folds", "0"])
    assert filmed_videos.read_results(tmp_path)[-1]["protocol"] == "val"


def test_speakers_are_groups_and_folds_keep_them_together():
    names = [
        f"{word}/{speaker}{number:02d}_{k}.mp4"
        for word in "ab"
        for speaker in "FM"
        for number in range(5)
        for k in "12"
    ]
    groups = find_groups(Path("nowhere"), names)
    assert groups[:3] == ["F00", "F00", "F01"]

    labels = np.array([name[0] == "b" for name in names]).astype(int)
    folds = make_folds(groups, labels)

    assert sorted(np.concatenate(folds)) == list(range(len(names)))
    speakers = [sorted({groups[index] for index in fold}) for fold in folds]
    # Of equal groups every fifth.
    assert speakers == [sorted(set(groups))[number::5] for number in range(5)]
    with pytest.raises(ValueError, match="lonely.mp4"):
        find_groups(Path("nowhere"), ["a/lonely.mp4"])


def test_recordings_of_a_list_are_groups(tmp_path):
    (tmp_path / "videos.txt").write_text("https://a\nfi001: 0.1 - 0.2\nnofi001: 0.3 - 0.4\nhttps://b\nfi002: 1 - 2\n")

    assert find_groups(tmp_path, ["fight/fi001.mp4", "fight/fi002.mp4", "no/nofi001.mp4", "no/nofi009.mp4"]) == [
        "https://a",
        "https://b",
        "https://a",
        "",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "forzen"], "--only forzen is in the name of no variant; they are: kernel ridge"),
        ([], '--backbone_name_or_path is missing; --only "kernel|end to end" does without.'),
    ],
)
def test_mistakes_are_told(collection, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit):
        filmed_videos.main([str(collection), "--output_dir", str(tmp_path), *options])

    assert message in capsys.readouterr().err


def test_equal_videos_have_one_size_and_rate_and_at_most_one_length(tmp_path):
    for name, num_frames, size, rate in (("a/long.mkv", 75, (64, 48), 25), ("b/short one.mp4", 8, (40, 80), 10)):
        (tmp_path / "all" / name).parent.mkdir(parents=True)
        brightness = np.linspace(0, 255, num_frames).astype(np.uint8)[:, None, None, None]
        write_video(tmp_path / "all" / name, np.broadcast_to(brightness, (num_frames, *size, 3)), rate)
    (tmp_path / "all/videos.txt").write_text("https://a\n")

    equalize.main([str(tmp_path / "all"), str(tmp_path / "equal")])

    assert (tmp_path / "equal/videos.txt").is_file()
    long, metadata = decode_video(tmp_path / "equal/a/long.mp4")
    assert long.shape == (10, 192, 192, 3) and metadata.fps == 5
    # Every fifth frame of 25 per second.
    assert long.mean(axis=(1, 2, 3)) == pytest.approx(np.arange(10) * 5 / 74 * 255, abs=4)
    short, metadata = decode_video(tmp_path / "equal/b/short one.mp4")
    assert short.shape == (4, 192, 192, 3) and metadata.fps == 5


def test_a_spread_is_of_the_seeds():
    assert format_spread([0.5]) == "0.500" and format_spread([0.5, 0.7]) == "0.600 ± 0.141"
    assert format_spread([None]) == "–"
