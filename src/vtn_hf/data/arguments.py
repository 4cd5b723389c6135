"""The arguments by which training, extraction and evaluation say which videos to read, and how."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .collection import Collection


@dataclass(kw_only=True)
class CollectionArguments:
    """Which videos to read."""

    data_dir: str | None = field(
        default=None,
        metadata={"help": "folder of videos: in a layout of vtn_hf.data.layouts, such as {train,val}/CLASS/VIDEO"},
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "instead of data_dir: a data set on the Hub, or a folder, with a column of the type Video"},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "which configuration of dataset_name"})
    streaming: bool = field(
        default=False,
        metadata={"help": "download no more of dataset_name than it takes, and train on a stream if need be"},
    )
    scan_table: str | None = field(
        default=None,
        metadata={"help": "table of vtn scan: bad videos are left out, counted and listed"},
    )
    val_share: float | None = field(
        default=None,
        metadata={"help": "about which share of each class is for val: held out where there is none; 0 for none"},
    )
    val_seed: int = field(default=0, metadata={"help": "another one holds other videos out"})
    val_group: str | None = field(
        default=None,
        metadata={
            "help": "what is not torn apart by that: a column of the csv files, or a regular expression for a part of "
            "the videos' names, such as 'person\\d+'"
        },
    )

    def read(
        self,
        class_names: list[str] | None = None,
        streams_shards: bool = False,
        splits: Sequence[str] = ("train", "val"),
    ) -> "Collection":
        """
        Reads it, with [`read_collection`] or [`read_dataset`].

        Args:
            class_names (`list[str]`, *optional*): All classes in the order of their labels.
            streams_shards (`bool`, *optional*, defaults to `False`): Whether to stream tar files to train on.
            splits (`Sequence[str]`, *optional*, defaults to `("train", "val")`): Those that are wanted of `streaming`.
        """
        # All commands have their help from here; most do without datasets.
        from .collection import read_collection
        from .hub_videos import read_dataset

        if (self.data_dir is None) == (self.dataset_name is None):
            raise ValueError("Give one of --data_dir and --dataset_name.")
        held_out = {"val_share": self.val_share, "val_seed": self.val_seed, "val_group": self.val_group}
        if self.dataset_name is not None:
            if self.scan_table is not None:
                raise ValueError("--scan_table is about the files of --data_dir; leave it out.")
            streamed = {"streaming": self.streaming, "splits": splits}
            return read_dataset(self.dataset_name, self.dataset_config_name, class_names, **held_out, **streamed)
        if self.streaming:
            raise ValueError("--streaming is for --dataset_name; leave it out (tar files in --data_dir need none).")
        return read_collection(
            self.data_dir, class_names, scan_table=self.scan_table, **held_out, streaming=streams_shards
        )
