"""Settings: the only reader of the environment.

Each field is one environment variable; the README lists them, and a test holds the two together. Pydantic reads them
without pydantic-settings, which every process would have to load too.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import platformdirs
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from anon_tune.errors import DependencyError, InputError

__all__ = ["Settings"]

# The longest path a Unix socket of Ray leaves for RAY_TMPDIR: 107 bytes less Ray's own names.
_RAY_TEMP_LENGTH = 39


def _variable(field: str) -> str:
    return f"ANON_TUNE_{field.upper()}"


_OF_URLS = str.maketrans({character: quote(character) for character in "%?#"})


def _sqlite(file: Path) -> str:
    return f"sqlite:///{str(file).translate(_OF_URLS)}"


def _of_user(folder: Path) -> Path:
    """A folder of which a file of variables has said "~/anon_tune", which a shell would have replaced."""
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise ValueError(f"a folder of somebody who is not known ({error})") from None


_Folder = Annotated[Path, AfterValidator(_of_user)]


class Settings(BaseModel):
    """Folders and servers that anon_tune uses."""

    model_config = ConfigDict(alias_generator=_variable, validate_by_name=True, frozen=True)

    home: _Folder = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("anon_tune")),
        description="Folder of the ledger, checkpoints, exports, logs and MLflow's default store.",
    )
    data: _Folder | None = Field(
        default=None,
        description="Folder in which a job's data folders are looked for, besides the job file's.",
    )
    database_url: str | None = Field(
        default=None, description="SQLAlchemy URL of the ledger. Default: sqlite in the home folder."
    )
    mlflow_tracking_uri: str | None = Field(
        default=None,
        validation_alias="MLFLOW_TRACKING_URI",
        description="MLflow tracking server or store. Default: sqlite in the home folder.",
    )
    ray_address: str | None = Field(
        default=None,
        validation_alias="RAY_ADDRESS",
        description="A Ray cluster to run on. Default: one of the driver's own on this machine.",
    )

    server: str | None = Field(
        default=None,
        description="Address of a service; commands then act on its jobs. Default: the ledger here.",
    )
    token: SecretStr | None = Field(default=None, description="The token that the service is asked with.")
    allowed_modules: str = Field(
        default="",
        description="Modules, with commas between, of which jobs that come over the network may name functions.",
    )

    allow_code: bool = Field(
        default=False,
        description="Whether a service takes jobs that bring code, from tokens that may send it.",
    )
    keep_ready: bool = Field(
        default=False,
        description="Whether a waiting worker keeps Ray and a loaded process running for the next job.",
    )

    @classmethod
    def from_environment(cls) -> Settings:
        """The settings that the environment's variables make; an empty one is as none.

        Raises:
            InputError: A variable has a value that makes no sense there.
        """
        variables = {name: value for name, value in os.environ.items() if value.strip()}
        try:
            return cls.model_validate(variables, by_name=False)
        except ValidationError as error:
            problems = [
                f"{problem['loc'][0]}: {problem['msg'].removeprefix('Value error, ')}"
                for problem in error.errors()
            ]
            raise InputError(f"{'; '.join(problems)}. Set it anew, or unset it for its default.") from None

    @property
    def modules(self) -> tuple[str, ...]:
        """`allowed_modules` as a tuple."""
        return tuple(name.strip() for name in self.allowed_modules.split(",") if name.strip())

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy URL of the ledger."""
        return self.database_url or _sqlite(self.home.absolute() / "ledger.db")

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking URI."""
        return self.mlflow_tracking_uri or _sqlite(self.home.absolute() / "mlflow.db")

    @property
    def artifacts(self) -> Path:
        """Folder of MLflow's artifacts when its store is the default one."""
        return self.home.absolute() / "mlflow-artifacts"

    def make_home(self) -> None:
        """Make the home folder where it is missing.

        Raises:
            DependencyError: It cannot be, or is no folder.
        """
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DependencyError(
                f"ANON_TUNE_HOME={str(self.home)!r} cannot be used as a folder ({error.strerror}). "
                "Set it to one that can be made and written to."
            ) from error

    def job_folder(self, job_id: str) -> Path:
        """Folder of a job's files: log, exports."""
        return self.home.absolute() / "jobs" / job_id

    def checkpoints(self, job_id: str) -> Path:
        """Folder of the checkpoints of a job's unfinished trials; gone when the job has ended."""
        return self.job_folder(job_id) / "checkpoints"

    def ray_temp(self, name: str) -> Path:
        """A short folder, in ASCII, for Ray's sockets and logs: under the home where it fits, else the system's."""
        inside = self.home.absolute() / "ray" / name
        fits = str(inside).isascii() and len(str(inside)) <= _RAY_TEMP_LENGTH
        return inside if fits else self.ray_temps_elsewhere / name

    def ray_temps(self) -> list[Path]:
        """Those folders that are there."""
        places = (self.home.absolute() / "ray", self.ray_temps_elsewhere)
        return [path for place in places for path in place.glob("*") if path.is_dir()]

    @property
    def ray_temps_elsewhere(self) -> Path:
        """Parent of the folders that do not fit under the home: of this user alone."""
        return Path(tempfile.gettempdir()) / f"at-{os.getuid()}"
