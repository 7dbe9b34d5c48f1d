#!/bin/sh
# Called by udhcpc and by dhclient with what they learned; takes it, and writes it down for the test.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
case "${reason:-$1}" in
bound | renew | BOUND | RENEW | REBIND | REBOOT) ;;
deconfig | PREINIT) exec ip link set "$interface" up ;;
*) exit 0 ;;
esac

# dhclient's names for udhcpc's variables.
: "${ip=$new_ip_address}" "${subnet=$new_subnet_mask}" "${router=$new_routers}" "${dns=$new_domain_name_servers}"
: "${hostname=$new_host_name}" "${mtu=$new_interface_mtu}" "${serverid=$new_dhcp_server_identifier}"
: "${lease=$new_dhcp_lease_time}" "${routes=$new_classless_routes}"

[ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
ip address replace "$ip/$subnet" dev "$interface"
# RFC 3442: where there are classless routes, the router is not looked at. Two routes at most: to the gateway, and
# by it.
if [ -n "$staticroutes" ]; then
    # udhcpc: "<net>/<bits> <gateway> ..."
    # shellcheck disable=SC2086 # words
    set -- $staticroutes
    while [ $# -ge 2 ]; do
        case "$2" in
        0.0.0.0) ip route replace "$1" dev "$interface" scope link ;;
        *) ip route replace "$1" via "$2" dev "$interface" ;;
        esac
        shift 2
    done
elif [ -n "$routes" ]; then
    # dhclient: bytes; the destination is a host's, then all.
    # shellcheck disable=SC2086 # words
    set -- $routes
    if [ "$1" = 32 ]; then
        ip route replace "$2.$3.$4.$5/32" dev "$interface" scope link
        shift 9
    fi
    [ "$1" != 0 ] || ip route replace default via "$2.$3.$4.$5" dev "$interface"
elif [ -n "$router" ]; then
    ip route replace default via "$router" dev "$interface"
fi
cat >"$lease_file.new" <<END
ip=$ip
subnet=$subnet
router=$router
dns=$dns
hostname=$hostname
mtu=$mtu
serverid=$serverid
lease=$lease
staticroutes=$staticroutes$routes
END
mv "$lease_file.new" "$lease_file"
