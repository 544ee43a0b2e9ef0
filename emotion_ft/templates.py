"""The Jinja templates of `hub_cards/`: in a checkout they lie beside the package, in a wheel inside it."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

TEMPLATES = next(
    folder / "hub_cards"
    for folder in (Path(__file__).parents[1], Path(__file__).parent)
    if (folder / "hub_cards").is_dir()
)


def template(name: str) -> Template:
    """A template by its path in `hub_cards/`; a name that it is not given is an error, and HTML is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)
