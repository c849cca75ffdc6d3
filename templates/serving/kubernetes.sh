
# Applies the manifests beside it, waits, follows the pods' logs, brings the service's port here, and
# deletes everything when told to end.
set -uo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" || exit
selector=app.kubernetes.io/name=$dsdeploy_name

secret() {
    kubectl create secret generic "$dsdeploy_name-secrets" --from-file=api-key=/dev/stdin \
        --dry-run=client --output=yaml < <(printf %s "$API_KEY") | kubectl apply --filename=-
}

end() {
    trap '' TERM INT
    kubectl delete --filename=kubernetes.yaml --ignore-not-found
    [[ -z ${API_KEY:-} ]] || kubectl delete secret "$dsdeploy_name-secrets" --ignore-not-found
    kubectl wait --for=delete pod --selector="$selector" --timeout=300s 2>/dev/null
    # shellcheck disable=SC2046  # numbers, one a word
    kill $(jobs -p) 2>/dev/null
    exit "$1"
}
trap 'end 143' TERM INT

follow_logs() {
    until kubectl logs --follow --prefix --all-containers --selector="$selector" --max-log-requests=64; do
        sleep 2
    done
}

# It ends whenever the pod does.
forward() {
    while :; do
        kubectl port-forward "service/$dsdeploy_name-api" "$dsdeploy_port:$dsdeploy_port" >/dev/null 2>&1
        sleep 1
    done
}

[[ -z ${API_KEY:-} ]] || secret || exit
kubectl apply --filename=kubernetes.yaml || end 1
follow_logs &
kubectl wait --for=condition=Ready pod --timeout="${dsdeploy_startup}s" \
    --selector="$selector,app.kubernetes.io/component=head" &
until wait $!; do
    # There may be no pod yet, which counts as an error.
    ((SECONDS < dsdeploy_startup)) || end 1
    sleep 2
    kubectl wait --for=condition=Ready pod --timeout="${dsdeploy_startup}s" \
        --selector="$selector,app.kubernetes.io/component=head" &
done
forward &
wait
