# Prints the value of na.<name>=<value> on the kernel's command line, or in the file that a guest without a kernel of its
# own has instead.
argument() {
    for word in $(cat "${NA_CMDLINE:-/proc/cmdline}"); do
        case "$word" in "na.$1="*) echo "${word#*=}" ;; esac
    done
}

# Prints the page at http://<host>[:<port>][/<path>], an IPv6 host in brackets; fails unless it is answered with 200
# in ten seconds. Not wget: a static busybox has none of the C library's name services, and its wget crashes.
fetch() {
    location=${1#http://}
    authority=${location%%/*} path=/
    case "$location" in */*) path=/${location#*/} ;; esac
    port=80
    case "$authority" in
    *]:* | [!\[]*:*) port=${authority##*:} authority=${authority%:*} ;;
    esac
    host=${authority#\[}
    host=${host%\]}
    reply=$(printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$path" "$authority" | timeout 10 nc "$host" "$port" | tr -d '\r')
    case "$reply" in
    HTTP/1.?" 200 "*) echo "$reply" | sed '1,/^$/d' ;;
    *) return 1 ;;
    esac
}

# Takes the addresses that the kernel's command line gives for eth0, with default routes.
take_addresses() {
    gw4=$(argument gw4) ip6=$(argument ip6) gw6=$(argument gw6) mtu=$(argument mtu)
    echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
    [ -z "$mtu" ] || ip link set eth0 mtu "$mtu"
    ip link set eth0 up
    ip addr add "$(argument ip4)" dev eth0
    ip route add default via "$gw4" dev eth0
    [ -z "$ip6" ] || ip -6 addr add "$ip6" dev eth0
    [ -z "$ip6" ] || ip -6 route add default via "$gw6" dev eth0
}

# Runs a command and says on one line whether it worked; what it wrote follows. `failed` is 1 after the first failure.
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

# Pings both gateways.
try_gateways() {
    try "ping $gw4" ping -q -c 2 -W 2 "$gw4"
    [ -z "$ip6" ] || try "ping $gw6" ping6 -q -c 2 -W 2 "$gw6%eth0"
}
