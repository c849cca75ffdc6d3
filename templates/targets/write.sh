# Mode, path, content; whole or not at all.
dsdeploy_write() {
    mkdir -p -- "$(dirname -- "$2")"
    (umask 077 && printf '%s' "$3" >"$2.new")
    chmod -- "$1" "$2.new"
    mv -f -- "$2.new" "$2"
}
