"""A real Slurm: its controller and two nodes, all on this machine, for one script of bash."""

import os
import shutil
import socket
import subprocess

import pytest

from .ports import free_ports

NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "munge", "unshare", "runuser")
HOST = socket.gethostname().partition(".")[0]

# In a mount namespace, so that munge's socket and the daemons' files are seen by none but these, and
# the nodes' names lead here.
START = """
mount -t tmpfs none /run
mkdir /run/munge
(cat /etc/hosts; echo 127.0.0.1 one two) >hosts
mount --bind hosts /etc/hosts
chown munge: /run/munge
runuser -u munge -- munged --socket=/run/munge/test --pid-file=/run/munge/pid \\
    --log-file=/run/munge/log --seed-file=/run/munge/seed --foreground 2>/dev/null &
until munge -n -S /run/munge/test; do sleep 0.1; done >/dev/null 2>&1
slurmctld -D >controller.log 2>&1 &
slurmd -D -N one >one.log 2>&1 &
slurmd -D -N two >two.log 2>&1 &
trap 'kill $(jobs -p); wait' EXIT
until [ "$(sinfo -h -t idle -o %D)" = 2 ]; do sleep 0.2; done
"""
SETTINGS = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthInfo=socket=/run/munge/test
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldPort={ports[0]}
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4
PartitionName=all Nodes=one,two Default=YES State=UP
"""


def run_in_slurm(script, folder, environment, timeout=60):
    """In `folder`, with a cluster that is up; skipped where Slurm cannot be started."""
    missing = [name for name in NEEDED if not shutil.which(name, path="/usr/sbin:/usr/bin:/bin")]
    if missing or os.geteuid() != 0:
        pytest.skip(f"no {', '.join(missing) or 'right to start Slurm'}")
    (folder / "state").mkdir()
    settings = SETTINGS.format(host=HOST, folder=folder, ports=free_ports(3))
    (folder / "slurm.conf").write_text(settings)
    path = f"/usr/sbin:{environment.get('PATH', os.environ['PATH'])}"
    return subprocess.run(
        ["unshare", "-m", "bash", "-c", START + script],
        cwd=folder,
        env={**environment, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf")},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
