"""
Files that commands write: named after what they are made from, never in the place of an input, and whole or not there.

    check_outputs([target], inputs=[source])        # before the work begins: refuses what would destroy something
    with writing(target) as unfinished:             # a path beside the target, which gets its name when it is whole
        save(unfinished)
"""

import contextlib
import glob
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit


# Longer file names are refused by most file systems; an unfinished file has a part of its target's name.
_MAX_NAME_BYTES = 180


def check_outputs(outputs: Iterable[str | Path], inputs: Iterable[str | Path] = (), overwrite: bool = False):
    """
    Makes sure that writing some files destroys nothing.

    An output is refused if it is an input, or lies inside an input folder, whatever it is called: through links, hard
    links, `..`, and names that the file system takes for the same.

    Args:
        outputs (`Iterable[str | Path]`): Files and folders to be written.
        inputs (`Iterable[str | Path]`, *optional*): Files and folders that are read; what is not on disk, as a URL, is
            left out.
        overwrite (`bool`, *optional*, defaults to `False`): Whether outputs may be there already.

    Raises:
        ValueError: If an output is an input or lies inside one, would lie in a file, or is another output as well.
        FileExistsError: If an output is there already (a folder: with something in it).
    """
    outputs = list(outputs)
    read = {identity: path for path in inputs if (identity := _identify(path)) is not None}
    for output in outputs:
        real = Path(output).resolve()
        for place in (real, *real.parents):
            source = read.get(_identify(place))
            if source is not None:
                relation = "is the input" if place == real else "lies inside the input"
                raise ValueError(f"The output {output} {relation} {source}; inputs are never written to.")
        file = next((place for place in real.parents if place.exists() and not place.is_dir()), None)
        if file is not None:
            raise ValueError(f"{output} would lie in {file}, which is a file and not a folder.")
        if not overwrite and _is_taken(real):
            raise FileExistsError(f"{output} exists already. Choose another output, or overwrite it (--overwrite).")
    _check_distinct(outputs)


def name_outputs(sources: Sequence[str | Path], suffix: str, roots: Iterable[str | Path] = ()) -> list[Path]:
    """
    Names of the files that are made of some sources, below a folder that is yet to be chosen.

    A name keeps its source's path below the folder that all sources and `roots` have in common, with another suffix:
    of `a/x.mov` and `b/x.mov` are made `a/x.mp4` and `b/x.mp4`. Where two would be the same, the source's own suffix
    stays (`x.mov.mp4`), and where that does not tell them apart either, they are numbered.

    Args:
        sources (`Sequence[str | Path]`): Files and URLs.
        suffix (`str`): Such as `".mp4"`.
        roots (`Iterable[str | Path]`, *optional*): The folders that were searched for the sources.

    Returns:
        `list[Path]`: One relative path for each source, all different.
    """
    parts = [_split(source) for source in sources]
    folders = [each[:-1] for each in parts] + [_split(root) for root in roots]
    num_common = len(os.path.commonprefix(folders))
    paths = [Path(*each[num_common:]) for each in parts]
    num_takers = Counter(path.with_suffix(suffix) for path in paths)
    names, taken = [], set()
    for path in paths:
        name = path.with_suffix(suffix)
        if num_takers[name] > 1 and path.suffix != suffix:
            name = path.with_name(path.name + suffix)
        first, number = name, 1
        while name in taken:
            number += 1
            name = first.with_name(f"{first.stem}.{number}{suffix}")
        taken.add(name)
        names.append(name)
    return names


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """
    Writes a file that appears under its name when it is whole, and not at all if it fails.

    Args:
        path (`str` or `Path`): The file; its folder is made. What is there already is replaced in the end: call
            [`check_outputs`] first.

    Yields:
        `Path`: Where to write: in the same folder, with the ending `.part`, so that nobody takes it for the file.

    Raises:
        ValueError: If something that is not a file, such as a folder or a device, has this name.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise ValueError(f"{path} is not a file that could be written anew.")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _make_unfinished(target)
    try:
        yield unfinished
        _move(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_folder(path: str | Path) -> Iterator[Path]:
    """
    Writes a folder of files that appear when all of them are whole, and not at all if that fails.

    Args:
        path (`str` or `Path`): The folder. Files that are in it already stay, but for those of the same names.

    Yields:
        `Path`: An empty folder to write into, beside the other.

    Raises:
        ValueError: If something that is not a folder has this name.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_dir():
        raise ValueError(f"{path} is not a folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _make_unfinished(target)
    unfinished.mkdir()
    try:
        yield unfinished
        for file in sorted(file for file in unfinished.rglob("*") if not file.is_dir()):
            _move(file, target / file.relative_to(unfinished))
        target.mkdir(exist_ok=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_unfinished(path: str | Path):
    """Removes what killed processes left of [`writing`] or [`writing_folder`] a path, which nobody may be writing."""
    target = Path(path).resolve()
    for unfinished in target.parent.glob(f"{glob.escape(_begin_name(target))}.*.part"):
        shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink(missing_ok=True)


def _make_unfinished(target: Path) -> Path:
    return target.with_name(f"{_begin_name(target)}.{secrets.token_hex(4)}.part")


def _begin_name(target: Path) -> str:
    return "." + os.fsencode(target.name)[:_MAX_NAME_BYTES].decode(errors="ignore")


def _move(file: Path, target: Path):
    """Gives a file its name when its content, and not only its name, would outlive a loss of power."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "rb+") as content:
        os.fsync(content.fileno())
    os.replace(file, target)
    with contextlib.suppress(OSError):  # not every system lets a folder be opened
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _identify(path: str | Path) -> tuple[int, int] | None:
    """What all names of a file or folder have in common; `None` if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _is_taken(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _check_distinct(outputs: list[str | Path]):
    first: dict[str, Path] = {}
    for output in outputs:
        real = Path(output).resolve()
        other = first.setdefault(str(real).casefold(), real)
        if other is not real and (other == real or _ignores_case(real.parent)):
            raise ValueError(f"{other} and {output} would be the same file.")


def _ignores_case(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    with TemporaryDirectory(prefix="case.", dir=folder) as name:
        return Path(name).with_name(Path(name).name.upper()).exists()


def _split(source: str | Path) -> tuple[str, ...]:
    """The parts of an absolute path without its root, or of a URL: its host and its path."""
    if "://" not in str(source):
        return Path(os.path.abspath(source)).parts[1:]
    url = urlsplit(str(source))
    parts = [url.netloc, *url.path.split("/")]
    return tuple(part.replace("\\", "_").replace(":", "_") for part in parts if part not in ("", ".", "..")) or ("_",)
