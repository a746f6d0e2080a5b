"""What is wrong with a hostfile is said in one sentence, before anything is started."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from mlx._distributed_utils.common import Hostfile as Theirs

from verse.machines import MachinesError
from verse.machines.launcher import read_hostfile

TWO = [{"ssh": "a.local", "ips": ["10.0.0.1"]}, {"ssh": "b.local", "ips": ["10.0.0.2"]}]


def written(folder: Path, content: Any) -> Path:
    file = folder / "hosts.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return file


@pytest.mark.parametrize("content", [TWO, {"hosts": TWO, "backend": "ring", "envs": ["A=b"]}])
def test_a_hostfile_is_read_as_mlx_reads_it(tmp_path: Path, content: Any) -> None:
    file = written(tmp_path, content)
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # mlx leaves it open
        theirs = Theirs.from_file(file)
    ours = read_hostfile(file)
    assert [(host.ssh, list(host.ips)) for host in ours.hosts] == [
        (host.ssh_hostname, host.ips) for host in theirs.hosts
    ]
    assert (ours.backend, list(ours.envs)) == (theirs.backend, theirs.envs)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is no list of machines"),
        ("{", "is no list of machines"),
        ({"host": TWO}, "is no list of machines: Object missing required field `hosts`"),
        ([{"ips": ["10.0.0.1"]}], "missing required field `ssh`"),
        ([{"ssh": "a", "ips": "10.0.0.1"}], "is no list of machines"),
        (TWO[:1], "at least two hosts"),
        ([TWO[0], {"ssh": "b.local"}], "b.local has no address"),
        ([TWO[0], {"ssh": "b.local", "ips": ["fe80::1"]}], "no IPv4 address or name"),
        ([TWO[0], {"ssh": "b.local", "ips": ["127.0.0.1"]}], "which others cannot reach"),
        ({"hosts": TWO, "backend": "mpi"}, "the backend 'mpi' is not one of ring, jaccl"),
        ({"hosts": TWO, "backend": "jaccl"}, '"rdma" of each host must have 2 entries'),
    ],
)
def test_a_wrong_hostfile_says_what_is_wrong(tmp_path: Path, content: Any, problem: str) -> None:
    file = written(tmp_path, content)
    with pytest.raises(MachinesError) as caught:
        read_hostfile(file)
    assert str(caught.value).startswith(str(file))
    assert problem in str(caught.value)


def test_a_hostfile_that_is_missing_or_unreadable_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachinesError, match=r"There is no file .*none.json; list the machines"):
        read_hostfile(tmp_path / "none.json")
    with pytest.raises(MachinesError, match="cannot be read"):
        read_hostfile(tmp_path)
