"""The only error a user sees, and the exit codes that scripts rely on."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    DOES_NOT_FIT = 3
    INTEGRITY = 4
    NETWORK = 5
    DISK = 6
    ENGINE = 7
    INTERRUPTED = 130


class DeployError(Exception):
    """One sentence with its cause (`message`), a fix to copy (`hint`), and the exit code."""

    def __init__(self, message: str, hint: str = "", exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class UsageError(DeployError):
    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, ExitCode.USAGE)


class IntegrityError(DeployError):
    """The bytes or the metadata of a checkpoint are not what they claim to be."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, ExitCode.INTEGRITY)


class DiskError(DeployError):
    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, ExitCode.DISK)
