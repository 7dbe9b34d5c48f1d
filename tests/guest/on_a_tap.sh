# A guest on a TAP of netagent: pings its gateways, then pings every na.world and fetches its page.
fetch_page() { # url
    fetch "$1" >/tmp/page && seq "$(argument lines)" | cmp - /tmp/page && wc -c </tmp/page
}

take_addresses
try_gateways
for address in $(argument world); do
    case "$address" in *:*) url="http://[$address]/" ;; *) url="http://$address/" ;; esac
    try "ping $address" ping -q -c 1 -W 5 "$address"
    try "fetch $url" fetch_page "$url"
done
if [ "$failed" = 0 ]; then
    echo "guest: everything was reached"
    # Up until the test ends it, so that the host can ping it.
    while :; do sleep 60; done
fi
