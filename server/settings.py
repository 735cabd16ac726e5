"""The server's settings: the only reader of the environment (`UGMCL_*`) on this floor."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")

OHIF_FOLDER = Path(__file__).resolve().parents[1] / ".ohif"
"""Where `make ohif` puts the viewer."""

NameList = Annotated[tuple[str, ...], NoDecode]


class ServerSettings(BaseSettings):
    """How the server is reached and which project it serves.

    Every field can be given as an environment variable, upper case with the prefix `UGMCL_`, for example
    `UGMCL_PORT=8001`; lists are comma-separated. The command line wins over the environment.
    """

    model_config = SettingsConfigDict(env_prefix="UGMCL_", extra="ignore", validate_default=True)

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    studies: Path | str | None = Field(None, description="folder of scans, or DICOMweb address of a PACS")
    workspace: Path | None = Field(None, description="folder for models, rounds and maps; <studies>/.ugmcl")
    labels: NameList = Field((), description="names of the classes, in the order of their values 1..C")
    cors_origins: NameList = Field((), description="web origins that may call this server from a browser")
    allowed_hosts: NameList = Field((), description="Host header names accepted besides the loopback ones")
    ohif: Path | None = Field(None, description="folder of the OHIF viewer; what `make ohif` fetched")
    max_body_mib: float = Field(1024, gt=0, description="largest request body, in MiB")
    conf: dict[str, str] = Field(default_factory=dict, description="app settings, as `--conf KEY VALUE`")

    @field_validator("labels", "cors_origins", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("ohif")
    @classmethod
    def _holds_a_viewer(cls, value: Path | None) -> Path | None:
        folder = value.expanduser().resolve() if value is not None else None
        if folder is not None and not (folder / "index.html").is_file():
            raise ValueError(f"there is no OHIF viewer (index.html) in {folder}; fetch one with `make ohif`")
        return folder

    @field_validator("studies")
    @classmethod
    def _folder_or_address(cls, value: Path | str | None) -> Path | str | None:
        # A path would make one slash of the two in http://.
        return Path(value) if isinstance(value, str) and not is_web_address(value) else value

    @field_validator("cors_origins")
    @classmethod
    def _whole_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            scheme, _, rest = origin.partition("://")
            if scheme not in ("http", "https") or not rest or "/" in rest or "*" in rest:
                raise ValueError(
                    f"'{origin}' is not an origin: give scheme, host and port, as in http://localhost:3000"
                )
        return tuple(origin.lower() for origin in value)

    @property
    def max_body_bytes(self) -> int:
        """The body limit in bytes."""
        return int(self.max_body_mib * 1024 * 1024)

    @property
    def host_names(self) -> frozenset[str]:
        """Names a `Host` header may carry, lower case and without port or brackets."""
        names = {*LOOPBACK_HOSTS, *self.allowed_hosts}
        if not self.listens_everywhere:
            names.add(self.host)
        return frozenset(name.lower().strip("[]") for name in names)

    @property
    def listens_everywhere(self) -> bool:
        """Whether the address means every interface of the machine."""
        return self.host in ("0.0.0.0", "::", "")

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        return self.host in LOOPBACK_HOSTS or self.host.startswith("127.")

    def ohif_folder(self) -> Path | None:
        """The folder of the viewer to serve at /ohif/; None for the stock page of MONAI Label."""
        if self.ohif is not None:
            return self.ohif
        return OHIF_FOLDER if (OHIF_FOLDER / "index.html").is_file() else None

    def app_conf(self) -> dict[str, str]:
        """The app's settings: `conf` with `labels` and `workspace` added where they were given."""
        conf = dict(self.conf)
        if self.labels:
            conf["labels"] = ",".join(self.labels)
        if self.workspace is not None:
            conf["workspace"] = str(self.workspace.expanduser().resolve())
        return conf

    def workspace_folder(self) -> Path:
        """Where the project's state lives: `workspace`, or `.ugmcl` inside the studies; of a PACS, a folder
        named after its address in the user's data folder.

        Raises:
            ValueError: neither `workspace` nor `studies` is set.
        """
        given = self.app_conf().get("workspace")
        if given:
            return Path(given)
        if self.studies is None:
            raise ValueError("no studies folder is set; give --studies DIR or UGMCL_STUDIES")
        if isinstance(self.studies, str):
            home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
            name = re.sub(r"[^A-Za-z0-9.-]+", "_", self.studies.partition("://")[2]).strip("_.")
            return Path(home).expanduser() / "ugmcl-assist" / name
        return self.studies.expanduser().resolve() / ".ugmcl"


def is_web_address(studies: object) -> bool:
    """Whether studies are a PACS's address rather than a folder."""
    return isinstance(studies, str) and studies.startswith(("http://", "https://"))
