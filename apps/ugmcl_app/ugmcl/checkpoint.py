"""checkpoint: a network's weights with all that is needed to use them, in one file of plain data."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import Config
from .network import DualTaskVNet

FORMAT = "ugmcl-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """A trained network as data.

    Attributes:
        config: Rebuilds the network and its preprocessing.
        state: The network's tensors by name, on the CPU.
        meta: Plain values about its origin (role, step, seed, precision, metrics).
    """

    config: Config
    state: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, network: DualTaskVNet, config: Config, **meta: Any) -> Checkpoint:
        """A snapshot of `network`, detached from it."""
        state = {
            name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()
        }
        return cls(config, state, dict(meta))

    def build(self) -> DualTaskVNet:
        """The network with these weights, in evaluation mode on the CPU."""
        network = DualTaskVNet(self.config.network)
        network.load_state_dict(self.state)
        return network.eval()


def write_atomic(path: Path, payload: Any) -> None:
    """`torch.save` to a temporary name beside `path`, flush to disk, then rename: never half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            torch.save(payload, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically."""
    payload = {
        "format": FORMAT,
        "config": checkpoint.config.to_dict(),
        "state": checkpoint.state,
        "meta": checkpoint.meta,
    }
    write_atomic(Path(path), payload)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint; only tensors and plain containers are accepted, so a file cannot run code.

    Raises:
        ValueError: If the file is no checkpoint of this project, or a damaged one; says which file and why.
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # junk bytes make torch fail in many ways, none of them an error of ours
        raise ValueError(f"{path.name} is not a readable model file ({type(error).__name__}).") from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise ValueError(
            f"{path.name} is not a {FORMAT} file; train a model with this program, or choose another file."
        )
    missing = sorted({"config", "state", "meta"} - set(payload))
    if missing:
        raise ValueError(f"{path.name} is a damaged model file: it has no {', '.join(missing)}.")
    return Checkpoint(Config.from_dict(payload["config"]), payload["state"], payload["meta"])
