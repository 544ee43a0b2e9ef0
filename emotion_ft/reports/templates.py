"""The Jinja templates of `hub_cards/`."""

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from ..shipped import shipped

TEMPLATES = shipped("hub_cards")


def template(name: str) -> Template:
    """A template by its path in `hub_cards/`; undefined names raise errors, and HTML is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)
