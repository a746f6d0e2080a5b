"""Fine-tuning jobs, what happened in them, and the checkpoints they left: rows in the database.

A job's status changes only from states that allow it, in one transaction, so a client that cancels
and a training that ends cannot both win. An event has a key where the trainer may report it again
after it went on from its last checkpoint: it is kept once.
"""

import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec

from verse_server.state.database import Database
from verse_server.state.errors import RecordInUseError, RecordNotFoundError
from verse_server.state.pages import RecordPage, known_text, select_page

JobStatus = Literal[
    "validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"
]
EventLevel = Literal["info", "warn", "error"]
UNFINISHED: tuple[JobStatus, ...] = ("validating_files", "queued", "running", "paused")

_TABLES = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    finished_at INTEGER,
    status TEXT NOT NULL,
    adapter TEXT NOT NULL UNIQUE,
    plan TEXT NOT NULL,
    error TEXT,
    trained_tokens INTEGER,
    estimated_finish INTEGER
);
CREATE TABLE job_events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    job TEXT NOT NULL,
    key TEXT,
    created_at INTEGER NOT NULL,
    level TEXT NOT NULL,
    message TEXT NOT NULL,
    data TEXT,
    UNIQUE (job, key)
);
CREATE TABLE job_checkpoints (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    job TEXT NOT NULL,
    step INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    metrics TEXT NOT NULL,
    UNIQUE (job, step)
)
"""
_RESULTS = "CREATE TABLE job_results (job TEXT PRIMARY KEY, file TEXT NOT NULL)"


class JobError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a job was asked; it never changes."""

    model: str
    """The base, or the adapter that it goes on from."""
    goes_on: bool = False
    training_file: str
    training_name: str
    """What its client called the file, for errors."""
    validation_file: str | None = None
    validation_name: str | None = None
    method: Literal["supervised", "dpo"] = "supervised"
    hyperparameters: dict[str, Any]
    """As they were sent, `auto` included."""
    seed: int
    metadata: dict[str, str] | None = None
    keys: dict[str, Any]
    """As `verse train` has them, without the places of files."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One training."""

    number: int
    id: str
    created_at: int
    """Unix seconds, as all times here."""
    finished_at: int | None
    status: JobStatus
    adapter: str
    """Name of the folder that it writes."""
    plan: JobPlan
    error: JobError | None
    trained_tokens: int | None
    estimated_finish: int | None
    result_file: str | None
    """Id of its losses as a table, once it has succeeded."""


