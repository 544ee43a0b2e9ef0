"""What ships with the package: recipes and card templates, beside it in a checkout and inside it in a wheel."""

import os
from pathlib import Path

PACKAGE = Path(__file__).parent


def shipped(name: str) -> Path:
    """The folder called `name`: "recipes" or "hub_cards".

    Raises:
        FileNotFoundError: when the installation lacks it.
    """
    for folder in (PACKAGE / name, PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"emotion_ft is installed without its folder '{name}': install it again with pip.")


def configurations() -> dict[str, Path]:
    """The shipped configurations and collections, by their bare names: `deam`, `toy`, ..."""
    return {path.stem: path for path in sorted((shipped("recipes") / "configs").glob("*.yaml"))}


def configuration(name: str | os.PathLike) -> Path:
    """The file called `name`, or else the shipped one with that bare name."""
    path = Path(name)
    return path if os.path.exists(path) else configurations().get(os.fspath(name), path)
