# The guest of `cargo xtask guest`: takes its addresses from the kernel's command line and tries the network.
failed=0
try() { # what command...
    what=$1
    shift
    if answer=$("$@" 2>&1); then
        echo "guest: $what: ok"
    else
        failed=1
        echo "guest: $what: FAILED"
    fi
    [ -z "$answer" ] || echo "$answer" | sed 's/^/guest:   /'
}

gw4=$(argument gw4) ip6=$(argument ip6) gw6=$(argument gw6) mtu=$(argument mtu)
echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
[ -z "$mtu" ] || ip link set eth0 mtu "$mtu"
ip link set eth0 up
ip addr add "$(argument ip4)" dev eth0
ip route add default via "$gw4" dev eth0
if [ -n "$ip6" ]; then
    ip -6 addr add "$ip6" dev eth0
    ip -6 route add default via "$gw6" dev eth0
fi

try "ping $gw4" ping -q -c 2 -W 2 "$gw4"
[ -z "$ip6" ] || try "ping $gw6" ping6 -q -c 2 -W 2 "$gw6%eth0"
for url in $(argument fetch); do
    try "fetch $url" fetch "$url"
done
[ "$failed" = 1 ] || echo "guest: everything was reached"
if [ -n "$(argument shell)" ]; then
    echo "guest: a shell; 'exit' powers off"
    setsid cttyhack sh
fi
