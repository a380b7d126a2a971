"""Data sets that a job may name; each file reads one format."""

from anon_tune.workers.data.images import Images
from anon_tune.workers.data.registry import READERS, read_images
from anon_tune.workers.data.split import Split

__all__ = ["READERS", "Images", "Split", "read_images"]
