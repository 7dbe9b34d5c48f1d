//! Rounds of several tables: each on hosts of its own.

use super::host::Host;
use super::machine::Offloads;

/// Measures every table in each round, on hosts that the round makes anew: those with the same frames share them.
/// `measure` gets the place of the table beside its hosts.
pub fn on_new_hosts(
    rounds: u32,
    tables: &[Offloads],
    prepare: impl Fn(Offloads) -> Vec<Host>,
    mut measure: impl FnMut(usize, &[Host]),
) {
    for _ in 0..rounds {
        for offloads in [Offloads::On, Offloads::Off] {
            let places = tables.iter().enumerate();
            let mut places = places
                .filter(|(_, wanted)| **wanted == offloads)
                .map(|(place, _)| place)
                .peekable();
            if places.peek().is_some() {
                let hosts = prepare(offloads);
                places.for_each(|place| measure(place, &hosts));
            }
        }
    }
}
