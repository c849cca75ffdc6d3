"""An engine over Ray, on nodes that it joins in no other way.

All of a node runs under one process, as Ray's daemons and whoever uses them share folders, memory and
devices. That process ends them: the engine first, then Ray. A follower waits for the first node's
port, and ends when that port is gone. Ray and the engine must mean the same by "this node", or the
engine waits for a node that never comes: the variable that holds a node's address for the engine is
given the number that Ray is given, whatever the node is called. `ray start` may hang when it is told to
end, and a follower's daemons stay behind when the first node has gone before: both are killed then.
Sources: vLLM's examples multi-node-serving.sh and run_cluster.sh; Ray's `ray start --block`.
"""

from __future__ import annotations

from dsdeploy.deploy.launch import Symbol, Word

RAY_PORT = 6379
_BEGIN = """\
variable=$1 port=$2
read -r here _ < <(getent ahostsv4 "${!variable}") || here=${!variable}
export "$variable=$here"
ray= engine=
below() {
    local child
    for child in $(cat /proc/"$1"/task/*/children); do echo "$child"; below "$child"; done
}
end() {
    trap - EXIT TERM INT HUP
    [ -z "$engine" ] || { kill -TERM "$engine" && wait "$engine"; }
    daemons=$(below "$ray")
    kill -TERM "$ray"
    for _ in {1..10}; do kill -0 "$ray" || break; sleep 1; done
    kill -KILL "$ray" $daemons
} 2>/dev/null
trap end EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'exit 129' HUP
"""
_HEAD = (
    _BEGIN
    + """\
export RAY_ADDRESS=$here:$port
ray start --head --block --node-ip-address "$here" --port "$port" --include-dashboard false &
ray=$!
until ray status >/dev/null 2>&1; do
    kill -0 "$ray" 2>/dev/null || exit 1
    sleep 1
done
"${@:3}" &
engine=$!
while kill -0 "$ray" && kill -0 "$engine"; do sleep 1 & wait $!; done 2>/dev/null
! kill -0 "$engine" 2>/dev/null || exit 1
wait "$engine"
"""
)
_FOLLOWER = (
    _BEGIN
    + """\
head=$3
listens() { (: <>"/dev/tcp/$head/$port"); } 2>/dev/null
until listens; do sleep 1 & wait $!; done
ray start --block --address "$head:$port" --node-ip-address "$here" &
ray=$!
while listens; do
    kill -0 "$ray" 2>/dev/null || { wait "$ray"; exit; }
    sleep 5 & wait $!
done
exit 0
"""
)


def on_head(variable: str, command: tuple[Word, ...]) -> tuple[Word, ...]:
    """The command, with the head of a cluster that lives as long. `variable` is the one of its
    environment that holds this node's address."""
    return ("bash", "-c", _HEAD, "bash", variable, str(RAY_PORT), *command)


def follower(variable: str) -> tuple[Word, ...]:
    """A node that helps as long as the first one's Ray is there, and then ends well."""
    return ("bash", "-c", _FOLLOWER, "bash", variable, str(RAY_PORT), Symbol.HEAD)
