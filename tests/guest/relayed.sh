# A sandbox behind a relay: fetches pages, and is refused others.
page() { # address
    case "$1" in *:*) set -- "[$1]" ;; esac
    [ "$(fetch "http://$1/")" = "it works" ]
}
# The relay may still boot.
comes() {
    for _ in $(seq 60); do
        page "$1" && return
        sleep 1
    done
    return 1
}
refused() {
    timeout 10 nc "$1" 80 </dev/null 2>/tmp/refused && return 1
    cat /tmp/refused
    grep -q "Connection refused" /tmp/refused
}

take_addresses
for address in $(argument permitted); do try "a page of $address" comes "$address"; done
for address in $(argument refused); do try "no page of $address" refused "$address"; done
if [ "$failed" = 0 ]; then
    echo "guest: everything was as it should be"
    # Until the test ends it.
    while :; do sleep 60; done
fi
