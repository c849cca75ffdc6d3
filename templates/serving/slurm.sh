
# Submits the job beside it, tells where it answers, follows its log, and cancels it when told to end.
set -uo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" || exit
rm -f job.log
job=$(sbatch --parsable --output="${PWD//%/%%}/job.log" job.sbatch) || exit
job=${job%%;*}

state() {
    squeue --noheader --jobs="$job" --format=%T 2>/dev/null
}

end() {
    trap '' TERM INT
    scancel "$job"
    while [[ -n $(state) ]]; do sleep 1; done
    stop_following
    exit 143
}
trap end TERM INT

# The loopback of a node is reached from that node alone.
tell_address() {
    local head
    head=$(scontrol show hostnames "$(squeue --noheader --jobs="$job" --format=%N)" | head -n 1)
    if ((dsdeploy_loopback)); then
        if [[ $(scontrol show node "$head" | sed -n 's/.*NodeHostName=\([^ ]*\).*/\1/p') != "$(hostname -s)" ]]; then
            echo "The engine listens on the loopback of $head alone: serve with --host 0.0.0.0."
            scancel "$job"
            return
        fi
        head=$dsdeploy_host
    fi
    printf 'http://%s:%s' "$head" "$dsdeploy_port" >address.new
    mv -- address.new address
}

stop_following() {
    sleep 1
    kill "$follower" 2>/dev/null
}

touch job.log
tail -n +1 -F job.log 2>/dev/null &
follower=$!
before=''
while now=$(state) && [[ -n $now ]]; do
    if [[ $now != "$before" ]]; then
        echo "job $job: $now"
        [[ $now != RUNNING ]] || tell_address
        before=$now
    fi
    sleep 1 &
    wait $!
done
stop_following
code=$(scontrol show job "$job" 2>/dev/null | sed -n 's/.*ExitCode=\([0-9]*\):\([0-9]*\).*/\1 \2/p')
echo "job $job has ended: $(scontrol show job "$job" 2>/dev/null | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p')"
read -r status signal <<<"${code:-1 0}"
exit $((status ? status : signal ? 128 + signal : 0))
