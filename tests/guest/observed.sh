# What a guest sees of its network when it has one, however it came by it.
shows() { # what it must hold, what command...
    wanted=$1
    shift
    "$@" >/tmp/shown
    cat /tmp/shown
    grep -qF "$wanted" /tmp/shown
}

# By advertisements, which take their time.
has_ipv6() {
    for _ in $(seq 30); do
        ip -6 addr >/tmp/ipv6
        if ip -6 addr show dev eth0 scope global | grep -q inet6 && ! grep -qE 'tentative|dadfailed' /tmp/ipv6 && ip -6 route | grep -q '^default via fe80::1 '; then
            cat /tmp/ipv6
            return
        fi
        sleep 1
    done
    ip -6 addr
    ip -6 route
    return 1
}

is_page() { [ "$(fetch "$1")" = "it works" ]; }

try_pages() {
    for address in $(argument world); do
        case "$address" in *:*) url="http://[$address]/" ;; *) url="http://$address/" ;; esac
        try "fetch $url" is_page "$url"
    done
    [ "$failed" = 1 ] || echo "guest: everything was reached"
}
