//! What the benchmarks put beside netagent: other people's programs, which nothing else here needs.

use xtask::paths;

use crate::setup::apt::Apt;
use crate::shell::say;

/// Programs of peers, and the Debian packages that they are in.
const PROGRAMS: [(&str, &str); 4] = [
    ("iptables-nft", "iptables"),
    ("iptables-legacy", "iptables"),
    ("ipset", "ipset"),
    ("passt", "passt"),
];

/// Peers that Debian has no package of: they take part where they are on `PATH`.
const OTHERS: [&str; 1] = ["einat"];

/// Installs the peers that are missing, and says which take no part: the benchmarks do without them, and say so too.
pub(crate) fn install_missing() {
    let mut packages: Vec<&str> = missing().map(|(_, package)| package).collect();
    packages.dedup();
    if let Some(mut apt) = Apt::detect()
        && let Err(error) = apt.install(&packages)
    {
        say(&format!("packages of peers were not installed: {error:#}"));
    }
    let others = OTHERS.into_iter();
    let others = others.filter(|program| paths::find_program(program).is_none());
    let left_out: Vec<&str> = missing()
        .map(|(program, _)| program)
        .chain(others)
        .collect();
    if !left_out.is_empty() {
        say(&format!(
            "peers that are not installed, and left out: {}",
            left_out.join(", ")
        ));
    }
}

fn missing() -> impl Iterator<Item = (&'static str, &'static str)> {
    PROGRAMS
        .into_iter()
        .filter(|(program, _)| paths::find_program(program).is_none())
}
