"""An engine that says a gigabyte."""

import re
import time

import psutil

from dsdeploy.serving.log import KEPT, LARGEST, last_lines


def test_a_gigabyte_of_log_fills_neither_disk_nor_memory(standing_in):
    with standing_in("vllm", "floods 1024") as running:
        ready = running.until("ready")
        supervisor = psutil.Process(ready.supervisor)
        while last_lines(running.folder / "log", 1) != ["the flood is over"]:
            time.sleep(0.5)
            assert supervisor.memory_info().rss < 200 * 2**20
        assert running.until("ready").attempt == 1
        kept = sorted(
            path for path in running.folder.iterdir() if re.fullmatch(r"log(\.\d)?", path.name)
        )
        assert len(kept) == KEPT + 1
        assert sum(path.stat().st_size for path in kept) <= (KEPT + 1) * LARGEST
