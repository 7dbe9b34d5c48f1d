//! What charts have in common: colours, scales, and how something is drawn into a picture.

use anyhow::{Result, anyhow};
use plotters::prelude::{
    Circle, DrawingArea, IntoDrawingArea, IntoFont, IntoTextStyle, PathElement, RGBColor,
    Rectangle, SVGBackend, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, ShapeStyle};

use crate::report::page::escaped;
use crate::report::standing::Role;

/// Text and whiskers. The style sheet knows every one of these colours, and replaces them in the dark.
pub(super) const INK: RGBColor = RGBColor(0x1b, 0x27, 0x33);
/// Text of less weight.
pub(super) const QUIET: RGBColor = RGBColor(0x5d, 0x6b, 0x7a);
/// Lines of the grid.
pub(super) const GRID: RGBColor = RGBColor(0xdf, 0xe5, 0xea);
/// Our own.
pub(super) const OWN: RGBColor = RGBColor(0xc8, 0x45, 0x0a);
/// Lines of the others: apart for every eye, and by their order in the legend.
pub(super) const PEERS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x2a, 0x8f, 0x72),
    RGBColor(0x7b, 0x61, 0xa8),
    RGBColor(0x56, 0xa4, 0xd9),
    RGBColor(0xa8, 0x8a, 0x1a),
    RGBColor(0x6b, 0x77, 0x85),
    RGBColor(0xb8, 0x6a, 0x9a),
];

/// Widths that a chart is drawn for: a screen, and a telephone. The page shows the one that fits.
pub(super) const WIDTHS: [(&str, i32); 2] = [("wide", 800), ("narrow", 360)];

/// Colour of a bar.
pub(super) const fn bar_colour(role: Role) -> RGBColor {
    match role {
        Role::Own => OWN,
        Role::Peer => RGBColor(0x86, 0x9d, 0xb5),
        Role::Less => RGBColor(0xb3, 0xc1, 0xcf),
        Role::Limit => RGBColor(0xd3, 0xdb, 0xe3),
    }
}

/// A place in the picture, pixels from the left and from the top.
pub(super) type Place = (i32, i32);

/// Values, and where they are in the picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    values: (f64, f64),
    pixels: (i32, i32),
    is_log: bool,
    /// Whether the first pixel stands for nothing at all.
    has_zero: bool,
}

impl Scale {
    /// From zero, or from the lowest where that is below.
    pub(super) fn linear((lowest, highest): (f64, f64), pixels: (i32, i32)) -> Self {
        let low = lowest.min(0.0);
        let high = if highest > low { highest } else { low + 1.0 };
        Self {
            values: (low, high),
            pixels,
            is_log: false,
            has_zero: false,
        }
    }

    /// By powers of ten; for values above zero alone.
    pub(super) fn log((lowest, highest): (f64, f64), pixels: (i32, i32)) -> Self {
        let is_one = highest <= lowest;
        let factor = if is_one { 2.0 } else { 1.0 };
        Self {
            values: (lowest / factor, highest * factor),
            pixels,
            is_log: true,
            has_zero: false,
        }
    }

    /// By powers of ten, as sizes are; zero, which has no place there, stands one power before the lowest of the others.
    pub(super) fn sizes(sizes: &[f64], pixels: (i32, i32)) -> Self {
        let above = || sizes.iter().copied().filter(|size| *size > 0.0);
        let highest = above().fold(1.0, f64::max);
        let lowest = above().fold(highest, f64::min);
        if sizes.contains(&0.0) {
            let scale = Self::log((lowest / 10.0, highest), pixels);
            return Self {
                has_zero: true,
                ..scale
            };
        }
        Self::log((lowest, highest), pixels)
    }

    /// Where a value is.
    pub(super) fn at(&self, value: f64) -> i32 {
        let ((low, high), (first, last)) = (self.values, self.pixels);
        let share = if self.is_log {
            (value.max(low) / low).ln() / (high / low).ln()
        } else {
            (value - low) / (high - low)
        };
        first + (share.clamp(0.0, 1.0) * f64::from(last - first)).round() as i32
    }

    /// Values that get a line: about five, all round.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let (low, high) = self.values;
        if self.has_zero {
            let others = log_ticks(low * 10.0, high);
            return std::iter::once(0.0).chain(others).collect();
        }
        if self.is_log {
            return log_ticks(low, high);
        }
        let step = round_step((high - low) / 5.0);
        let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
        (first..=last).map(|number| number as f64 * step).collect()
    }
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|factor| factor * power >= step);
    factor.unwrap_or(10.0) * power
}

