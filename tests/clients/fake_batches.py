"""The part of a fake server that keeps files and batches; a batch is done after so many looks."""

import json
from collections.abc import Callable
from typing import Any

Body = dict[str, Any]
Sent = tuple[int, bytes]


class FakeBatches:
    """What was uploaded and begun; a test may change what it does meanwhile."""

    def __init__(self, answer: Callable[[Body], Body]) -> None:
        self._answer = answer
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, Body] = {}
        self.rows: list[list[Body]] = []
        """Of each batch, in the order they were begun."""
        self.looks_until_done = 2
        self.fail_after_looks: int | None = None
        """So many looks are answered, all later ones get a 503."""
        self.fails: Callable[[Body], bool] = lambda _: False
        self.are_off = False

    @property
    def num_begun(self) -> int:
        return len(self.rows)

    def get(self, path: str) -> Sent:
        if path.startswith("/v1/batches?"):
            data = list(self._batches.values())[::-1]
            return _sent(200, {"object": "list", "data": data, "has_more": False})
        name = path.split("/")[3]
        if path.startswith("/v1/files/"):
            return 200, self._files[name]
        if name not in self._batches:
            return _sent(404, {"error": {"message": "There is no batch.", "code": "not_found"}})
        if self.fail_after_looks is not None:
            self.fail_after_looks -= 1
            if self.fail_after_looks < 0:
                return _sent(503, {"error": {"message": "Going down.", "code": "engine_closed"}})
        return _sent(200, self._looked_at(self._batches[name]))

    def post(self, path: str, content: bytes) -> Sent:
        if self.are_off:
            message = "Batches are off on this server; start it with `verse serve --jobs`."
            return _sent(403, {"error": {"message": message, "code": "jobs_disabled"}})
        if path == "/v1/files":
            # The file's part of the form, without reading the form.
            lines = [line for line in content.splitlines() if line.startswith(b'{"custom_id"')]
            name = f"file-{len(self._files)}"
            self._files[name] = b"\n".join(lines)
            kept = {"filename": "f", "purpose": "batch", "status": "processed"}
            return _sent(200, {"id": name, "object": "file", "bytes": 1, "created_at": 0, **kept})
        return _sent(200, self._begin(json.loads(content)))

    def _begin(self, asked: Body) -> Body:
        lines = self._files[asked["input_file_id"]].splitlines()
        self.rows.append([json.loads(line) for line in lines])
        id_ = f"batch_{len(self.rows)}"
        self._batches[id_] = {
            "id": id_, "object": "batch", "status": "validating", "created_at": 0, **asked,
            "number": len(self.rows) - 1, "looks": 0,
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }  # fmt: skip
        return self._batches[id_]

    def _looked_at(self, batch: Body) -> Body:
        batch["looks"] += 1
        batch["status"] = "in_progress"
        if batch["looks"] > self.looks_until_done:
            batch["status"] = "completed"
            rows = self.rows[batch["number"]]
            failed = [row for row in rows if self.fails(row["body"])]
            done = [row for row in rows if row not in failed]
            batch |= self._written(batch["id"], "output_file_id", map(self._done, done))
            batch |= self._written(batch["id"], "error_file_id", map(self._failed, failed))
        return batch

    def _written(self, id_: str, field: str, results: Any) -> Body:
        name, lines = f"{field}-{id_}", [json.dumps(result).encode() for result in results]
        self._files[name] = b"".join(line + b"\n" for line in lines)
        return {field: name} if lines else {}

    def _done(self, row: Body) -> Body:
        response = {"status_code": 200, "request_id": "r", "body": self._answer(row["body"])}
        return {"id": "b", "custom_id": row["custom_id"], "response": response, "error": None}

    def _failed(self, row: Body) -> Body:
        body = {"error": {"message": "as the test wishes", "code": "x"}}
        response = {"status_code": 400, "request_id": "r", "body": body}
        return {"id": "b", "custom_id": row["custom_id"], "response": response, "error": None}


def _sent(status: int, value: object) -> Sent:
    return status, json.dumps(value).encode()
