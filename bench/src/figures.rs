//! Median and range of several rounds, and what the machine was doing meanwhile.

use std::fmt;
use std::fs;

/// Values of one variant, one for each round.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    values: Vec<f64>,
}

impl Figures {
    /// Notes the value of a round.
    pub fn add(&mut self, value: f64) {
        self.values.push(value);
    }

    /// The value at a place between 0 (lowest) and 1 (highest).
    ///
    /// # Panics
    /// Where there is no value.
    #[must_use]
    pub fn quantile(&self, place: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1).expect("at least one round");
        sorted[((last as f64) * place).round() as usize]
    }

    /// The median.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Every value, in the order of the rounds.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The same as text.
    #[must_use]
    pub fn raw(&self) -> String {
        let values: Vec<String> = self
            .values
            .iter()
            .map(|value| format!("{value:.1}"))
            .collect();
        values.join(" ")
    }
}

/// Those of rounds that were made.
impl FromIterator<f64> for Figures {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self {
            values: values.into_iter().collect(),
        }
    }
}

/// Median, lowest and highest.
impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, low, high) = (self.median(), self.quantile(0.0), self.quantile(1.0));
        write!(formatter, "{median:9.1} ({low:.1}-{high:.1})")
    }
}

/// Prints the kernel, the processors and the load.
pub fn print_machine(when: &str) {
    let read = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let load = read("/proc/loadavg");
    println!("{when}: load {load}; {}", read("/proc/version"));
    if load
        .split(' ')
        .next()
        .and_then(|load| load.parse().ok())
        .is_none_or(|load: f64| load > 0.3)
    {
        println!("{when}: the machine is not idle: trust the ratios, not the figures");
    }
}

/// Says whether a figure meets its target.
pub fn print_target(what: &str, value: f64, (comparison, target): (char, f64)) {
    let met = if comparison == '<' {
        value <= target
    } else {
        value >= target
    };
    let verdict = if met { "met" } else { "MISSED" };
    println!("  {what}: {value:.3} (target {comparison}= {target}): {verdict}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_range_do_not_depend_on_the_order() {
        let mut figures = Figures::default();
        [5.0, 1.0, 9.0]
            .into_iter()
            .for_each(|value| figures.add(value));
        assert_eq!(figures.to_string(), "      5.0 (1.0-9.0)");
        assert_eq!(figures.raw(), "5.0 1.0 9.0");
    }
}
