# A guest whose devices and kernel command line are those that `netagent guest` prints: an initramfs obeys every
# `ip=`, and IPv6 comes by advertisements.
has() { # what it must hold, what command...
    wanted=$1
    shift
    "$@" >/tmp/shown
    cat /tmp/shown
    grep -qF "$wanted" /tmp/shown
}

has_route_v6() {
    for _ in $(seq 30); do
        if ip -6 route | grep -q '^default via fe80::1 ' && ! ip -6 addr | grep -qE 'tentative|dadfailed'; then
            ip -6 route
            return
        fi
        sleep 1
    done
    ip -6 addr
    ip -6 route
    return 1
}

is_page() { [ "$(fetch "$1")" = "it works" ]; }

for word in $(tr ' ' '\n' </proc/cmdline | sed -n 's/^ip=//p'); do
    try "ip=$word" timeout 60 ipconfig -t 30 "$word"
done
for expected in $(argument expected); do
    device=$(echo "$expected" | cut -d, -f1)
    try "the hardware address of $device" has "$(echo "$expected" | cut -d, -f2)" ip link show dev "$device"
    try "the address of $device" has "inet $(echo "$expected" | cut -d, -f3)" ip addr show dev "$device"
    try "the MTU of $device" has "mtu $(echo "$expected" | cut -d, -f4) " ip link show dev "$device"
done
try "the route" has "default via $(argument gateway)" ip route
try "the host name" has "HOSTNAME='pasted'" cat /run/net-eth0.conf
try "the name server" has "IPV4DNS0='$(argument gateway)'" cat /run/net-eth0.conf
try "advertisements" has_route_v6
for address in $(argument world); do
    case "$address" in *:*) url="http://[$address]/" ;; *) url="http://$address/" ;; esac
    try "fetch $url" is_page "$url"
done
[ "$failed" = 1 ] || echo "guest: everything was reached"