class StepLosses(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured after a step."""

    step: int
    train_loss: float | None = None
    valid_loss: float | None = None


class JobEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened in a job."""

    id: str
    created_at: int
    level: EventLevel
    message: str
    data: dict[str, Any] | None


class JobCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Weights that a job has written."""

    id: str
    step: int
    created_at: int
    metrics: dict[str, float]


class JobStore:
    """All jobs of one state folder."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        database.define("jobs", 1, _TABLES)
        database.define("job_results", 1, _RESULTS)

    def now(self) -> int:
        """Unix seconds."""
        return int(self._clock())

    async def create(self, id_: str, plan: JobPlan, names: Sequence[str]) -> Job:
        """Keep a new job, to be validated.

        Args:
            id_: From `new_id`.
            plan: What it shall do.
            names: Of the adapter; the first one that no other job has is taken.
        """

        def insert(connection: sqlite3.Connection) -> Job:
            query = "SELECT adapter FROM jobs"
            taken = {row["adapter"] for row in connection.execute(query)}
            adapter = next(name for name in names if name not in taken)
            values = (id_, self.now(), "validating_files", adapter, _encoded(plan))
            connection.execute(
                "INSERT INTO jobs (id, created_at, status, adapter, plan) VALUES (?, ?, ?, ?, ?)",
                values,
            )
            self._note(connection, id_, "The job was created.", key="created")
            return _get(connection, id_)

        return await self._database.run(insert)

    async def get(self, id_: str) -> Job:
        """One job.

        Raises:
            RecordNotFoundError: there is none.
        """
        return await self._database.run(lambda connection: _get(connection, id_))

    async def first(self, *statuses: JobStatus) -> Job | None:
        """The oldest job in one of these states; those named first come first."""

        def find(connection: sqlite3.Connection) -> Job | None:
            for status in statuses:
                query = "SELECT * FROM jobs WHERE status = ? ORDER BY number LIMIT 1"
                if row := connection.execute(query, (status,)).fetchone():
                    return _job(connection, row)
            return None

        return await self._database.run(find)

    async def list(
        self, *, after: str | None, limit: int, metadata: Mapping[str, str]
    ) -> RecordPage[Job]:
        """A page of jobs, the newest first, of those with all of this metadata.

        Raises:
            RecordNotFoundError: `after` is no job.
        """
        where: list[str] = []
        values: dict[str, Any] = {}
        for index, (key, value) in enumerate(metadata.items()):
            where.append(
                "EXISTS (SELECT 1 FROM json_each(plan, '$.metadata') AS entry "
                f"WHERE entry.key = :key{index} AND entry.value = :value{index})"
            )
            values |= {f"key{index}": key, f"value{index}": value}

        def find(connection: sqlite3.Connection) -> RecordPage[Job]:
            page = select_page(connection, "jobs", where, values, after=after, limit=limit)
            return RecordPage(tuple(_job(connection, row) for row in page.items), page.has_more)

        return await self._database.run(find)

    async def move(
        self,
        id_: str,
        allowed: Collection[JobStatus],
        status: JobStatus,
        message: str,
        *,
        error: JobError | None = None,
        result_file: str | None = None,
    ) -> Job:
        """Change a job's status, and say so in an event.

        Args:
            id_: Of the job.
            allowed: The states it may be in now.
            status: The one it gets.
            message: What happened.
            error: Of a job that failed.
            result_file: Id of the one that a job leaves which succeeded.

        Raises:
            RecordNotFoundError: there is no such job.
            RecordInUseError: it is in another state.
        """

        def change(connection: sqlite3.Connection) -> Job:
            job = _get(connection, id_)
            if job.status not in allowed:
                raise RecordInUseError(
                    f"The job {id_} is {job.status.replace('_', ' ')}; this is possible only while "
                    f"it is {' or '.join(allowed).replace('_', ' ')}."
                )
            finished = None if status in UNFINISHED else self.now()
            connection.execute(
                "UPDATE jobs SET status = ?, error = ?, finished_at = ?, estimated_finish = NULL "
                "WHERE id = ?",
                (status, None if error is None else _encoded(error), finished, id_),
            )
            if result_file is not None:
                query = "INSERT OR REPLACE INTO job_results VALUES (?, ?)"
                connection.execute(query, (id_, result_file))
            self._note(connection, id_, message, level="info" if error is None else "error")
            return _get(connection, id_)

        return await self._database.run(change)

    async def note(
        self,
        id_: str,
        message: str,
        *,
        key: str | None = None,
        level: EventLevel = "info",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an event; one whose key the job has already is left out."""
        await self._database.run(
            lambda c: self._note(c, id_, message, key=key, level=level, data=data)
        )

    async def progress(self, id_: str, *, trained_tokens: int, eta_seconds: float) -> None:
        """How far a running job is."""
        finish = int(self._clock() + eta_seconds)
        query = "UPDATE jobs SET trained_tokens = ?, estimated_finish = ? WHERE id = ?"
        await self._database.run(lambda c: c.execute(query, (trained_tokens, finish, id_)))

    async def add_checkpoint(self, id_: str, step: int, message: str) -> None:
        """Note weights that are on the disk, with the losses of their step that events have."""

        def insert(connection: sqlite3.Connection) -> None:
            metrics: dict[str, float] = {"step": step}
            query = "SELECT data FROM job_events WHERE job = ? AND key IN (?, ?)"
            keys = (f"train:{step}", f"valid:{step}")
            for row in connection.execute(query, (id_, *keys)):
                data = msgspec.json.decode(row["data"], type=dict[str, float])
                metrics |= {k: v for k, v in data.items() if k.endswith("_loss")}
            connection.execute(
                "INSERT OR IGNORE INTO job_checkpoints (id, job, step, created_at, metrics) "
                "VALUES (?, ?, ?, ?, ?)",
                (new_id("ftckpt"), id_, step, self.now(), _encoded(metrics)),
            )
            self._note(connection, id_, message, key=f"saved:{step}", data={"step": step})

        await self._database.run(insert)

    async def events(self, id_: str, *, after: str | None, limit: int) -> RecordPage[JobEvent]:
        """A page of what happened, the newest first.

        Raises:
            RecordNotFoundError: there is no such job, or no event `after`.
        """
        found = await self._of_job("job_events", id_, after, limit)
        events = (
            JobEvent(
                id=row["id"],
                created_at=row["created_at"],
                level=row["level"],
                message=row["message"],
                data=row["data"] and msgspec.json.decode(row["data"]),
            )
            for row in found.items
        )
        return RecordPage(tuple(events), found.has_more)

    async def checkpoints(
        self, id_: str, *, after: str | None, limit: int
    ) -> RecordPage[JobCheckpoint]:
        """A page of checkpoints, the newest first; raises as `events`."""
        found = await self._of_job("job_checkpoints", id_, after, limit)
        checkpoints = (
            JobCheckpoint(
                id=row["id"],
                step=row["step"],
                created_at=row["created_at"],
                metrics=msgspec.json.decode(row["metrics"]),
            )
            for row in found.items
        )
        return RecordPage(tuple(checkpoints), found.has_more)

    async def losses(self, id_: str) -> Sequence[StepLosses]:
        """All that the events of a job tell, by step."""

        def find(connection: sqlite3.Connection) -> Sequence[StepLosses]:
            query = (
                "SELECT data FROM job_events WHERE job = ? "
                "AND (key LIKE 'train:%' OR key LIKE 'valid:%')"
            )
            of_step: dict[int, dict[str, Any]] = {}
            for row in connection.execute(query, (id_,)):
                data = msgspec.json.decode(row["data"], type=dict[str, Any])
                of_step.setdefault(data["step"], {}).update(data)
            return [msgspec.convert(of_step[step], StepLosses) for step in sorted(of_step)]

        return await self._database.run(find)

    async def ids(self) -> set[str]:
        """Of all jobs."""
        return await self._database.run(
            lambda c: {row["id"] for row in c.execute("SELECT id FROM jobs")}
        )

    async def _of_job(
        self, table: str, id_: str, after: str | None, limit: int
    ) -> RecordPage[sqlite3.Row]:
        def find(connection: sqlite3.Connection) -> RecordPage[sqlite3.Row]:
            _get(connection, id_)
            where = ["job = :job"]
            return select_page(connection, table, where, {"job": id_}, after=after, limit=limit)

        return await self._database.run(find)

    def _note(
        self,
        connection: sqlite3.Connection,
        id_: str,
        message: str,
        *,
        key: str | None = None,
        level: EventLevel = "info",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        content = None if data is None else _encoded(data)
        connection.execute(
            "INSERT OR IGNORE INTO job_events (id, job, key, created_at, level, message, data) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (new_id("ftevent"), id_, key, self.now(), level, message, content),
        )


def new_id(kind: str) -> str:
    """`ftjob-` and 24 digits nobody can guess."""
    return f"{kind}-{secrets.token_hex(12)}"


def _encoded(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _get(connection: sqlite3.Connection, id_: str) -> Job:
    query = "SELECT * FROM jobs WHERE id = ?"
    if (row := connection.execute(query, (known_text(id_),)).fetchone()) is None:
        raise RecordNotFoundError("fine-tuning job", id_, "fine_tuning_job_id")
    return _job(connection, row)


def _job(connection: sqlite3.Connection, row: sqlite3.Row) -> Job:
    plain = {name: row[name] for name in row.keys()}  # noqa: SIM118  (iterating a Row gives values)
    plan = msgspec.json.decode(plain.pop("plan"), type=JobPlan)
    error = plain.pop("error")
    found = None if error is None else msgspec.json.decode(error, type=JobError)
    query = "SELECT file FROM job_results WHERE job = ?"
    result = connection.execute(query, (plain["id"],)).fetchone()
    return Job(plan=plan, error=found, result_file=result and result["file"], **plain)