/// Powers of ten; between few of them, their doubles and fives.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let factors: &[f64] = if high / low < 100.0 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    powers
        .flat_map(|power| {
            factors
                .iter()
                .map(move |factor| factor * 10_f64.powi(power))
        })
        .filter(|tick| (low * 0.999..=high * 1.001).contains(tick))
        .collect()
}

/// How a text lies beside its place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Left,
    Middle,
    Right,
}

/// A picture.
pub(super) struct Canvas<'a>(DrawingArea<SVGBackend<'a>, plotters::coord::Shift>);

impl Canvas<'_> {
    pub(super) fn line(&self, places: &[Place], style: impl Into<ShapeStyle>) -> Result<()> {
        let path = PathElement::new(places.to_vec(), style);
        self.0.draw(&path).map_err(|error| failed(&error))
    }

    pub(super) fn bar(&self, corners: [Place; 2], colour: RGBColor) -> Result<()> {
        let bar = Rectangle::new(corners, colour.filled());
        self.0.draw(&bar).map_err(|error| failed(&error))
    }

    pub(super) fn dot(
        &self,
        place: Place,
        radius: i32,
        style: impl Into<ShapeStyle>,
    ) -> Result<()> {
        let dot = Circle::new(place, radius, style);
        self.0.draw(&dot).map_err(|error| failed(&error))
    }

    /// A text whose middle is at the height of its place.
    pub(super) fn text(
        &self,
        text: &str,
        place: Place,
        (anchor, size, colour): (Anchor, i32, RGBColor),
    ) -> Result<()> {
        let horizontal = match anchor {
            Anchor::Left => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::Right => HPos::Right,
        };
        let style = ("sans-serif", size).into_font().into_text_style(&self.0);
        let style = style.color(&colour).pos(Pos::new(horizontal, VPos::Center));
        let text = Text::new(text.to_owned(), place, style);
        self.0.draw(&text).map_err(|error| failed(&error))
    }
}

/// Draws a picture of a size, for readers who see the `class` of it.
pub(super) fn picture(
    (class, label): (&str, &str),
    (width, height): (i32, i32),
    draw: impl FnOnce(&Canvas<'_>) -> Result<()>,
) -> Result<String> {
    let mut svg = String::new();
    {
        let size = (width.unsigned_abs(), height.unsigned_abs());
        let canvas = Canvas(SVGBackend::with_string(&mut svg, size).into_drawing_area());
        draw(&canvas)?;
        canvas.0.present().map_err(|error| failed(&error))?;
    }
    let head = format!(
        "<svg class=\"{class}\" role=\"img\" aria-label=\"{}\" ",
        escaped(label)
    );
    Ok(svg.replacen("<svg ", &head, 1))
}

fn failed(error: &impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_round() {
        let scale = Scale::linear((100.0, 1_130.0), (0, 1_130));
        assert_eq!(scale.ticks(), [0.0, 500.0, 1_000.0]);
        assert_eq!(
            [0.0, 565.0, 1_130.0].map(|value| scale.at(value)),
            [0, 565, 1_130]
        );
        let scale = Scale::linear((-3.0, 5.0), (0, 80));
        assert_eq!(scale.at(0.0), 30);
    }

    #[test]
    fn a_scale_of_powers_has_equal_steps() {
        let scale = Scale::log((1.0, 10_000.0), (0, 400));
        assert_eq!(scale.ticks(), [1.0, 10.0, 100.0, 1_000.0, 10_000.0]);
        assert_eq!(
            [1.0, 100.0, 10_000.0].map(|value| scale.at(value)),
            [0, 200, 400]
        );
        let one = Scale::log((5.0, 5.0), (0, 100));
        assert_eq!(one.at(5.0), 50);
    }

    #[test]
    fn a_size_of_zero_stands_before_the_others() {
        let scale = Scale::sizes(&[0.0, 1_000.0, 100_000.0], (0, 300));
        assert_eq!(scale.ticks(), [0.0, 1_000.0, 10_000.0, 100_000.0]);
        let places = [0.0, 1_000.0, 100_000.0].map(|size| scale.at(size));
        assert_eq!(places, [0, 100, 300]);
        assert_eq!(Scale::sizes(&[0.0], (0, 100)).at(0.0), 0);
        assert_eq!(Scale::sizes(&[1.0, 100.0], (0, 100)).at(10.0), 50);
    }

    #[test]
    fn nothing_is_outside_of_the_picture() {
        let none = Scale::linear((0.0, 0.0), (10, 20));
        assert_eq!(none.at(f64::MAX), 20);
        assert_eq!(none.at(-1.0), 10);
    }
}
