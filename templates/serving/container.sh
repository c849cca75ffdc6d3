
# Runs docker.sh beside it. Containers are no children of this script, so they are stopped and removed by
# their names, also those that an earlier run has left.
set -uo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" || exit

remove() {
    "$dsdeploy_program" rm --force "${dsdeploy_containers[@]}" >/dev/null 2>&1
}

end() {
    trap '' TERM INT
    "$dsdeploy_program" stop --time "$dsdeploy_grace" "${dsdeploy_containers[@]}" >/dev/null 2>&1
    wait
    remove
    exit 143
}

trap end TERM INT
remove
bash docker.sh &
wait $!
status=$?
remove
exit "$status"
