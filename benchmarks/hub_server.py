"""The Hub that downloads are measured against: the tests' stand-in, as a process of its own.

    python benchmarks/hub_server.py FOLDER...

Each is the repository owner/NAME. Prints its address, and how many bytes a second it may send is
read from stdin, a line each time (0: as many as it can).
"""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    where = HERE.parent / "tests" / "hub" / "stand_in.py"
    spec = importlib.util.spec_from_file_location("stand_in", where)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["stand_in"] = module
    spec.loader.exec_module(module)
    with module.standing_in() as hub:
        for folder in map(Path, sys.argv[1:]):
            hub.add(f"owner/{folder.name}", folder)
        print(hub.url, flush=True)
        for line in sys.stdin:
            hub.rate = int(line) or None
            print("set", flush=True)


if __name__ == "__main__":
    main()
