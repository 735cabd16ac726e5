"""The stages of a Dockerfile, and their steps carried out in a Debian root of the test's own.

No container engine is needed: `debootstrap` makes what `FROM debian:bookworm-slim` names, `chroot` runs the
steps, and mounts and network are those of `unshare`, so they vanish with the process. Needs root.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

BASE = "debian:bookworm-slim"


@dataclass
class Stage:
    """One `FROM ... AS name` with its steps, `(instruction, value)` in order."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str, default: str = "") -> str:
        return next((value for name, value in reversed(self.steps) if name == instruction), default)


def stages_of(dockerfile: Path) -> dict[str, Stage]:
    """The stages by name; ARGs before the first FROM are not used here and fail the test."""
    parser = DockerfileParser(fileobj=io.BytesIO(dockerfile.read_bytes()))
    stages: list[Stage] = []
    for step in parser.structure:
        name, value = step["instruction"], step["value"]
        if name == "COMMENT":
            continue
        if name == "FROM":
            base, _, stage = value.partition(" AS ")
            stages.append(Stage(stage, base))
        else:
            stages[-1].steps.append((name, value))
    return {stage.name: stage for stage in stages}


class Root:
    """A file system made by a stage's steps.

    Args:
        path: Where it is.
        context: The folder that COPY reads, the repository's root.
        arguments: Build arguments that differ from the Dockerfile's defaults.
    """

    def __init__(self, path: Path, context: Path, arguments: dict[str, str] | None = None) -> None:
        self.path, self.context, self.given = path, context, arguments or {}
        self.folder, self.user, self.shell = "/", "0:0", ["/bin/sh", "-c"]
        self.arguments: dict[str, str] = {}
        self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

    def build(self, stage: Stage, others: dict[str, Root]) -> None:
        """Carry out every step of a stage; `others` are finished stages, for `COPY --from`."""
        for name, value in stage.steps:
            if name == "ARG":
                key, _, default = value.partition("=")
                self.arguments[key] = self.given.get(key, default.strip('"'))
            elif name == "ENV":
                for pair in shlex.split(value):
                    key, _, setting = pair.partition("=")
                    self.environment[key] = self._filled_in(setting)
            elif name == "WORKDIR":
                self.folder = value
                self._inside(value).mkdir(parents=True, exist_ok=True)
            elif name == "SHELL":
                self.shell = json.loads(value)
            elif name == "USER":
                self.user = value
            elif name == "COPY":
                self._copy(shlex.split(value), others)
            elif name == "RUN":
                self._run(value)

    def _filled_in(self, text: str) -> str:
        known = {**self.environment, **self.arguments}
        return re.sub(r"\$\{(\w+)\}", lambda found: known[found.group(1)], text)

    def _inside(self, path: str) -> Path:
        return self.path / os.path.join(self.folder, path).lstrip("/")

    def _copy(self, words: list[str], others: dict[str, Root]) -> None:
        source = self.context
        if words[0].startswith("--from="):
            source = others[words.pop(0).removeprefix("--from=")].path
        *names, target = words
        for name in names:
            found, place = source / name.lstrip("/"), self._inside(target)
            if found.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "model", "logs", "bin")
                keep = None if source != self.context else ignored
                shutil.copytree(found, place, ignore=keep, symlinks=True, dirs_exist_ok=True)
            else:
                into = place / found.name if target.endswith("/") else place
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, into)

    def _run(self, command: str) -> None:
        """A RUN step, by the shell, with this machine's own way to its package registries."""
        mounts = [f"mount --bind {path} {self._mount_point(path)}" for path in _local_indexes()]
        mounts += [f"mount -t proc proc {self.path}/proc", f"mount --bind /dev {self.path}/dev"]
        environment = {**self.environment, **self.arguments, **_registry_settings()}
        line = ["chroot", str(self.path), "/usr/bin/env", "-i", *_pairs(environment), *self.shell]
        line.append(f"cd {self.folder} && {command}")
        script = " && ".join([*mounts, f"exec {shlex.join(line)}"])
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script],
            capture_output=True,
            text=True,
            timeout=3000,
            check=False,
        )
        assert done.returncode == 0, f"RUN {command}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"

    def _mount_point(self, path: str) -> Path:
        place = self.path / path.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        return place

    def start(self, stage: Stage, volume: Path, log: Path) -> subprocess.Popen[bytes]:
        """Run the stage's entry point as its user: root read-only, /tmp in memory, its volume a folder.

        The network is one of its own, in which nothing else listens.
        """
        command = json.loads(stage.last("ENTRYPOINT")) + json.loads(stage.last("CMD"))
        root = shlex.quote(str(self.path))
        mounts = [
            "ip link set lo up",
            f"mount --bind {root} {root}",
            f"mount -o remount,bind,ro {root}",
            f"mount -t proc proc {root}/proc",
            f"mount --bind /dev {root}/dev",
            f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp",
        ]
        for inner in json.loads(stage.last("VOLUME", "[]")):
            self._fill(volume, self.path / inner.lstrip("/"))
            mounts.append(f"mount --bind {shlex.quote(str(volume))} {root}{inner}")
        script = " && ".join([*mounts, "exec " + shlex.join(self._entered(command))])
        with log.open("wb") as output:
            return subprocess.Popen(
                ["unshare", "--mount", "--net", "sh", "-c", script], stdout=output, stderr=output
            )

    @staticmethod
    def _fill(volume: Path, folder: Path) -> None:
        """A new volume gets the content and the owner of the folder it is laid over."""
        shutil.copytree(folder, volume, dirs_exist_ok=True)
        owner = folder.stat()
        for path in [volume, *volume.rglob("*")]:
            os.chown(path, owner.st_uid, owner.st_gid)

    def _entered(self, command: list[str]) -> list[str]:
        """Into the root as its user, in its folder, with its environment and nothing else."""
        return [
            *("chroot", f"--userspec={self.user}", str(self.path), "/usr/bin/env", "-i"),
            *_pairs(self.environment),
            *("/bin/sh", "-c", f'cd {self.folder} && exec "$@"', "sh", *command),
        ]

    def run_beside(
        self, process: subprocess.Popen[bytes], command: list[str]
    ) -> subprocess.CompletedProcess[str]:
        """A command in the running root, as its user, as the engine runs a health check."""
        line = ["nsenter", "-t", str(process.pid), "-m", "-n", *self._entered(command)]
        return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)


