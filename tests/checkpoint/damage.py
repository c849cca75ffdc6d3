"""Small tools to damage a checkpoint with."""

import json
import os
from contextlib import contextmanager

from dsdeploy.checkpoint.audit import audit
from dsdeploy.checkpoint.index import INDEX_NAME
from dsdeploy.checkpoint.reader import open_checkpoint
from dsdeploy.checkpoint.safetensors import build_header
from dsdeploy.checkpoint.shard import read_shard


def errors(folder):
    """What an audit has against a folder."""
    return [found.message for found in audit(open_checkpoint(folder)) if found.severity == "error"]


def notes(folder):
    return [found.message for found in audit(open_checkpoint(folder)) if found.severity == "note"]


def shard_of(folder, tensor):
    return folder / json.loads((folder / INDEX_NAME).read_text())["weight_map"][tensor]


@contextmanager
def edited_shard(path):
    """name -> (dtype, shape, bytes), written back at the end."""
    content = path.read_bytes()
    tensors = {
        entry.name: (entry.dtype, entry.shape, content[entry.start : entry.stop])
        for entry in read_shard(path).header.entries
    }
    yield tensors
    save_shard(path, tensors)


def save_shard(path, tensors):
    declared = ((name, dtype, shape) for name, (dtype, shape, _) in tensors.items())
    header, _ = build_header(declared, {"format": "pt"}, 64)
    path.write_bytes(header + b"".join(data for _, _, data in tensors.values()))


@contextmanager
def edited_json(path):
    document = json.loads(path.read_text())
    yield document
    path.write_text(json.dumps(document))


def edited_index(folder):
    return edited_json(folder / INDEX_NAME)


def overwrite(path, position, content):
    """Other bytes in place; the old ones."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        old = os.pread(descriptor, len(content), position)
        os.pwrite(descriptor, content, position)
    finally:
        os.close(descriptor)
    return old
