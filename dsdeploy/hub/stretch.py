"""One stretch of a file, read into memory."""

from __future__ import annotations

import time

from dsdeploy.errors import DeployError, ExitCode, IntegrityError
from dsdeploy.hub.listing import RemoteFile
from dsdeploy.hub.origin import ContentChangedError, Origin
from dsdeploy.hub.retries import Retries, TransientError


def read_stretch(
    origin: Origin, file: RemoteFile, start: int, target: memoryview, retries: Retries
) -> None:
    """Fill `target` with the file's bytes from `start` on, over as many requests as it takes."""
    failures = 0
    while target:
        wanted = len(target)
        try:
            with origin.stream(file, start, start + wanted) as stream:
                if stream.start < start:
                    raise _without_ranges(file)
                for piece in stream.pieces:
                    count = min(len(piece), len(target))
                    target[:count] = piece[:count]
                    target, start = target[count:], start + count
                    if not target:
                        return
            raise TransientError("the answer ended early")
        except TransientError as fault:
            failures = 1 if len(target) < wanted else failures + 1
            time.sleep(retries.wait_or_give_up(file.path, failures, fault))
        except ContentChangedError:
            raise IntegrityError(
                f"{file.path} changed while it was read.",
                "Start again, and name a commit to be sure of one content.",
            ) from None


def _without_ranges(file: RemoteFile) -> DeployError:
    return DeployError(
        f"The server sends only the whole of {file.path}, not a part of it.",
        "Download the repository, then use the folder.",
        ExitCode.NETWORK,
    )
