//! Every benchmark, in the order in which they run.

use anyhow::{Result, bail};

use crate::session::Session;
use crate::{
    between, collect, control, cpu, create, datapath, dhcp, dns, drop_all, flows, full, latency,
    limit, neighbour, policy, program_cost, rate, relay, replace, scale, start, storm, throughput,
};

/// A benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Benchmark {
    /// As the command line names it.
    pub name: &'static str,
    /// What it measures, in a line.
    pub about: &'static str,
    /// The shortest run that it is part of.
    pub extent: Extent,
    /// Measures, interleaved, and gives the session what it found.
    pub run: fn(&mut Session),
}

/// How much is measured where nothing is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// A first impression within two minutes.
    Quick,
    /// netagent beside its peers, within half an hour.
    Full,
    /// What has no peers too: the agent's own life, its servers, its tables at their limits.
    All,
}

impl Extent {
    /// As `--list` shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
            Self::All => "all",
        }
    }
}

const fn quick(name: &'static str, about: &'static str, run: fn(&mut Session)) -> Benchmark {
    benchmark((name, about), Extent::Quick, run)
}

const fn full(name: &'static str, about: &'static str, run: fn(&mut Session)) -> Benchmark {
    benchmark((name, about), Extent::Full, run)
}

const fn apart(name: &'static str, about: &'static str, run: fn(&mut Session)) -> Benchmark {
    benchmark((name, about), Extent::All, run)
}

const fn benchmark(
    (name, about): (&'static str, &'static str),
    extent: Extent,
    run: fn(&mut Session),
) -> Benchmark {
    Benchmark {
        name,
        about,
        extent,
        run,
    }
}

/// All of them.
pub const ALL: &[Benchmark] = &[
    quick(
        "datapath",
        "what a frame costs: guest to uplink, back, and guest to guest",
        datapath::run,
    ),
    quick(
        "throughput",
        "what TCP connections of a guest carry, every peer and passt",
        throughput::run,
    ),
    full(
        "between",
        "what TCP carries between guests and through a relay",
        between::run,
    ),
    full(
        "program-cost",
        "what a packet costs in the programs alone, branch by branch",
        program_cost::run,
    ),
    quick("flows", "new flows, in both families", flows::run),
    full(
        "latency",
        "how long a guest waits for an answer, and connections a second",
        latency::run,
    ),
    full(
        "cpu",
        "processor time of a guest's bulk transfer at a steady pace",
        cpu::run,
    ),
    apart(
        "full",
        "a full table of flows: refusals, and flows beside them",
        full::run,
    ),
    apart(
        "limit",
        "what arrives of more demand than a limit allows",
        limit::run,
    ),
    full(
        "rate",
        "how exactly a rate is limited, beside TBF and HTB",
        rate::run,
    ),
    apart("limit-cost", "what a limit costs each frame", limit::cost),
    full(
        "policy",
        "policies of many networks: frames of open flows, and new flows",
        policy::run,
    ),
    apart(
        "policy-replace",
        "policies of many networks that are replaced under traffic",
        policy::replaced,
    ),
    apart(
        "neighbour",
        "what a guest has beside another one that opens very many flows",
        neighbour::run,
    ),
    apart(
        "drop-all",
        "what a frame costs that deny-all drops",
        drop_all::run,
    ),
    apart("relay", "what a relay costs each frame", relay::run),
    apart(
        "relay-path",
        "what part of the processor's time the programs take on a relay's whole path",
        relay::share,
    ),
    apart("collect", "a collection pass over all flows", collect::run),
    quick(
        "create",
        "from the API call to a running instance",
        create::run,
    ),
    full(
        "control",
        "a guest's network made and taken away, and a long policy replaced, beside scripts",
        control::run,
    ),
    full(
        "replace",
        "packets lost while the agent is replaced under load",
        replace::run,
    ),
    apart("start", "starts with many instances", start::run),
    apart(
        "dhcp",
        "a guest from link up to its first byte from the world",
        dhcp::run,
    ),
    apart(
        "dns",
        "the resolver: time of a query, answers a second, memory of names",
        dns::run,
    ),
    apart("storm", "a thousand guests that boot at once", storm::run),
    // The last ones: for minutes afterwards the kernel takes thousands of TAPs away, and others would wait for that.
    full(
        "scale",
        "hosts that fill up: frames, one more instance, memory",
        scale::run,
    ),
    apart(
        "scale-10000",
        "hosts of 10,000 instances: frames, one more instance, memory",
        scale::many,
    ),
];

/// Those of these names, in the order of the catalogue; without names those of a run of this extent.
///
/// # Errors
/// For a name that there is not.
pub fn chosen(names: &[String], extent: Extent) -> Result<Vec<&'static Benchmark>> {
    let is_known = |name: &&String| ALL.iter().all(|one| one.name != name.as_str());
    if let Some(unknown) = names.iter().find(is_known) {
        let known: Vec<&str> = ALL.iter().map(|one| one.name).collect();
        bail!(
            "there is no benchmark '{unknown}'; there are: {}",
            known.join(", ")
        );
    }
    let is_wanted = |one: &&Benchmark| {
        if names.is_empty() {
            one.extent <= extent
        } else {
            names.iter().any(|name| name == one.name)
        }
    };
    Ok(ALL.iter().filter(is_wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_chosen_in_order() {
        for (index, one) in ALL.iter().enumerate() {
            assert!(ALL[..index].iter().all(|other| other.name != one.name));
        }
        let names = ["flows", "datapath"].map(str::to_owned);
        let found = chosen(&names, Extent::Quick).unwrap();
        let found: Vec<&str> = found.iter().map(|one| one.name).collect();
        assert_eq!(found, ["datapath", "flows"]);
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_that_there_are() {
        let refused = chosen(&["nothing".to_owned()], Extent::Full).unwrap_err();
        assert!(refused.to_string().contains("'nothing'"));
        for one in ALL {
            assert!(refused.to_string().contains(one.name), "{}", one.name);
        }
    }

    #[test]
    fn a_run_is_part_of_the_longer_one() {
        let [quick, full, all] = [Extent::Quick, Extent::Full, Extent::All]
            .map(|extent| chosen(&[], extent).unwrap().len());
        assert!(0 < quick && quick < full && full < all);
        assert_eq!(all, ALL.len());
    }
}
