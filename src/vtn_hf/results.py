"""Results that are written as they are made, so that a run that was stopped goes on where it was."""

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from .outputs import writing


# In an output folder.
_SETTINGS = "settings.json"
_LOCK = "_lock"  # pushes to the Hub pass over `_*`


class ResultFile:
    """
    A file of records, one line for each, that grows as they come.

    By its ending it is `.jsonl`, a JSON object per line; `.json`, a list of the same, which is complete whenever it is
    looked at; or `.csv`. It is there from the first record on, or when the work ends without any. A record that a
    crash cut off is removed when the file is opened again.

    Args:
        path (`Path`): A new file, or one to add to.
        columns (`Sequence[str]`): Of a CSV file; what else a record holds is left out.

    Attributes:
        is_table (`bool`): Whether it is a CSV file, whose values are numbers and texts.
        records (`list[dict]`): Those that were there before; from a CSV file all values are texts.

    Raises:
        ValueError: If the ending is another one.

    Example:

    ```python
    with ResultFile(Path("scores.jsonl"), ["video", "score"]) as file:
        file.append({"video": "a.mp4", "score": 0.5})
    ```
    """

    SUFFIXES = (".jsonl", ".json", ".csv")

    def __init__(self, path: Path, columns: Sequence[str]):
        self._format = _choose_format(path, columns)
        self.is_table = path.suffix == ".csv"
        content = _decode(path.read_bytes()) if path.exists() else ""
        self.records = self._format.read(content)
        self._is_empty = not self.records
        self._path = path
        self._file: io.FileIO | None = None
        if path.exists():
            self._open(content)

    def append(self, record: dict):
        """Adds a record; it is in the file, whatever happens to the process, when this returns."""
        if self._file is None:
            self._open()
        end = self._file.seek(-len(self._format.TAIL), io.SEEK_END)
        self._write(self._format.make_line(record, self._is_empty) + self._format.TAIL, end)
        self._is_empty = False

    def _open(self, content: str | None = None):
        whole = self._format.make_whole(self.records)
        if whole != content:
            with writing(self._path) as unfinished:
                unfinished.write_bytes(_encode(whole))
        self._file = open(self._path, "r+b", buffering=0)  # noqa: SIM115 - closed by `__exit__`

    def _write(self, text: str, end: int):
        left = _encode(text)
        try:
            while left:
                left = left[self._file.write(left) :]
        except BaseException:  # a full disk: what was there stays readable
            with contextlib.suppress(OSError):
                self._file.truncate(end)
                self._file.seek(end)
                self._file.write(_encode(self._format.TAIL))
            raise

    def __enter__(self) -> "ResultFile":
        return self

    def __exit__(self, error_type: type | None, *error):
        if self._file is None and error_type is None:
            self._open()
        if self._file is not None:
            self._file.close()


# Names of files may be no text at all; what they are then stays.
def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


class _JsonLines:
    HEAD, TAIL = "", ""

    def __init__(self, columns: Sequence[str]):
        pass

    def make_line(self, record: dict, is_first: bool) -> str:
        return json.dumps(record) + "\n"

    def make_whole(self, records: list[dict]) -> str:
        lines = [self.make_line(record, number == 0) for number, record in enumerate(records)]
        return self.HEAD + "".join(lines) + self.TAIL

    def read(self, content: str) -> list[dict]:
        records = []
        for line in content.removeprefix(self.HEAD).split("\n"):
            try:
                records.append(json.loads(line.removesuffix(",")))
            except json.JSONDecodeError:
                break
        return records


class _JsonList(_JsonLines):
    HEAD, TAIL = "[\n", "\n]\n"

    def make_line(self, record: dict, is_first: bool) -> str:
        return ("" if is_first else ",\n") + json.dumps(record)


class _Csv(_JsonLines):
    def __init__(self, columns: Sequence[str]):
        self.columns = list(columns)
        self.HEAD = self._join(self.columns)

    def make_line(self, record: dict, is_first: bool) -> str:
        return self._join([record.get(column) for column in self.columns])

    def read(self, content: str) -> list[dict]:
        whole_lines = content[: content.rfind("\n") + 1].removeprefix(self.HEAD)
        rows = csv.reader(io.StringIO(whole_lines, newline=""))
        return [dict(zip(self.columns, row, strict=True)) for row in rows if len(row) == len(self.columns)]

    @staticmethod
    def _join(values: list) -> str:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        return line.getvalue()


def _choose_format(path: Path, columns: Sequence[str]) -> _JsonLines:
    if path.suffix not in ResultFile.SUFFIXES:
        raise ValueError(f"{path} must end in {', '.join(ResultFile.SUFFIXES)}.")
    return {".jsonl": _JsonLines, ".json": _JsonList, ".csv": _Csv}[path.suffix](columns)


def read_records(path: Path, columns: Sequence[str]) -> list[dict]:
    """The whole records of a [`ResultFile`], which is left as it is; none if there is no such file."""
    return _choose_format(path, columns).read(_decode(path.read_bytes())) if path.exists() else []


def format_records(path: Path, columns: Sequence[str], records: list[dict]) -> bytes:
    """The content of a [`ResultFile`] of this name with these records."""
    return _encode(_choose_format(path, columns).make_whole(records))


def begin_or_go_on(output: Path, settings: dict, overwrite: bool = False) -> bool:
    """
    Remembers the settings that an output is made with, and compares if it is there already.

    Args:
        output (`Path`): A file; or a folder that is there, in which they become `settings.json`.
        settings (`dict`): What the results depend on, as JSON can hold it.
        overwrite (`bool`, *optional*, defaults to `False`): Begin anew; what is there is for the caller to replace.

    Returns:
        `bool`: Whether the output is there and was made with the same settings.

    Raises:
        ValueError: If it was made with other settings; says which.
        FileExistsError: If it was made by somebody else.
    """
    path = output / _SETTINGS if output.is_dir() else output.with_name(f".{output.name}.settings")
    settings = json.loads(json.dumps(settings))
    if not overwrite and _is_begun(output):
        if not path.is_file():
            raise FileExistsError(f"{output} exists already. Choose another output, or overwrite it (--overwrite).")
        earlier = json.loads(path.read_text(encoding="utf-8"))
        differences = [
            f"{name} {earlier.get(name)!r}, not {settings.get(name)!r}"
            for name in dict.fromkeys([*earlier, *settings])
            if earlier.get(name) != settings.get(name)
        ]
        if differences:
            made = "; ".join(differences)
            raise ValueError(f"{output} was made with {made}. Choose another output, or overwrite it (--overwrite).")
        return True
    with writing(path) as unfinished:
        unfinished.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return False


def _is_begun(output: Path) -> bool:
    """Whether there is more than what a run leaves that was stopped before it had made anything."""
    if output.is_dir():
        return any(path.name not in (_SETTINGS, _LOCK) for path in output.iterdir())
    return output.exists()


@contextlib.contextmanager
def one_run(output: Path) -> Iterator[None]:
    """
    Keeps a second process from the same output; a process that dies, however it does, lets go of it.

    Args:
        output (`Path`): A file; or a folder that is there.

    Raises:
        BlockingIOError: If another process is at it.
    """
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output / _LOCK if output.is_dir() else output.with_name(f".{output.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"Another process is writing {output}; wait for it, or choose another output.") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()
