# A guest on a TAP of netagent: pings its gateways, then fetches the page of every na.world and compares it.
fetch_page() { # url
    sum=$(fetch "$1" | sha256sum)
    echo "sha256 ${sum%% *}"
    [ "${sum%% *}" = "$(argument page)" ]
}

take_addresses
try_gateways
for url in $(argument world); do
    host=${url#http://}
    try "ping ${host%/}" ping -q -c 1 -W 5 "$(echo "${host%/}" | tr -d '[]')"
    try "fetch $url" fetch_page "$url"
done
if [ "$failed" = 0 ]; then
    echo "guest: everything was reached"
    # Up until the test ends it, so that the host can ping it.
    while :; do sleep 60; done
fi
