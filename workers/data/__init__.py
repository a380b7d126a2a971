"""Data sets that a job may name, one file for each format, and data of the user."""

from anon_tune.workers.data.images import Images
from anon_tune.workers.data.read import read_images, read_surface, read_table, read_text
from anon_tune.workers.data.split import Examples, Split
from anon_tune.workers.data.surface import Surface
from anon_tune.workers.data.table import Table
from anon_tune.workers.data.text import Text

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
