# Debian's 6.1 kernel as a host: a veth uplink into a world, the agent, an instance, and a ping through it.
RUN="netagent run --config /etc/netagent/netagent.toml"
# busybox's shell takes its own applets of these names before those on PATH.
ip() { /bin/ip "$@"; }
tc() { /bin/tc "$@"; }
tap_ping() { tap-ping 203.0.113.1 2001:db8:200::1 </tmp/instance; }
ask_servers() { tap-ping dhcp router </tmp/instance; }

until_serves() { # seconds
    for _ in $(seq "$1"); do
        netagent ls >/dev/null 2>&1 && return
        kill -0 "$agent" 2>/dev/null || break
        sleep 1
    done
    cat /tmp/log
    return 1
}

# Both programs of a TAP hang in blocks that all TAPs share, that of the uplink in its own qdisc.
has_filters() {
    tc qdisc show dev "$1" | grep clsact && tc filter show dev "$1" "$2" | grep "netagent-"
}

# The uplink keeps its qdisc: others may have put filters there since.
has_nothing_left() {
    ls -d /sys/class/net/tap* /sys/class/net/netagent-idle 2>/dev/null && return 1
    find /sys/fs/bpf -mindepth 2 | grep . && return 1
    ! tc filter show dev uplink0 ingress | grep netagent
}

is_refused() { # what its complaint must hold, what command...
    wanted=$1
    shift
    timeout 60 "$@" >/tmp/refused 2>&1
    status=$?
    cat /tmp/refused
    echo "status $status"
    [ "$status" != 0 ] && [ "$status" != 143 ] && grep -q "$wanted" /tmp/refused
}

make_world() {
    mkdir -p /var/run
    while read -r words; do
        # shellcheck disable=SC2086 # words
        ip $words || return
    done <<END
netns add world
link add uplink0 type veth peer name world0 netns world
addr add 198.51.100.2/24 dev uplink0
addr add 2001:db8:100::2/64 dev uplink0 nodad
link set uplink0 up
-n world link set lo up
-n world link set world0 up
-n world addr add 198.51.100.1/24 dev world0
-n world addr add 2001:db8:100::1/64 dev world0 nodad
-n world addr add 203.0.113.1/32 dev lo
-n world addr add 2001:db8:200::1/128 dev lo nodad
route add default via 198.51.100.1
route add default via 2001:db8:100::1
END
}

try "the kernel" uname -sr
try "the world" make_world
try "doctor" netagent doctor

$RUN >/tmp/log 2>&1 &
agent=$!
try "the agent serves" until_serves 60
try "create" netagent create --name floor
netagent inspect --json floor >/tmp/instance
tap=$(sed -n 's/.*"tap_name": *"\([^"]*\)".*/\1/p' /tmp/instance)
try "ping" tap_ping
try "DHCP and advertisements" ask_servers
try "filters of $tap, from the VM" has_filters "$tap" ingress
try "filters of $tap, to the VM" has_filters "$tap" egress
try "filters of the uplink" has_filters uplink0 ingress
try "inspect" netagent inspect floor

kill -9 "$agent"
wait "$agent" 2>/dev/null
try "ping without the agent" tap_ping
try "down" netagent down --config /etc/netagent/netagent.toml
try "nothing is left" has_nothing_left

# Asked for what this kernel does not have.
sed 's/^attach = .*/attach = "tcx"/' /etc/netagent/netagent.toml >/tmp/tcx.toml
try "tcx is refused" is_refused "6.6" netagent run --config /tmp/tcx.toml
try "nothing is left by it" has_nothing_left
[ "$failed" = 1 ] || echo "guest: the kernel floor holds"
