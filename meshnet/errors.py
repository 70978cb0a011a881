"""The one family of errors that reaches a person: a line that says what was wrong and what to do."""

import errno


class MeshnetError(Exception):
    """Something the user can act on: `str(error)` is one line, `status` is the HTTP status it maps to."""

    status = 400

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status


class NotFoundError(MeshnetError):
    """The named thing does not exist (HTTP 404)."""

    status = 404


class ConflictError(MeshnetError):
    """The thing exists already, is in use, or changed meanwhile (HTTP 409)."""

    status = 409


class StartError(MeshnetError):
    """A container is made as asked, but its program cannot be run (HTTP 500): a missing one, or one without rights."""

    status = 500


class NoSpaceError(MeshnetError, OSError):
    """The file system that `place` is on is full (HTTP 507); nothing was changed. An OSError too, as it was before
    somebody understood it."""

    status = 507

    def __init__(self, place: str) -> None:
        super().__init__(f"no space left in {place}: free some, or see with df what fills it")
        self.errno = errno.ENOSPC
