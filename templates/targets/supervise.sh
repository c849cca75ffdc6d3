dsdeploy_pids=()
dsdeploy_status=0

# The first failure or signal is the status of the whole.
dsdeploy_stop() {
    trap - TERM INT HUP
    ((dsdeploy_status != 0)) || dsdeploy_status=$1
    # A child that has only just been forked can lose a signal: let it become its program.
    ((SECONDS > 1)) || sleep 1
    ((${#dsdeploy_pids[@]} == 0)) || kill -TERM "${dsdeploy_pids[@]}" 2>/dev/null || :
}

# Until all have ended well, or one has not, which ends the others. `wait -n` does not return for one
# that a signal has killed just before it: so it ends once a second, and whoever is gone is asked for.
dsdeploy_join() {
    local index tick=
    SECONDS=0
    # A signal between two starts has missed the later one.
    ((dsdeploy_status == 0)) || dsdeploy_stop "$dsdeploy_status"
    while ((${#dsdeploy_pids[@]} > 0)); do
        kill -0 "$tick" 2>/dev/null || {
            sleep 1 &
            tick=$!
        }
        wait -n || {
            dsdeploy_stop "$?"
            break
        }
        for index in "${!dsdeploy_pids[@]}"; do
            ! kill -0 "${dsdeploy_pids[index]}" 2>/dev/null || continue
            wait "${dsdeploy_pids[index]}" || {
                dsdeploy_stop "$?"
                break 2
            }
            unset "dsdeploy_pids[index]"
        done
    done
    wait
    dsdeploy_pids=()
    return "$dsdeploy_status"
}

trap 'dsdeploy_stop 143' TERM
trap 'dsdeploy_stop 130' INT
trap 'dsdeploy_stop 129' HUP
