"""One process of those that run the models of JOBS and write their logits to OUT/RANK.pt: started by
torchrun for `test_ranks.py`, alone and with more threads for `test_attention_forms.py`."""

import json
import sys
from pathlib import Path

import numba
import torch
from driver import load, logits_with_generated, random_tokens

from dsdeploy.runner.parallel import join

jobs, out = Path(sys.argv[1]), Path(sys.argv[2])
group = join(torch.device("cpu"))
found = {
    name: logits_with_generated(load(Path(folder), group, **options), random_tokens(100), 95)
    for name, (folder, options) in json.loads(jobs.read_text()).items()
}
found["threads"] = numba.get_num_threads()
if group.rank == 0:
    group.broadcast({"step": 7})
else:
    found["received"] = group.receive()
torch.save(found, out / f"{group.rank}.pt")
if group.size > 1:
    # gloo's threads still run: without this some exits end in "terminate called" and SIGABRT.
    torch.distributed.destroy_process_group()
