"""Nobody waits while files are hashed but who asked for them, and each is hashed once at a time."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.engine.fixtures_files import (
    BASE_MODULES,
    cut_in_half,
    mlx_config,
    mlx_tensors,
    refusal,
    write_adapter,
)
from verse.adapter_digest import file_digest
from verse.model_spelling import AdapterPart
from verse_server.engine.adapters import version_reading
from verse_server.engine.adapters.limits import AdapterLimits, rank_class
from verse_server.engine.adapters.listing import AdapterListing
from verse_server.engine.adapters.registry import AdapterRegistry
from verse_server.engine.errors import AdapterIncompatibleError, ModelNotFoundError


class SlowDisk:
    """Every file whose folder is named `slow...` is hashed only once `go_on` is set."""

    def __init__(self) -> None:
        self.hashed: list[str] = []
        self.hashing = threading.Event()
        self.go_on = threading.Event()

    def digest(self, file: Path) -> bytes:
        self.hashed.append(file.parent.name)
        if file.parent.name.startswith("slow"):
            self.hashing.set()
            assert self.go_on.wait(120)
        return file_digest(file)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    disk = SlowDisk()
    monkeypatch.setattr(version_reading, "file_digest", disk.digest)
    yield disk
    disk.go_on.set()


@pytest.mark.anyio
async def test_one_large_new_adapter_delays_only_those_who_ask_for_it(
    registry: AdapterRegistry, root: Path, disk: SlowDisk
) -> None:
    write_adapter(root / "slow", seed=7)
    asked = [asyncio.create_task(registry.find_version(AdapterPart("slow"))) for _ in range(40)]
    assert await asyncio.to_thread(disk.hashing.wait, 60)
    async with asyncio.timeout(60):
        for name in ("xuzhimo", "hushi"):
            assert (await registry.find_version(AdapterPart(name))).name == name
        write_adapter(root / "libai", seed=8)
        assert (await registry.find_version(AdapterPart("libai"))).name == "libai"
        with pytest.raises(ModelNotFoundError):
            await registry.find_version(AdapterPart("nobody"))
        assert await registry.ask(lambda: registry.show("hushi")) is False
    assert not any(task.done() for task in asked)
    disk.go_on.set()
    versions = await asyncio.gather(*asked)
    assert len({version.digest for version in versions}) == 1
    assert disk.hashed.count("slow") == 1


@pytest.mark.anyio
async def test_who_leaves_takes_the_hashing_from_nobody(
    registry: AdapterRegistry, root: Path, disk: SlowDisk
) -> None:
    write_adapter(root / "slow", seed=7)
    gone, stays = (
        asyncio.create_task(registry.find_version(AdapterPart("slow"))) for _ in range(2)
    )
    assert await asyncio.to_thread(disk.hashing.wait, 60)
    gone.cancel()
    await asyncio.sleep(0)
    disk.go_on.set()
    assert (await stays).name == "slow"
    assert gone.cancelled()


@pytest.mark.anyio
async def test_what_cannot_be_read_is_refused_as_when_it_is_waited_for(
    registry: AdapterRegistry, root: Path
) -> None:
    cut_in_half(write_adapter(root / "libai") / "adapters.safetensors")
    with pytest.raises(AdapterIncompatibleError, match="is not a whole safetensors file"):
        await registry.find_version(AdapterPart("libai"))


def test_an_unknown_name_opens_no_folder(
    registry: AdapterRegistry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    look = AdapterListing.look

    def spy(listing: AdapterListing, name: str) -> Any:
        looked.append(name)
        return look(listing, name)

    monkeypatch.setattr(AdapterListing, "look", spy)
    with pytest.raises(ModelNotFoundError) as error:
        registry.version(AdapterPart("xuzhimu"))
    assert error.value.nearest[0] == "xuzhimo"
    assert looked == []


def limited(root: Path, **limits: Any) -> AdapterRegistry:
    return AdapterRegistry(root, "verse-tiny", BASE_MODULES, AdapterLimits(**limits))


def test_a_rank_above_the_limit_is_refused_with_both_figures_and_is_not_hashed(
    root: Path, disk: SlowDisk
) -> None:
    config = mlx_config(lora_parameters={"rank": 300, "scale": 2.0})
    write_adapter(root / "wide", tensors=mlx_tensors(BASE_MODULES, rank=300), config=config)
    reason = refusal(limited(root), "wide")
    assert "its rank is 300 and this server takes at most 256" in reason
    assert "--max-rank" in reason
    assert disk.hashed == []
    assert limited(root, max_rank=300).version(AdapterPart("wide")).plan.rank == 300


def test_more_memory_than_all_adapters_may_have_is_refused_with_both_figures(root: Path) -> None:
    numbers = sum(shape.in_dims + shape.out_dims for shape in BASE_MODULES.values())
    needed = 8 * numbers * 4  # rank 4 is padded to 8
    assert limited(root, max_bytes=needed).version(AdapterPart("xuzhimo")).memory_bytes == needed
    reason = refusal(limited(root, max_bytes=needed - 1), "xuzhimo")
    assert "MB of memory and all adapters together may have" in reason
    assert "--adapter-bytes" in reason


def test_a_rank_is_padded_to_the_next_power_of_two_and_no_further() -> None:
    padded = {rank: rank_class(rank) for rank in (1, 8, 9, 16, 17, 33, 256, 257, 4096)}
    assert padded == {1: 8, 8: 8, 9: 16, 16: 16, 17: 32, 33: 64, 256: 256, 257: 512, 4096: 4096}
