"""Recognises in which layout a collection is."""

from pathlib import Path

from .activitynet import find_annotations, list_activitynet
from .class_folders import list_class_folders
from .listing import Listing
from .shards import find_shards, list_shards
from .video_lists import has_annotations, has_lists, list_csv, list_cvdfoundation


def list_videos(root: Path, group_column: str | None = None) -> Listing:
    """
    Lists the videos of a collection in whichever layout it has.

    | what is in `root` | layout | read by |
    | --- | --- | --- |
    | `annotations/{split}.csv` with a column `youtube_id` | cvdfoundation's | [`list_cvdfoundation`] |
    | `{split}.csv` | PySlowFast's, AVA's, or with a header of `video` and `label` or `labels` | [`list_csv`] |
    | `*.json` with a `database` | ActivityNet's | [`list_activitynet`] |
    | `{split}*.tar` or `{split}/*.tar` | WebDataset | [`list_shards`] |
    | `{split}/{class}/{video}` or `{class}/{video}` | class folders | [`list_class_folders`] |

    The splits are called `train`, `val` and `test`, in any case and spelt in any of the usual ways
    ([`vtn_hf.data.splits.SPLIT_NAMES`]); others keep their names.

    Args:
        root (`Path`): The folder.
        group_column (`str`, *optional*): A column of csv files, which becomes `Row.group` where there is one.

    Raises:
        FileNotFoundError: If `root` is no folder or holds no videos.
        ValueError: If something cannot be understood.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder.")
    if has_annotations(root):
        return list_cvdfoundation(root, group_column)
    if has_lists(root):
        return list_csv(root, group_column)
    if find_annotations(root):
        return list_activitynet(root)
    if find_shards(root):
        return list_shards(root)
    return list_class_folders(root)
