"""Write down which flags a release of an engine takes, by reading its sources.

    python tools/flag_catalogue.py vllm vllm-0.33.0-cp38-abi3-manylinux_2_28_x86_64.whl

adds that release to backends/vllm/flags.json, or refreshes it. Any number of wheels, folders that
an engine is installed in, or snapshots of its repository. Nothing of an engine is imported or run.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType

from catalogue_file import Contents, encode, load
from readers.environment import variables
from readers.sources import Sources, open_sources

BACKENDS = Path(__file__).parent.parent / "backends"
ENGINES = ("vllm", "sglang", "lmdeploy", "tensorrt_llm")


def main(words: list[str] | None = None) -> None:
    asked = _parser().parse_args(words)
    reader = importlib.import_module(f"readers.{asked.engine}")
    path: Path = asked.output or BACKENDS / asked.engine / "flags.json"
    contents = load(path, reader.NAME)
    for place in asked.places:
        sources = open_sources(place, reader.PACKAGE, asked.release)
        print(_add(contents, reader, sources), file=sys.stderr)
    path.write_text(encode(contents), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("places", nargs="+", type=Path, metavar="WHEEL_OR_FOLDER")
    parser.add_argument("--release", help="which one it is, where its files do not say so")
    parser.add_argument("--output", type=Path, help="in place of backends/ENGINE/flags.json")
    return parser


def _add(contents: Contents, reader: ModuleType, sources: Sources) -> str:
    commands = reader.commands(sources)
    contents.commands[sources.release] = commands
    contents.environment[sources.release] = variables(sources, reader.PREFIXES)
    contents.traits[sources.release] = reader.traits(sources)
    prefixes = {"environment_prefixes": list(reader.PREFIXES)}
    contents.kept = {"renames": {}} | contents.kept | prefixes
    counts = {name: sum(len(e["names"]) for e in found) for name, found in commands.items()}
    return f"{contents.engine} {sources.release}: spellings {counts}"


if __name__ == "__main__":
    main()
