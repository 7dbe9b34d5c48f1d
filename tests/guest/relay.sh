# A relay: forwards as `netagent guest` says, and refuses what the sandbox sends to na.refused.
take_addresses
sys=/proc/sys/net
echo 0 >$sys/ipv4/conf/all/rp_filter
echo 0 >$sys/ipv4/conf/eth0/rp_filter
echo 0 >$sys/ipv4/conf/all/send_redirects
echo 0 >$sys/ipv4/conf/eth0/send_redirects
echo 2 >$sys/ipv6/conf/eth0/accept_ra
echo 1 >$sys/ipv4/ip_forward
echo 1 >$sys/ipv6/conf/all/forwarding
set_rules() {
    nft add table inet shield &&
        nft 'add chain inet shield forward { type filter hook forward priority 0; }' || return
    for address in $(argument refused); do
        case "$address" in *:*) family=ip6 ;; *) family=ip ;; esac
        nft add rule inet shield forward $family daddr "$address" tcp dport 80 counter reject with tcp reset || return
    done
    nft list ruleset
}
try "rules" set_rules
if [ "$failed" = 0 ]; then
    echo "guest: it forwards"
    # Until the test ends it.
    while :; do sleep 60; done
fi
