"""What the tests of downloads share: what a folder holds, and the command as a process."""

import json
import os
import signal
import subprocess
import sys
import time

NAME = "owner/model"


def contents(folder):
    """Path -> bytes of all files of a folder, at any depth, but the manifest."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "MANIFEST.json"
    }


def is_whole(folder, source):
    """Exactly the source's files, a manifest, and nothing that the work has left."""
    return contents(folder) == contents(source) and (folder / "MANIFEST.json").exists()


def manifest_of(folder):
    return json.loads((folder / "MANIFEST.json").read_text())


def asked(hub, origin, ending=""):
    """Paths of the requests to an origin that end so, in their order."""
    paths = (request[2].partition("?")[0] for request in hub.of_origin(origin))
    return [path for path in paths if path.endswith(ending) and "agent-harnesses" not in path]


def start(*words, stderr=subprocess.PIPE, **environment):
    """The command as a process that Ctrl-C reaches as in a terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "dsdeploy", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**os.environ, **environment},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_until(condition, process):
    """Or until the process has ended."""
    while not condition() and process.poll() is None:
        time.sleep(0.002)
