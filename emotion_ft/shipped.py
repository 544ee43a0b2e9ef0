"""What ships with the package: recipes and card templates, beside it in a checkout and inside it in a wheel."""

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
    raise FileNotFoundError(f"emotion_ft is installed without its folder '{name}': install it again with pip")
