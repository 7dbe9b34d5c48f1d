//! How much an instance may send, receive and hold open, as it was asked for (P-11, P-13).

use std::fmt;
use std::ops::RangeInclusive;

use netagent_common::limit::PACKETS_PER_SECOND_MAX;
use serde_json::{Map, Value, json};

use crate::spec::{SpecError, cidr, members};

/// Members that hold limits (A-1).
pub const MEMBERS: [&str; 3] = ["bandwidth", "bandwidth_in", "limits"];

/// What may be asked for, kbit/s: 1 kbit to 100 gbit.
const KBIT: RangeInclusive<u64> = 1..=100_000_000;
/// What stands behind a number, and how many kbit/s it means. `mbps` and the like are not among them: to some they are
/// bytes.
const UNITS: [(&str, u64); 6] = [
    ("kbit", 1),
    ("mbit", 1_000),
    ("gbit", 1_000_000),
    ("k", 1),
    ("m", 1_000),
    ("g", 1_000_000),
];
/// Digits behind the point that still make a whole number of bits in the largest unit.
const DECIMALS_MAX: usize = 6;

/// The limits of an instance; `None` where there is none of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsSpec {
    /// What the guest may send.
    pub bandwidth: Option<Bandwidth>,
    /// What the guest may receive.
    pub bandwidth_in: Option<Bandwidth>,
    /// Packets that the guest may send in a second, and as many that it may receive.
    pub pps: Option<u32>,
    /// Flows that the instance may have open.
    pub flows: Option<u32>,
}

/// A rate of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bandwidth {
    kbit: u64,
}

impl Bandwidth {
    /// Bits in a second.
    #[must_use]
    pub const fn bits_per_second(self) -> u64 {
        self.kbit * 1_000
    }

    /// A number of Mbit/s, or one with its unit behind it.
    fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let with_unit = |(unit, kbit): (&str, u64)| Some((lower.strip_suffix(unit)?, kbit));
        let (number, unit) = UNITS
            .into_iter()
            .find_map(with_unit)
            .unwrap_or((&lower, 1_000));
        let kbit = scaled(number, unit)?;
        KBIT.contains(&kbit).then_some(Self { kbit })
    }
}

/// A decimal number of units, in whole parts.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > DECIMALS_MAX {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let decimals_of_unit = decimals.parse::<u64>().ok()? * unit;
    let one = 10_u64.pow(u32::try_from(decimals.len()).ok()?);
    let is_whole = decimals_of_unit.is_multiple_of(one);
    let sum = whole
        .checked_mul(unit)?
        .checked_add(decimals_of_unit / one)?;
    is_whole.then_some(sum)
}

/// In the largest unit of which it is a whole number.
impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kbit {
            kbit if kbit.is_multiple_of(1_000_000) => write!(f, "{}gbit", kbit / 1_000_000),
            kbit if kbit.is_multiple_of(1_000) => write!(f, "{}mbit", kbit / 1_000),
            kbit => write!(f, "{kbit}kbit"),
        }
    }
}

impl LimitsSpec {
    /// Reads them from an object whose members are known and of the right types. Values that are wrong are on the list of
    /// faults and left out.
    pub(crate) fn read(object: &Map<String, Value>, faults: &mut Vec<SpecError>) -> Self {
        Self {
            bandwidth: bandwidth(object, "bandwidth", faults),
            bandwidth_in: bandwidth(object, "bandwidth_in", faults),
            pps: count(object, "pps", PPS, faults),
            flows: count(object, "flows", FLOWS, faults),
        }
    }

    /// Reads them from the body of a request that replaces them: what it does not name is not limited.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(object: &Map<String, Value>) -> Result<Self, SpecError> {
        members::check_replacement(object, |faults| Self::read(object, faults))
    }

    /// The members that say the same; those that hold their default are left out.
    #[must_use]
    pub fn members(&self) -> Map<String, Value> {
        let text = |rate: Option<Bandwidth>| rate.map(|rate| json!(rate.to_string()));
        let counts = members::object([
            ("pps", self.pps.map(Value::from)),
            ("flows", self.flows.map(Value::from)),
        ]);
        members::object([
            ("bandwidth", text(self.bandwidth)),
            ("bandwidth_in", text(self.bandwidth_in)),
            ("limits", (!counts.is_empty()).then_some(counts.into())),
        ])
    }
}

/// What `limits.pps` may be.
const PPS: (RangeInclusive<u64>, &str) = (
    1..=PACKETS_PER_SECOND_MAX,
    "1 to 100000000 packets per second",
);
/// What `limits.flows` may be, before the agent looks at its configuration.
const FLOWS: (RangeInclusive<u64>, &str) = (1..=u32::MAX as u64, "1 or more");

fn bandwidth(
    object: &Map<String, Value>,
    member: &'static str,
    faults: &mut Vec<SpecError>,
) -> Option<Bandwidth> {
    let value = object.get(member).filter(|value| !value.is_null())?;
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    let parsed = Bandwidth::parse(&text);
    if parsed.is_none() {
        faults.push(SpecError::Value {
            member,
            value: cidr::shown(&text),
            expected: "a number of Mbit/s, or one with kbit, mbit or gbit behind it, from 1kbit to 100gbit",
        });
    }
    parsed
}

