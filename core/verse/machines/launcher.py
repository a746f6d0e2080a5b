"""`mlx.launch`, started and ended from here, and `hosts.json`, the machines that it reads.

    {"backend": "ring",
     "hosts": [{"ssh": "studio.local", "ips": ["10.0.0.1"]},
               {"ssh": "mini.local", "ips": ["10.0.0.2"]}]}

or the list of hosts alone. The first one is rank 0. `mlx.distributed_config` writes such files.
What mlx would say of a wrong one is a traceback or nothing, so it is read here first.

The launcher starts every rank, over ssh or as a process of this machine, hands our standard input
to all of them and their output to us. What it leaves undone: it always exits with 0, it goes on
after the end of its input, and whoever kills it leaves its children behind. So it runs in a session
of its own, of which nothing is left when it ends. And it waits for pipes that can always be written
to, which keeps a core busy from the first step to the last; `rests` sees to that.
"""

import ipaddress
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from verse.machines import MachinesError

BACKENDS = ("ring", "jaccl", "jaccl-ring", "nccl")
_NEEDS_RDMA = ("jaccl", "jaccl-ring")

THIS_MACHINE = "127.0.0.1"
"""The host that mlx.launch reaches without ssh."""

Name = Annotated[str, Meta(min_length=1)]


class Host(msgspec.Struct, frozen=True):
    """One process to start: a machine that is to run two stands there twice."""

    ssh: Name
    """What `ssh` calls it; 127.0.0.1 is this machine, without ssh."""
    ips: tuple[Name, ...] = ()
    """Addresses at which the others reach it."""
    rdma: tuple[str | list[str] | None, ...] = ()
    """JACCL: its RDMA device towards each host, null for itself."""


class Hostfile(msgspec.Struct, frozen=True):
    """What the file holds."""

    hosts: tuple[Host, ...]
    backend: str = ""
    """Empty: NCCL where there is CUDA, else the ring."""
    envs: tuple[str, ...] = ()
    """NAME=VALUE, set for every process."""


def read_hostfile(file: Path) -> Hostfile:
    """Read the file and check that a run can begin with it.

    Raises:
        MachinesError: one sentence that says what to put right.
    """
    try:
        content = msgspec.json.decode(file.read_bytes(), type=list[Host] | Hostfile)
    except FileNotFoundError as error:
        raise MachinesError(
            f"There is no file {file}; list the machines there, or let `mlx.distributed_config "
            "--hosts A,B --output hosts.json` do it."
        ) from error
    except OSError as error:
        raise MachinesError(f"{file} cannot be read: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = str(error).rstrip(".")
        raise MachinesError(f"{file} is no list of machines: {problem}.") from error
    hostfile = content if isinstance(content, Hostfile) else Hostfile(hosts=tuple(content))
    if (problem := _problem(hostfile)) is not None:
        raise MachinesError(f"{file}: {problem}")
    return hostfile


def _problem(hostfile: Hostfile) -> str | None:
    hosts, backend = hostfile.hosts, hostfile.backend
    if len(hosts) < 2:
        return "it takes at least two hosts; one machine alone needs no hostfile."
    if backend and backend not in BACKENDS:
        return f"the backend {backend!r} is not one of {', '.join(BACKENDS)}."
    if (without := next((host for host in hosts if not host.ips), None)) is not None:
        return f'{without.ssh} has no address; give it "ips".'
    if backend in _NEEDS_RDMA and any(len(host.rdma) != len(hosts) for host in hosts):
        return f'"rdma" of each host must have {len(hosts)} entries, one for each host.'
    return _problem_of_addresses(hosts)


def _problem_of_addresses(hosts: tuple[Host, ...]) -> str | None:
    for host in hosts:
        if (wrong := next((ip for ip in host.ips if ":" in ip), None)) is not None:
            return f"{wrong!r} of {host.ssh} is no IPv4 address or name; ports are added for you."
    inside = [host for host in hosts if _is_loopback(host.ips[0])]
    if inside and len(inside) < len(hosts):
        return f"{inside[0].ssh} has the address {inside[0].ips[0]}, which others cannot reach."
    return None


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


DEFAULT_PORT = 32323
"""mlx.launch's own. Each rank takes one from there on, and Verse the one after them."""

# What mlx.launch runs; its script in `bin` says the same, but may not be installed there.
_LAUNCH = """
from mlx._distributed_utils import launch
from verse.machines.launcher import rests
launch.select = rests(launch.select)
launch.main()
"""
_EXITED = re.compile(r"Node with rank (\d+) exited with code (\d+)")
_COMPLAINT = re.compile(r"\[WARN\] Node with rank \d+ ")
_SSH_FAILED, _NO_SUCH_FILE, _NOT_A_PROGRAM = 255, 127, 126
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def launch_command(
    file: Path,
    program: Sequence[str],
    *,
    starting_port: int = DEFAULT_PORT,
    env: Mapping[str, str] | None = None,
) -> list[str]:
    """The command that starts a program once on every host of a hostfile.

    Args:
        file: The hostfile.
        program: With its arguments; it must lie at the same path on every machine.
        starting_port: Of the first rank.
        env: Set for every process, beside what the hostfile sets.
    """
    variables = [f"--env={name}={value}" for name, value in (env or {}).items()]
    options = [f"--hostfile={file}", f"--starting-port={starting_port}", *variables]
    return [sys.executable, "-c", _LAUNCH, *options, "--", *program]


Files = Sequence[int]
Select = Callable[[Files, Files, Files, float], tuple[Files, Files, Files]]
_REST_SECONDS = 0.05
"""What a rank gets is late by this much: a word that asks it to stop."""


def rests(select: Select) -> Select:
    """A `select` that waits for what can be read, and only looks at what can be written to."""

    def selected(
        reading: Files, writing: Files, failing: Files, timeout: float
    ) -> tuple[Files, Files, Files]:
        seconds = min(timeout, _REST_SECONDS) if writing else timeout
        readable, _, failed = select(reading, (), failing, seconds)
        _, writable, _ = select((), writing, (), 0)
        return readable, writable, failed

    return selected


def end_session(process: "subprocess.Popen[bytes]") -> None:
    """Kill what is left of a process that was started with `start_new_session`, and its children.

    Those on other machines end with the ssh that holds them.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def is_complaint(line: str) -> bool:
    """Whether a line of standard error is the launcher's own, of a rank that ended."""
    return bool(_COMPLAINT.match(_COLOURS.sub("", line)))


def explain(complaint: str, hostfile: Hostfile) -> str | None:
    """What the launcher's complaint about a rank that never began means; None if it is another.

    Args:
        complaint: A line of its standard error.
        hostfile: Whose hosts it was given.
    """
    if (found := _EXITED.search(_COLOURS.sub("", complaint))) is None:
        return None
    rank, code = int(found[1]), int(found[2])
    host = hostfile.hosts[rank].ssh if rank < len(hostfile.hosts) else f"rank {rank}"
    if code == _SSH_FAILED:
        return f"{host} cannot be reached: see that `ssh {host}` works without a password."
    if code in (_NO_SUCH_FILE, _NOT_A_PROGRAM):
        return f"{host} has no {sys.executable}: install Verse at the same path on every machine."
    return None
