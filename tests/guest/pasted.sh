# A guest whose devices and kernel command line are those that `netagent guest` prints: an initramfs obeys every
# `ip=`, and IPv6 comes by advertisements.
for word in $(tr ' ' '\n' </proc/cmdline | sed -n 's/^ip=//p'); do
    try "ip=$word" timeout 60 ipconfig -t 30 "$word"
done
for expected in $(argument expected); do
    device=$(echo "$expected" | cut -d, -f1)
    try "the hardware address of $device" shows "$(echo "$expected" | cut -d, -f2)" ip link show dev "$device"
    try "the address of $device" shows "inet $(echo "$expected" | cut -d, -f3)" ip addr show dev "$device"
    try "the MTU of $device" shows "mtu $(echo "$expected" | cut -d, -f4) " ip link show dev "$device"
done
try "the route" shows "default via $(argument gateway)" ip route
try "the host name" shows "HOSTNAME='pasted'" cat /run/net-eth0.conf
try "the name server" shows "IPV4DNS0='$(argument gateway)'" cat /run/net-eth0.conf
try "advertisements" has_ipv6
try_pages