def debian_root(path: Path) -> None:
    """What `FROM debian:bookworm-slim` names, from this machine's own Debian mirror."""
    mirror = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    site = next(word for word in mirror if word.endswith("/debian") or word.endswith("/debian/"))
    subprocess.run(
        ["debootstrap", "--variant=minbase", "bookworm", str(path), site],
        capture_output=True, timeout=1200, check=True,
    )  # fmt: skip
    for name in ("resolv.conf", "hosts", "pip.conf", "npmrc"):
        if Path("/etc", name).is_file():
            shutil.copy(f"/etc/{name}", path / "etc" / name)
    for name in ("apt/apt.conf.d", "xdg/pip"):
        if Path("/etc", name).is_dir():
            shutil.copytree(f"/etc/{name}", path / "etc" / name, dirs_exist_ok=True)
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.is_file():
        shutil.copy(certificates, path / "etc" / "certificates-of-the-test-machine.crt")


def _registry_settings() -> dict[str, str]:
    """How this machine reaches its registries: an engine would pass them as build arguments."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key.startswith("PIP_") or key.lower() in ("http_proxy", "https_proxy", "no_proxy")
    }
    if shutil.which("npm"):
        asked = subprocess.run(
            ["npm", "config", "get", "registry"], capture_output=True, text=True, check=False
        )
        kept["npm_config_registry"] = asked.stdout.strip()
    certificates = "/etc/certificates-of-the-test-machine.crt"
    return {**kept, "PIP_CERT": certificates, "npm_config_cafile": certificates}


def _local_indexes() -> list[str]:
    """Folders of this machine that pip is set to look for packages in."""
    shown = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"file://(/[^\s']+)", shown) + re.findall(r"find-links='(/[^\s']+)'", shown)
    # The roots of the indexes: what lies beside them may be linked to.
    paths = {path.removesuffix("/simple") for path in found}
    return sorted(path for path in paths if Path(path).is_dir())


def _pairs(environment: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in environment.items()]
