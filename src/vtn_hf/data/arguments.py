"""The arguments by which training, extraction and evaluation say which videos to read, and how."""

from dataclasses import dataclass, field

from .collection import Collection, read_collection


@dataclass(kw_only=True)
class CollectionArguments:
    """Which videos to read."""

    data_dir: str | None = field(
        default=None,
        metadata={"help": "folder of videos: in a layout of vtn_hf.data.layouts, such as {train,val}/CLASS/VIDEO"},
    )
    scan_table: str | None = field(
        default=None,
        metadata={"help": "table of vtn scan: videos that are bad by it are left out, counted and listed"},
    )
    val_share: float | None = field(
        default=None,
        metadata={"help": "where there is no val, about which share of each class to hold out for it; 0 for none"},
    )
    val_seed: int = field(default=0, metadata={"help": "another one holds other videos out"})
    val_group: str | None = field(
        default=None,
        metadata={
            "help": "what val_share keeps together: a column of the csv files, or a regular expression for a part of "
            "the videos' names, such as 'person\\d+'"
        },
    )

    def read(self, class_names: list[str] | None = None, streaming: bool = False) -> Collection:
        """Reads it, with [`read_collection`]."""
        return read_collection(
            self.data_dir,
            class_names,
            scan_table=self.scan_table,
            val_share=self.val_share,
            val_seed=self.val_seed,
            val_group=self.val_group,
            streaming=streaming,
        )
