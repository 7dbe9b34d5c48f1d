# A guest that no address is typed into: by ip=dhcp of an initramfs, then by busybox's DHCP client; IPv6 comes by
# advertisements.
shows() { # what it must hold, what command...
    wanted=$1
    shift
    "$@" >/tmp/shown
    cat /tmp/shown
    grep -qF "$wanted" /tmp/shown
}

by_initramfs() {
    word=$(tr ' ' '\n' </proc/cmdline | sed -n 's/^ip=//p')
    timeout 60 ipconfig -t 30 ":::::eth0:$word" && cat /run/net-eth0.conf
}

by_udhcpc() {
    timeout 60 udhcpc -f -n -q -i eth0 -t 10 -T 1 -O mtu -s /bin/take-lease && cat /tmp/lease
}

has_ipv6() {
    for _ in $(seq 30); do
        ip -6 addr show dev eth0 scope global >/tmp/ipv6
        if grep -q inet6 /tmp/ipv6 && ! grep -qE 'tentative|dadfailed' /tmp/ipv6 && ip -6 route | grep -q '^default via fe80::1 '; then
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

ip=$(argument ip) gateway=$(argument gateway) mtu=$(argument mtu)
try "ip=dhcp" by_initramfs
try "the address of ip=dhcp" shows "inet $ip" ip addr show dev eth0
try "the route of ip=dhcp" shows "default via $gateway" ip route
ip addr flush dev eth0
ip link set eth0 down
ip link set eth0 mtu 1500
ip link set eth0 up
try "udhcpc" by_udhcpc
try "the name, the name server and the MTU" shows "machine $gateway $mtu" cat /tmp/lease
try "the address" shows "inet $ip" ip addr show dev eth0
try "the MTU" shows "mtu $mtu" ip link show dev eth0
try "advertisements" has_ipv6
for address in $(argument world); do
    case "$address" in *:*) url="http://[$address]/" ;; *) url="http://$address/" ;; esac
    try "fetch $url" is_page "$url"
done
[ "$failed" = 1 ] || echo "guest: everything was reached"
