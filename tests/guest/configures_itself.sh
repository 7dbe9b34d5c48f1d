# A guest that no address is typed into: by ip=dhcp of an initramfs, then by busybox's DHCP client; IPv6 comes by
# advertisements.
by_initramfs() {
    word=$(tr ' ' '\n' </proc/cmdline | sed -n 's/^ip=//p')
    timeout 60 ipconfig -t 30 ":::::eth0:$word" && cat /run/net-eth0.conf
}

by_udhcpc() {
    timeout 60 udhcpc -f -n -q -i eth0 -t 10 -T 1 -O mtu -s /bin/take-lease && cat /tmp/lease
}

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
try_pages
