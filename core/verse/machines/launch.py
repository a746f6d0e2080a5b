"""What a launcher told this process: its rank, and where the others are.

`mlx.launch` tells it in the environment, in another way for each backend; mlx's documentation
("Distributed without mlx.launch") has the same variables for whoever starts the processes himself.

Beside the ports that mlx uses, Verse takes one: on rank 0's machine, the next one after them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from verse.machines import MachinesError

Backend = Literal["ring", "jaccl", "nccl"]
_MPI_SIZE = "OMPI_COMM_WORLD_SIZE"


class Address(msgspec.Struct, frozen=True):
    """Where a process listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One process of several, as its launcher sees it."""

    rank: int
    size: int
    backend: Backend
    contact: Address
    """Where rank 0 waits for the others; one port after those that mlx uses."""
    addresses: tuple[tuple[Address, ...], ...] = ()
    """The ring's, by rank: where each listens. Empty for other backends."""

    @property
    def num_here(self) -> int:
        """Ranks on this machine, as far as is known: their cores are the same."""
        if not self.addresses:
            return 1
        here = self.addresses[self.rank][0].host
        return sum(listed[0].host == here for listed in self.addresses)

    def describe(self, rank: int) -> str:
        """For a sentence: `rank 1 (10.0.0.2)`."""
        if not self.addresses:
            return f"rank {rank}"
        return f"rank {rank} ({self.addresses[rank][0].host})"


def find_launch(environ: Mapping[str, str] = os.environ) -> Launch | None:
    """Read what a launcher left; None in a process that is alone.

    Raises:
        MachinesError: it is not what mlx's launcher leaves.
    """
    if int(environ.get(_MPI_SIZE) or 1) > 1:
        raise MachinesError(
            "Verse does not run over MPI: start it with `mlx.launch --backend ring`, or jaccl."
        )
    if "MLX_RANK" not in environ:
        return None
    try:
        launch = _read(int(environ["MLX_RANK"]), environ)
    except (KeyError, OSError, ValueError, IndexError) as error:
        raise MachinesError(
            f"MLX_RANK is set, but what mlx.launch sets beside it is not right ({error}); start "
            "with `mlx.launch`, or unset MLX_RANK."
        ) from error
    return launch if launch is not None and launch.size > 1 else None


def _read(rank: int, environ: Mapping[str, str]) -> Launch | None:
    if coordinator := environ.get("MLX_JACCL_COORDINATOR"):
        devices = Path(environ["MLX_IBV_DEVICES"]).read_bytes()
        size = len(msgspec.json.decode(devices, type=list[list[msgspec.Raw]]))
        return Launch(rank=rank, size=size, backend="jaccl", contact=_next(_address(coordinator)))
    if size := int(environ.get("MLX_WORLD_SIZE") or 0):
        host = Address(environ["NCCL_HOST_IP"], int(environ["NCCL_PORT"]))
        return Launch(rank=rank, size=size, backend="nccl", contact=_next(host))
    return _read_ring(rank, Path(environ["MLX_HOSTFILE"]).read_bytes())


def _read_ring(rank: int, content: bytes) -> Launch | None:
    if not content.strip():  # mlx.launch with a single host
        return None
    listed = msgspec.json.decode(content, type=list[list[str]])
    addresses = tuple(tuple(map(_address, texts)) for texts in listed)
    first = addresses[0][0].host
    last = max(address.port for of_rank in addresses for address in of_rank)
    contact = _next(Address(first, last))
    addresses[rank]  # an IndexError where there is no such rank
    return Launch(
        rank=rank, size=len(addresses), backend="ring", contact=contact, addresses=addresses
    )


def _next(address: Address) -> Address:
    return Address(address.host, address.port + 1)


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return Address(host, int(port))
