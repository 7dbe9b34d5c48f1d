# The shield: forwards what nft lets it, and hands connections to port 80 to the proxy.
take_addresses
# What `netagent guest` says that a relay's VM must set. accept_ra goes before forwarding, which would remove a default route
# that an advertisement brought.
while read -r setting value; do
    echo "$value" >"/proc/sys/net/$setting"
done <<END
ipv4/ip_forward 1
ipv4/conf/all/rp_filter 0
ipv4/conf/eth0/rp_filter 0
ipv4/conf/all/send_redirects 0
ipv4/conf/eth0/send_redirects 0
ipv6/conf/eth0/accept_ra 2
ipv6/conf/all/forwarding 1
END
nft -f "$(argument rules)"
set -- "$(argument proxy)" shield-proxy --port 3128 --credential "$(argument credential)"
for service in $(argument service); do set -- "$@" --service "$service"; done
log=$(argument log)
: >"$log"
"$@" >"$log" 2>&1 &
for _ in $(seq 300); do
    if grep -q "the proxy listens" "$log"; then break; fi
    sleep 0.1
done
