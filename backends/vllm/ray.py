"""vLLM over Ray, for releases that join nodes in no other way.

All of a node runs under one process, as Ray's daemons and whoever uses them share folders, memory and
devices. That process ends them: the engine first, then Ray. A follower waits for the first node's
port, and ends when that node is gone. Ray and the engine must mean the same by "this node", or the
engine waits for a node that never comes: both are given its number, whatever it is called. `ray start`
may hang when it is told to end; killed, it takes its daemons along.
Sources: vLLM's examples multi-node-serving.sh and run_cluster.sh; Ray's `ray start --block`.
"""

from __future__ import annotations

from dsdeploy.deploy.launch import Symbol, Word

RAY_PORT = 6379
_NUMBER_OF_HERE = """\
read -r here _ < <(getent ahostsv4 "$VLLM_HOST_IP") || here=$VLLM_HOST_IP
export VLLM_HOST_IP=$here
"""
_HEAD = (
    _NUMBER_OF_HERE
    + """\
export RAY_ADDRESS=$here:$1
engine=
end() {
    trap - EXIT TERM INT HUP
    [ -z "$engine" ] || { kill -TERM "$engine" && wait "$engine"; }
    kill -TERM "$ray"
    for _ in {1..10}; do kill -0 "$ray" || return; sleep 1; done
    kill -KILL "$ray"
} 2>/dev/null
trap end EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'exit 129' HUP
ray start --head --block --node-ip-address "$here" --port "$1" --include-dashboard false &
ray=$!
until ray status >/dev/null 2>&1; do
    kill -0 "$ray" 2>/dev/null || exit 1
    sleep 1
done
"${@:2}" &
engine=$!
while kill -0 "$ray" && kill -0 "$engine"; do sleep 1 & wait $!; done 2>/dev/null
! kill -0 "$engine" 2>/dev/null || exit 1
wait "$engine"
"""
)
_FOLLOWER = (
    _NUMBER_OF_HERE
    + """\
until (: <>"/dev/tcp/$1/$2") 2>/dev/null; do sleep 1; done
exec ray start --block --address "$1:$2" --node-ip-address "$here"
"""
)


def on_head(command: tuple[Word, ...]) -> tuple[Word, ...]:
    """The command, with the head of a cluster that lives as long."""
    return ("bash", "-c", _HEAD, "bash", str(RAY_PORT), *command)


FOLLOWER: tuple[Word, ...] = ("bash", "-c", _FOLLOWER, "bash", Symbol.HEAD, str(RAY_PORT))
