"""The job file: its sections, the job as a whole, and the sources that jobs are read from."""

from anon_tune.spec.job import SMALLEST_LAG, JobSpec, spaces_of
from anon_tune.spec.limits import too_many
from anon_tune.spec.places import space_files
from anon_tune.spec.reading import (
    JobFile,
    apply_overrides,
    extended,
    load_spec,
    parse_spec,
    read_job_file,
    remote_spec,
    stored_spec,
)
from anon_tune.spec.sections import (
    LONGEST_SECONDS,
    MOST_SEEDS,
    SHORTEST_SECONDS,
    Budget,
    Objective,
    Search,
    Training,
    Unit,
    seconds,
)

__all__ = [
    "LONGEST_SECONDS",
    "MOST_SEEDS",
    "SHORTEST_SECONDS",
    "SMALLEST_LAG",
    "Budget",
    "JobFile",
    "JobSpec",
    "Objective",
    "Search",
    "Training",
    "Unit",
    "apply_overrides",
    "extended",
    "load_spec",
    "parse_spec",
    "read_job_file",
    "remote_spec",
    "seconds",
    "space_files",
    "spaces_of",
    "stored_spec",
    "too_many",
]
