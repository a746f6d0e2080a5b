"""What can go wrong with what the server keeps.

    StateError
    ├── RecordNotFoundError   nothing of this id is kept
    ├── StorageFullError      the disk is full, or read-only
    └── RecordInUseError      it cannot be changed in the state it is in

StateFolderError stands beside them: the folder cannot be used, so the server does not start.
Messages are one sentence each, for the person who asked.
"""

from verse import UserError


class StateFolderError(UserError):
    """The state folder cannot be used."""


class StateError(Exception):
    """Root of the tree; never raised itself."""


class RecordNotFoundError(StateError):
    """Nothing of this kind has this id."""

    def __init__(self, kind: str, id_: str, param: str) -> None:
        super().__init__(f"There is no {kind} {id_[:100]!r}.")
        self.param = param


class StorageFullError(StateError):
    """It could not be written; what was there before is unchanged."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The server could not store this ({reason}); nothing of it was kept. "
            "Free some space in its state folder."
        )


class RecordInUseError(StateError):
    """What is asked of it does not go with the state it is in."""
