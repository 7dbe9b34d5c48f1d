//! Median and range of several rounds.

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
        let sorted = self.sorted();
        let last = sorted.len().checked_sub(1).expect("at least one round");
        sorted[((last as f64) * place).round() as usize]
    }

    /// The median: of an even number of rounds the middle of the two in the middle.
    ///
    /// # Panics
    /// Where there is no value.
    #[must_use]
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        let last = sorted.len().checked_sub(1).expect("at least one round");
        f64::midpoint(sorted[last / 2], sorted[last.div_ceil(2)])
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// Every value, in the order of the rounds.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_range_do_not_depend_on_the_order() {
        let mut figures = Figures::default();
        [5.0, 1.0, 9.0]
            .into_iter()
            .for_each(|value| figures.add(value));
        assert_eq!(figures.median(), 5.0);
        let places = [0.0, 0.5, 1.0].map(|place| figures.quantile(place));
        assert_eq!(places, [1.0, 5.0, 9.0]);
        assert_eq!(figures.values(), [5.0, 1.0, 9.0]);
    }

    #[test]
    fn the_median_of_an_even_number_is_in_the_middle_of_two() {
        assert_eq!(Figures::from_iter([4.0, 1.0, 2.0, 9.0]).median(), 3.0);
    }
}
