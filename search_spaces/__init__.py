"""Search spaces: one commented YAML per architecture family and per baseline, and their loader."""

from anon_tune.search_spaces.loader import Choice, Range, Space, load_space, space_names

__all__ = ["Choice", "Range", "Space", "load_space", "space_names"]
