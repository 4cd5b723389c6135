"""Results of one thing that several processes work on, any number of them, and another number after a stop."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from accelerate import PartialState

from .outputs import writing
from .results import ResultFile, format_records, read_records


class SharedResults:
    """
    A file of records, one for each item, that several processes add to: each writes what it makes at once, the main
    process to the file itself, the others beside it. In the end all are in the file, in the order of the items.

        results = SharedResults(path, columns, "video", PartialState())
        for video in results.begin(videos, is_done=lambda record: True):
            results.append(classify(video))
        results.finish()

    All processes must call [`begin`] and [`finish`], which wait for each other. Whatever is killed, and whenever,
    loses what it was at, and no record; the next run shares what is left.

    Args:
        path (`Path`): As in [`ResultFile`]; a file system that all processes see.
        columns (`Sequence[str]`): As there.
        key (`str`): The column that names the item.
        state (`PartialState`): The processes.

    Attributes:
        num_left (`int`): Items that all processes together had to do when they began.
    """

    def __init__(self, path: Path, columns: Sequence[str], key: str, state: PartialState):
        self._path, self._columns, self._key, self._state = path, columns, key, state
        self._items: list[str] = []
        self.num_left = 0
        self._file: ResultFile | None = None

    def begin(self, items: Iterable[str], is_done: Callable[[dict], bool]) -> list[str]:
        """The items that this process is to do, of those that have no record or one that is not done."""
        self._items = list(items)
        records = self.read()
        self._state.wait_for_everyone()  # nobody writes while another one still reads
        to_do = [item for item in self._items if item not in records or not is_done(records[item])]
        self.num_left, index = len(to_do), self._state.process_index
        self._file = ResultFile(self._path if index == 0 else self._name_part(str(index)), self._columns)
        return to_do[index :: self._state.num_processes]

    def read(self) -> dict[str, dict]:
        """What all processes have written so far, by item; the last record of each."""
        files = [self._path, *self._list_parts()]
        return {record[self._key]: record for file in files for record in read_records(file, self._columns)}

    def append(self, record: dict):
        """Adds the record of an item; it is on its way to the disk when this returns."""
        self._file.append(record)

    def finish(self) -> dict[str, dict]:
        """Makes one file of all records, those of other items behind; returns them by item."""
        self.close()
        self._state.wait_for_everyone()
        records = self.read()
        self._state.wait_for_everyone()
        if self._state.is_main_process:
            ordered = [records[item] for item in self._items if item in records]
            ordered += [record for item, record in records.items() if item not in {*self._items}]
            with writing(self._path) as unfinished:
                unfinished.write_bytes(format_records(self._path, self._columns, ordered))
            self.clear_parts()
        self._state.wait_for_everyone()
        return records

    def close(self):
        """Closes the file of this process; what is in it stays."""
        if self._file is not None:
            self._file.__exit__(None)
        self._file = None

    def clear_parts(self):
        """Deletes what the processes have written beside the file."""
        for part in self._list_parts():
            part.unlink(missing_ok=True)

    def _name_part(self, index: str) -> Path:
        return self._path.with_name(f".{self._path.stem}.part-{index}{self._path.suffix}")

    def _list_parts(self) -> list[Path]:
        names = self._name_part("*").name
        return sorted(self._path.parent.glob(names)) if self._path.parent.is_dir() else []
