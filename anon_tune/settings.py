"""Settings from environment variables; no other module reads the environment.

Each field is one environment variable. A test compares the fields with the table in docs/commands.md. Plain pydantic
validates them, because every process would have to load pydantic-settings.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)

from anon_tune.errors import DependencyError, InputError

__all__ = ["Settings"]

# The longest value of RAY_TMPDIR: Unix sockets allow 107 bytes, less Ray's own names.
_RAY_TEMP_LENGTH = 39


def _variable(field: str) -> str:
    return f"ANON_TUNE_{field.upper()}"


_OF_URLS = str.maketrans({character: quote(character) for character in "%?#"})


def _sqlite(file: Path) -> str:
    return f"sqlite:///{str(file).translate(_OF_URLS)}"


def _of_user(folder: Path) -> Path:
    """Return a folder with "~" expanded, which no shell has done for a value from an env file."""
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise ValueError(f"the home folder of an unknown user ({error})") from None


def _is_http_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number
        return False


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
        description="Folder to search for a job's data folders, besides the job file's folder.",
    )
    database_url: str | None = Field(
        default=None,
        repr=False,  # it may hold a password
        description="SQLAlchemy URL of the ledger. Default: sqlite in the home folder.",
    )
    mlflow_tracking_uri: str | None = Field(
        default=None,
        repr=False,
        validation_alias="MLFLOW_TRACKING_URI",
        description="MLflow tracking server or store. Default: sqlite in the home folder.",
    )
    ray_address: str | None = Field(
        default=None,
        validation_alias="RAY_ADDRESS",
        description="Address of a Ray cluster. Default: the driver starts Ray on this machine.",
    )

    server: str | None = Field(
        default=None,
        description="Address of a service on whose jobs commands act. Default: the local ledger.",
    )
    token: SecretStr | None = Field(default=None, description="Token for requests to the service.")
    mlflow_url: str | None = Field(
        default=None,
        description="Address of MLflow's pages, for links, if MLFLOW_TRACKING_URI names a database.",
    )
    url: str | None = Field(
        default=None,
        description="Address of the service's pages, for the links that MLflow shows. Default: no links.",
    )
    webhook: str | None = Field(
        default=None,
        repr=False,  # the address of a chat's webhook is its secret
        description="Addresses, separated by spaces, that get a POST when a job has ended, failed or was paused.",
    )
    webhook_secret: SecretStr | None = Field(
        default=None, description="Key that signs these requests (HMAC-SHA256). Default: no signature."
    )
    allowed_modules: str = Field(
        default="",
        description="Comma-separated modules whose functions jobs from the network may name.",
    )
    allow_code: bool = Field(
        default=False,
        description="Whether the service accepts code with a job, from tokens with that permission.",
    )
    code_quota: int = Field(
        default=1024,
        ge=0,
        description="Most MiB of code that the service stores, for all jobs together.",
    )
    keep_ready: bool = Field(
        default=False,
        description="Whether a waiting worker keeps Ray and a loaded process running for the next job.",
    )

    @field_validator("webhook")
    @classmethod
    def _check_webhooks(cls, addresses: str | None) -> str | None:
        for number, address in enumerate((addresses or "").split(), 1):
            if not _is_http_address(address):  # not shown: it may hold a secret
                raise ValueError(f"address {number} is not one such as https://example.org/hooks/1")
        return addresses

    @classmethod
    def from_environment(cls) -> Settings:
        """Return the settings of the environment variables; an empty variable counts as unset.

        Raises:
            InputError: A variable has an invalid value.
        """
        variables = {name: value for name, value in os.environ.items() if value.strip()}
        try:
            return cls.model_validate(variables, by_name=False)
        except ValidationError as error:
            problems = [
                f"{problem['loc'][0]}: {problem['msg'].removeprefix('Value error, ')}"
                for problem in error.errors()
            ]
            raise InputError(
                f"{'; '.join(problems)}. Set a valid value, or unset the variable for its default."
            ) from None

    @property
    def modules(self) -> tuple[str, ...]:
        """`allowed_modules` as a tuple."""
        return tuple(name.strip() for name in self.allowed_modules.split(",") if name.strip())

    @property
    def webhooks(self) -> tuple[str, ...]:
        """`webhook` as a tuple."""
        return tuple(dict.fromkeys((self.webhook or "").split()))

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

    def job_page(self, job_id: str) -> str | None:
        """Return the address of a job's page; None if the address of the pages is not known."""
        return None if self.url is None else f"{self.url.rstrip('/')}/jobs/{job_id}"

    def make_home(self) -> None:
        """Make the home folder if it is missing.

        Raises:
            DependencyError: It cannot be made, or is not a folder.
        """
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DependencyError(
                f"ANON_TUNE_HOME={str(self.home)!r} cannot be used as a folder ({error.strerror}). "
                "Set it to a folder that you can write to."
            ) from error

    def job_folder(self, job_id: str) -> Path:
        """Return the folder of a job's files: log, exports."""
        return self.home.absolute() / "jobs" / job_id

    def checkpoints(self, job_id: str) -> Path:
        """Return the folder of the checkpoints of a job's unfinished trials; deleted when the job has ended."""
        return self.job_folder(job_id) / "checkpoints"

    def ray_temp(self, name: str) -> Path:
        """Return a short ASCII folder for Ray's sockets and logs: in the home if it fits, else the system's."""
        inside = self.home.absolute() / "ray" / name
        fits = str(inside).isascii() and len(str(inside)) <= _RAY_TEMP_LENGTH
        return inside if fits else self.ray_temps_elsewhere / name

    def ray_temps(self) -> list[Path]:
        """Return the existing folders of Ray's sockets and logs."""
        places = (self.home.absolute() / "ray", self.ray_temps_elsewhere)
        return [path for place in places for path in place.glob("*") if path.is_dir()]

    @property
    def ray_temps_elsewhere(self) -> Path:
        """Parent of the folders that do not fit under the home; private to this user."""
        return Path(tempfile.gettempdir()) / f"at-{os.getuid()}"
