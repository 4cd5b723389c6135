"""The names of the classes: where they come from, which label each has, and which spellings mean the same class."""

import difflib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import resources
from pathlib import Path


CLASS_NAMES_FILE = "classes.txt"
KINETICS_SIZES = (400, 600, 700)
_MAX_NUMBERED_CLASSES = 1_000_000


def read_kinetics_labels(num_classes: int) -> list[str]:
    """
    Reads the class names of Kinetics, in the order of the published checkpoints, which is alphabetical.

    The lists are those of mmaction2 (`tools/data/kinetics/label_map_k{400,600,700}.txt`).

    Args:
        num_classes (`int`): 400, 600 or 700.

    Returns:
        `list[str]`: One name per class; the position of a name is its label.

    Raises:
        ValueError: If there is no Kinetics of that size.
    """
    if num_classes not in KINETICS_SIZES:
        raise ValueError(f"The labels of Kinetics-400, 600 and 700 are known, got num_classes={num_classes}.")
    file = resources.files(__package__).joinpath(f"kinetics_{num_classes}_labels.txt")
    return file.read_text(encoding="utf-8").splitlines()


def read_class_names(source: str | Path) -> list[str]:
    """
    Reads a list of classes.

    Args:
        source (`str` or `Path`): `"kinetics400"`, `"kinetics600"`, `"kinetics700"`, or a text file with a name per
            line; empty lines at its end do not count.

    Returns:
        `list[str]`: The names in the order of their labels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is empty, a name comes twice, or the file is not UTF-8.
    """
    for size in KINETICS_SIZES:
        if str(source) == f"kinetics{size}":
            return read_kinetics_labels(size)
    file = Path(source).expanduser()
    if not file.is_file():
        known = ", ".join(f"kinetics{size}" for size in KINETICS_SIZES)
        raise FileNotFoundError(f"{source} is neither one of {known} nor a file with the name of a class per line.")
    names = [clean_name(line) for line in read_text(file).rstrip().split("\n")]
    check_class_names(names, str(source))
    return names


def check_class_names(names: list[str], source: str):
    """
    Makes sure that names can be those of classes.

    Args:
        names (`list[str]`): The names in the order of their labels.
        source (`str`): Where they are from, for the message.

    Raises:
        ValueError: If a name is empty or comes twice.
    """
    for label, name in enumerate(names):
        if not name:
            raise ValueError(f"{source}: the class with the label {label} has no name; the list has an empty line.")
        if (first := names.index(name)) < label:
            raise ValueError(
                f"{source}: class names must differ, but the labels {first} and {label} are both {name!r}."
            )


def name_by_numbers(labels: Iterable[int], source: str) -> list[str]:
    """
    The names of classes that have none: their numbers, from 0 on.

    Args:
        labels (`Iterable[int]`): The numbers that occur.
        source (`str`): Where they are from, for the message.

    Raises:
        ValueError: If a number is so large that it cannot be that of a class.
    """
    largest = max(labels, default=-1)
    if largest >= _MAX_NUMBERED_CLASSES:
        raise ValueError(
            f"{source} has the label {largest}, which would make {largest + 1:,} classes; up to "
            f"{_MAX_NUMBERED_CLASSES:,} can be numbered."
        )
    return [str(number) for number in range(largest + 1)]


def read_text(file: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark, with any line endings."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8.") from error


def clean_name(name: str) -> str:
    """
    A name as text that can be stored and compared: without space around it, in Unicode's composed form (macOS writes
    names of files decomposed), and with escapes for bytes that are not UTF-8.
    """
    return unicodedata.normalize("NFC", escape_bytes(name).strip())


def escape_bytes(text: str) -> str:
    """Text that can be printed and stored, with `\\xff` for bytes of a file's name that are not UTF-8."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def find_variants(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ in case, space, hyphens and underscores, or Unicode's compatible forms only."""
    groups = defaultdict(set)
    for name in names:
        groups[_fold(name)].add(name)
    return [sorted(group) for group in groups.values() if len(group) > 1]


@lru_cache
def make_label_lookup(class_names: tuple[str, ...]) -> Callable[[str], int | None]:
    """
    A function from the name of a class to its label, `None` if it is none of them.

    A name may be spelt in another case, and with other space and punctuation, as folders and files need; as long as
    that could mean a single class only.
    """
    tables = []
    for simplify in (lambda name: name, _fold, _strip_punctuation):
        table = defaultdict(set)
        for label, name in enumerate(class_names):
            table[simplify(name)].add(label)
        tables.append((simplify, table))

    def find_label(name: str) -> int | None:
        for simplify, table in tables:
            labels = table.get(simplify(name), ())
            if len(labels) == 1:
                return next(iter(labels))
        return None

    return find_label


def describe_unknown(names: Iterable[str], class_names: list[str]) -> str:
    """The names, each with the class that it may be meant for."""
    described = []
    for name in sorted(names):
        similar = difflib.get_close_matches(name, class_names, n=1, cutoff=0.8)
        described.append(f"{name} (is it {similar[0]}?)" if similar else name)
    return ", ".join(described)


def _fold(name: str) -> str:
    text = unicodedata.normalize("NFKC", name).casefold()
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")  # zero-width ones
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", text)).strip()


def _strip_punctuation(name: str) -> str:
    return re.sub(r"\W|_", "", _fold(name))