/// A member of `limits`.
fn count(
    object: &Map<String, Value>,
    member: &'static str,
    (range, expected): (RangeInclusive<u64>, &'static str),
    faults: &mut Vec<SpecError>,
) -> Option<u32> {
    let limits = object.get("limits").and_then(Value::as_object)?;
    let asked = limits.get(member).and_then(Value::as_u64)?;
    let fits = u32::try_from(asked).ok().filter(|_| range.contains(&asked));
    if fits.is_none() {
        faults.push(SpecError::Value {
            member,
            value: asked.to_string(),
            expected,
        });
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<LimitsSpec, SpecError> {
        LimitsSpec::parse(
            serde_json::from_str::<Value>(text)
                .unwrap()
                .as_object()
                .unwrap(),
        )
    }

    fn check_error(text: &str, expected: &str) {
        assert_eq!(parsed(text).unwrap_err().to_string(), expected, "{text}");
    }

    fn check(text: &str, expected: &str) {
        let shown = Bandwidth::parse(text).map(|rate| rate.to_string());
        assert_eq!(shown.as_deref(), Some(expected), "{text}");
    }

    #[test]
    fn p11_a_number_means_megabits_and_units_mean_what_they_say() {
        check("50", "50mbit");
        check("50m", "50mbit");
        check("50mbit", "50mbit");
        check("50Mbit", "50mbit");
        check("1kbit", "1kbit");
        check("1k", "1kbit");
        check("1500kbit", "1500kbit");
        check("1000kbit", "1mbit");
        check("1.5mbit", "1500kbit");
        check("0.001", "1kbit");
        check("2.5g", "2500mbit");
        check("0.000001gbit", "1kbit");
        check("100gbit", "100gbit");
        check("100000", "100gbit");
        let rate = parsed(r#"{"bandwidth": 50}"#).unwrap().bandwidth;
        assert_eq!(rate.map(Bandwidth::bits_per_second), Some(50_000_000));
    }

    #[test]
    fn p11_what_is_no_rate_is_refused_with_what_may_stand_there() {
        let what =
            "a number of Mbit/s, or one with kbit, mbit or gbit behind it, from 1kbit to 100gbit";
        for bad in [
            "",
            "0",
            "0kbit",
            "0.5kbit",
            "100.001gbit",
            "101gbit",
            "100001",
            "fast",
            "mbit",
            "-1",
            "+1",
            "1e3",
            "50 mbit",
            "50mbps",
            "50mb",
            "1.mbit",
            ".5mbit",
            "1.2.3",
            "1,5",
            "1.0000001gbit",
            "99999999999999999999",
        ] {
            for member in ["bandwidth", "bandwidth_in"] {
                check_error(
                    &json!({ member: bad }).to_string(),
                    &format!("Invalid value '{bad}' of member '{member}': use {what}"),
                );
            }
        }
        check_error(
            r#"{"bandwidth": 0}"#,
            &format!("Invalid value '0' of member 'bandwidth': use {what}"),
        );
        let wrong = "Member 'bandwidth' must be a whole number or a text";
        check_error(r#"{"bandwidth": 1.5}"#, wrong);
        check_error(r#"{"bandwidth": true}"#, wrong);
    }

    #[test]
    fn p13_packets_and_flows_are_counts_from_one() {
        let limits = parsed(r#"{"limits": {"pps": 1, "flows": 100}}"#).unwrap();
        assert_eq!((limits.pps, limits.flows), (Some(1), Some(100)));
        let none = parsed(r#"{"limits": {"pps": null}}"#).unwrap();
        assert_eq!(none, LimitsSpec::default());
        check_error(
            r#"{"limits": {"pps": 0}}"#,
            "Invalid value '0' of member 'pps': use 1 to 100000000 packets per second",
        );
        check_error(
            r#"{"limits": {"pps": 100000001}}"#,
            "Invalid value '100000001' of member 'pps': use 1 to 100000000 packets per second",
        );
        check_error(
            r#"{"limits": {"flows": 0}}"#,
            "Invalid value '0' of member 'flows': use 1 or more",
        );
        check_error(
            r#"{"limits": {"flows": 4294967296}}"#,
            "Invalid value '4294967296' of member 'flows': use 1 or more",
        );
        check_error(r#"{"limits": {"qps": 1}}"#, "Unknown member 'qps'");
        check_error(r#"{"limits": 5}"#, "Member 'limits' must be an object");
    }

    #[test]
    fn their_members_say_the_same_again() {
        for text in [
            "{}",
            r#"{"bandwidth":"1500kbit"}"#,
            r#"{"bandwidth":"50mbit","bandwidth_in":"1gbit","limits":{"pps":5,"flows":7}}"#,
        ] {
            let members = parsed(text).unwrap().members();
            assert_eq!(Value::Object(members).to_string(), text);
        }
    }
}
