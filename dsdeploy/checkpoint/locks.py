"""One process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from dsdeploy.errors import DeployError, DiskError


class WorkLock:
    """Held by the one process that does a piece of work in `FOLDER/STAGING/`. It is a file of its
    own, because fcntl's lock on a file is lost when the process closes any descriptor of that file;
    and it is fcntl's, because flock silently succeeds on Lustre and GPFS."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise DiskError(
                    f"{path.parent} cannot be locked: {error.strerror}.",
                    "Mount its file system with support for locks, or give another target.",
                ) from None
            raise DeployError(
                f"Another process is writing to {path.parent.parent}.",
                "Wait for it, or give another target folder.",
            ) from None

    def close(self) -> None:
        os.close(self._descriptor)
