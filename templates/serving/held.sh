# Runs FOLDER/start.sh on a node for as long as standard input stays open: an engine shall not
# outlive the connection, or the death, of whoever started it.    sh -c ... sh FOLDER MARKER GRACE
folder=$1 marker=$2 grace=$3
# shellcheck source=/dev/null
. "./$folder/environment" || exit
rm -f -- "$folder/environment"

marked() {
    grep -lsz "^DSDEPLOY_DEPLOYMENT=$marker\$" /proc/[0-9]*/environ | cut -d/ -f3
}

# To the leader, which ends its workers in good order; after the grace to all that is left.
end() {
    trap '' TERM
    kill -TERM "$engine" 2>/dev/null
    while [ "$grace" -gt 0 ] && kill -0 "$engine" 2>/dev/null; do
        sleep 1
        grace=$((grace - 1))
    done
    for signal in TERM KILL KILL; do
        left=$(marked)
        [ -n "$left" ] || break
        # shellcheck disable=SC2086  # numbers, one a word
        kill -s "$signal" $left 2>/dev/null
        sleep 1
    done
}

exec 3<&0
DSDEPLOY_DEPLOYMENT=$marker SPT_NOENV=1 setsid bash "$folder/start.sh" </dev/null 3<&- &
engine=$!
trap end TERM
(cat <&3; kill -TERM $$) >/dev/null 2>&1 &
watch=$!
wait "$engine"
status=$?
end
kill "$watch" 2>/dev/null
exit "$status"
