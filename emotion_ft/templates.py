"""Where the Jinja templates of `hub_cards/` lie: in a checkout beside the package, in a wheel inside it."""

from pathlib import Path

TEMPLATES = next(
    folder / "hub_cards"
    for folder in (Path(__file__).parents[1], Path(__file__).parent)
    if (folder / "hub_cards").is_dir()
)
