"""Search spaces: one commented YAML file per architecture family and per baseline, and their loader."""

from anon_tune.search_spaces.domains import Choice, Range, Value
from anon_tune.search_spaces.loader import (
    COORDINATES,
    DELAYS,
    FIXABLE,
    Space,
    load_space,
    new_space,
    space_names,
    space_text,
)

__all__ = [
    "COORDINATES",
    "DELAYS",
    "FIXABLE",
    "Choice",
    "Range",
    "Space",
    "Value",
    "load_space",
    "new_space",
    "space_names",
    "space_text",
]
