"""The names of classes."""

from pathlib import Path

import pytest

from vtn_hf.data.class_names import (
    clean_name,
    find_variants,
    make_label_lookup,
    read_class_names,
    read_kinetics_labels,
)


LABEL_MAP = Path(__file__).parents[2] / "shared" / "kinetics" / "label_map_k400.txt"


@pytest.mark.parametrize("num_classes", [400, 600, 700])
def test_kinetics_labels(num_classes):
    labels = read_kinetics_labels(num_classes)
    assert len(labels) == len(set(labels)) == num_classes
    assert labels == sorted(labels)
    assert (labels[0], labels[-1]) == ("abseiling", "zumba")
    assert all(label == clean_name(label) and label for label in labels)
    assert find_variants(labels) == []
    assert read_class_names(f"kinetics{num_classes}") == labels


def test_kinetics_600_and_700_overlap_as_published():
    # https://arxiv.org/abs/1808.01340: 368 of the 400 classes are classes of Kinetics-600.
    names = {size: set(read_kinetics_labels(size)) for size in (400, 600, 700)}
    assert len(names[400] & names[600]) == 368
    assert len(names[600] & names[700]) == 596


@pytest.mark.skipif(not LABEL_MAP.is_file(), reason=f"no {LABEL_MAP}")
def test_kinetics_400_labels_equal_the_label_map():
    assert read_kinetics_labels(400) == LABEL_MAP.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("num_classes", [0, 399, 710])
def test_kinetics_of_another_size(num_classes):
    with pytest.raises(ValueError, match=f"got num_classes={num_classes}"):
        read_kinetics_labels(num_classes)


def test_class_list(tmp_path):
    file = tmp_path / "names.txt"
    file.write_bytes("\ufeffb c\r\nFu\u0308sse \r\n\r\n\r\n".encode())
    assert read_class_names(str(file)) == ["b c", "Füsse"]
    file.write_text("b\n\na\n")
    with pytest.raises(ValueError, match="names.txt: the class with the label 1 has no name"):
        read_class_names(file)
    file.write_text("b\na\nb\n")
    with pytest.raises(ValueError, match="names.txt: class names must differ, but the labels 0 and 2 are both 'b'"):
        read_class_names(file)
    with pytest.raises(FileNotFoundError, match="kinetics500 is neither one of kinetics400, kinetics600, kinetics700"):
        read_class_names("kinetics500")


@pytest.mark.parametrize(
    "variants",
    [
        ["Arm Wrestling", "arm wrestling"],
        ["arm wrestling", "arm_wrestling"],
        ["arm  wrestling", "arm-wrestling"],
        ["ARM\u00a0WRESTLING", "arm wrestling"],
        ["arm wrestling", "arm wrest\u200bling"],
        ["Straße", "STRASSE"],
        ["ｙｏｇａ", "yoga"],
    ],
)
def test_variants(variants):
    assert find_variants([*variants, "c", "c++", "c#", "wrestling"]) == [sorted(variants)]


def test_lookup():
    names = ("a", "A", "massaging person's head", "c", "c++", "yoga (hot)")
    find_label = make_label_lookup(names)
    assert [find_label(name) for name in names] == list(range(6))
    assert find_label("Massaging_persons_head") == 2
    assert find_label("yoga hot") == 5
    # It could be either, or is none.
    assert find_label("ａ") is None
    assert find_label("C++") == 4
    assert find_label("yog") is None
