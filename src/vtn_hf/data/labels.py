"""Which classes a collection has, and which label each of its videos has."""

from collections import defaultdict
from typing import Any

from .class_names import (
    CLASS_NAMES_FILE,
    check_class_names,
    clean_name,
    describe_unknown,
    find_variants,
    make_label_lookup,
    read_class_names,
)
from .listing import Listing, name_some


def choose_class_names(listing: Listing, class_names: list[str] | None) -> tuple[list[str], bool]:
    """
    The classes in the order of their labels, and whether they are given, as an argument or in the folder.

    Raises:
        ValueError: If names cannot be those of classes, are needed, or are spelt in several ways.
    """
    file = listing.root / CLASS_NAMES_FILE
    if class_names is not None:
        names = [clean_name(name) for name in class_names]
        check_class_names(names, "class_names")
        return names, True
    if file.is_file():
        return read_class_names(file), True
    if listing.found is None:
        raise ValueError(
            f"Shards do not tell their classes beforehand: give `class_names`, or write {file}, a name per line."
        )
    if variants := find_variants(listing.found):
        raise ValueError(
            f"{listing.root} has {listing.subject} that are spelt in several ways: {_locate(variants, listing)}. Give "
            f"each class one name; or, if they are meant to be different classes, list them all in {file}."
        )
    return listing.found, False


def _locate(variants: list[list[str]], listing: Listing) -> str:
    """Spellings, with the number of videos of each, and where the first is."""
    where = defaultdict(list)
    for rows in listing.rows.values():
        for row in rows:
            for label in row.labels:
                where[label].append(row.where)
    return "; ".join(
        " and ".join(f"{name!r} ({name_some(where[name]) or 'no videos'})" for name in group) for group in variants
    )


def resolve_labels(listing: Listing, class_names: list[str]):
    """
    Puts the numbers of the classes into the rows.

    Raises:
        ValueError: If a row is of a class that is none of them.
    """
    find_label = make_label_lookup(tuple(class_names))
    unknown: dict[str | int, str] = {}
    spellings: dict[int, set[str]] = defaultdict(set)
    for rows in listing.rows.values():
        for row in rows:
            for label in row.labels:
                number = label if isinstance(label, int) else find_label(label)
                if number is None or not 0 <= number < len(class_names):
                    unknown.setdefault(label, row.where)
                spellings[number].add(str(label))
            numbers = (label if isinstance(label, int) else find_label(label) for label in row.labels)
            distinct: dict[Any, None] = dict.fromkeys(numbers)
            row.label = sorted(distinct) if isinstance(row.label, list) else next(iter(distinct))
    if unknown:
        _refuse_unknown(listing, class_names, unknown)
    listing.notes += [
        f"{', '.join(map(repr, sorted(each)))} are read as the one class {class_names[number]!r}."
        for number, each in sorted(spellings.items())
        if len(each) > 1
    ]


def _refuse_unknown(listing: Listing, class_names: list[str], unknown: dict[str | int, str]):
    root, number, where = listing.root, len(class_names), next(iter(unknown.values()))
    numbers = [label for label in unknown if isinstance(label, int)]
    if numbers:
        found = f"labels up to {max(numbers)}" if max(numbers) >= number else f"the label {min(numbers)}"
        raise ValueError(
            f"{root} has {found}, but there are only {number} classes, with the labels 0 to {number - 1} "
            f"(the first at {where})."
        )
    raise ValueError(
        f"{root} has {listing.subject} that are none of the {number} classes: "
        f"{describe_unknown(map(str, unknown), class_names)} (the first at {where}). "
        f"The classes are {name_some(class_names)}."
    )
