# The guest of `cargo xtask guest`: takes its addresses from the kernel's command line and tries the network.
take_addresses
try_gateways
for url in $(argument fetch); do
    try "fetch $url" fetch "$url"
done
[ "$failed" = 1 ] || echo "guest: everything was reached"
if [ -n "$(argument shell)" ]; then
    echo "guest: a shell; 'exit' powers off"
    setsid cttyhack sh
fi
