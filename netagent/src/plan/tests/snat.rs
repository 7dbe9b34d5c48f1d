//! N-8: the address under which an instance leaves.

use std::net::IpAddr;

use super::*;
use crate::host::fake::route;

#[test]
fn n8_a_snat_address_that_the_host_lacks_is_named_once_and_stops_no_step() {
    let host = host();
    let mut wanted = wanted(&[(0, 0, true), (1, 0, true), (2, 0, true)]);
    let addresses = ["198.51.100.7", "2001:db8::2"].map(|address| address.parse().unwrap());
    // Two interfaces of one instance, whose address is gone, and another, whose address is there.
    for interface in wanted.interfaces.values_mut() {
        let record = &mut interface.record;
        match (record.slot, addresses) {
            (0 | 1, [IpAddr::V4(address), _]) => {
                (record.instance, record.snat_v4) = (0, address.octets());
            }
            (2, [_, IpAddr::V6(address)]) => record.snat_v6 = address.octets(),
            other => panic!("{other:?}"),
        }
    }
    let [address, _] = addresses;
    let gone = Problem::SnatAddressGone {
        instance: 0,
        address,
    };
    assert_eq!(plan_of(&wanted, &host).problems, [gone]);
    converge(&wanted, &host);
    let local = route("198.51.100.7/32", KernelRouteKind::Local, UPLINK, None);
    host.state().observed.routes.push(local);
    let plan = plan_of(&wanted, &host);
    assert_eq!(plan.problems, []);
    let steps = [
        "route 198.51.100.7/32 denied: the host's own",
        "let flows look up their way again",
    ];
    assert_eq!(texts(&plan), steps);
}
