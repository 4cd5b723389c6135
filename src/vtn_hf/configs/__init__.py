"""Recipes of training, `vtn train --recipe NAME`, and configurations of models, `--model_config NAME`."""

from pathlib import Path


SUFFIXES = {"recipes": (".yaml", ".yml"), "models": (".json",)}


def find_config(kind: str, name: str) -> Path:
    """
    Finds one of this package, or a file of one's own.

    Args:
        kind (`str`): `"recipes"` or `"models"`.
        name (`str`): Such as `"kinetics400"` or `"r50_vtn"`, or the path of a file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is neither a name nor the path of a file of this kind.
    """
    if name.endswith(SUFFIXES[kind]):
        if not Path(name).is_file():
            raise FileNotFoundError(f"{name}: no such file.")
        return Path(name)
    packed = {path.stem: path for path in sorted(Path(__file__).parent.joinpath(kind).iterdir())}
    if name not in packed:
        raise ValueError(f"{name!r} is none of {', '.join(packed)}, and no {' or '.join(SUFFIXES[kind])} file.")
    return packed[name]
