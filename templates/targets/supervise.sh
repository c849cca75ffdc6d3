dsdeploy_pids=()

dsdeploy_stop() {
    trap - TERM INT HUP
    # A child that has only just been forked can lose a signal: let it become its program.
    ((SECONDS > 1)) || sleep 1
    ((${#dsdeploy_pids[@]} == 0)) || kill -TERM "${dsdeploy_pids[@]}" 2>/dev/null || :
}

# Until all have ended well, or one has not, which ends the others.
dsdeploy_join() {
    local status=0 _
    SECONDS=0
    for _ in "${dsdeploy_pids[@]}"; do
        wait -n || {
            status=$?
            break
        }
    done
    ((status == 0)) || dsdeploy_stop
    wait
    dsdeploy_pids=()
    return "$status"
}

trap dsdeploy_stop TERM INT HUP
