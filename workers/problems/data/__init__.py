"""Data sets that a job may name, one file for each format, and the user's data."""

from anon_tune.workers.problems.data.images import Images
from anon_tune.workers.problems.data.read import read_images, read_surface, read_table, read_text
from anon_tune.workers.problems.data.split import Examples, Split
from anon_tune.workers.problems.data.surface import Surface
from anon_tune.workers.problems.data.table import Table
from anon_tune.workers.problems.data.text import Text

__all__ = [
    "Examples",
    "Images",
    "Split",
    "Surface",
    "Table",
    "Text",
    "read_images",
    "read_surface",
    "read_table",
    "read_text",
]
