//! Numbers as people read them.

/// Three digits that mean something, and commas between thousands.
#[must_use]
pub fn tidy(value: f64) -> String {
    let size = value.abs();
    if !size.is_finite() {
        return "-".to_owned();
    }
    let decimals = match size {
        size if size >= 99.95 || size == 0.0 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        size if size >= 0.01 => 3,
        _ => 5,
    };
    let text = format!("{size:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let sign = if value < 0.0 { "-" } else { "" };
    format!("{sign}{}{rest}", grouped(whole))
}

/// A size: whole numbers as they are.
#[must_use]
pub fn size(value: f64) -> String {
    if value.fract() == 0.0 && value >= 0.0 {
        grouped(&format!("{value:.0}"))
    } else {
        tidy(value)
    }
}

/// How many times as much: two digits after the point, fewer where it is large.
#[must_use]
pub fn times(ratio: f64) -> String {
    match ratio {
        ratio if !ratio.is_finite() => "-".to_owned(),
        ratio if ratio >= 99.5 => format!("{}x", grouped(&format!("{ratio:.0}"))),
        ratio if ratio >= 9.95 => format!("{ratio:.1}x"),
        ratio => format!("{ratio:.2}x"),
    }
}

fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_mean_something() {
        for (value, text) in [
            (0.0, "0"),
            (0.004, "0.00400"),
            (0.25, "0.250"),
            (1.0, "1.00"),
            (12.34, "12.3"),
            (99.99, "100"),
            (1_234.5, "1,234"),
            (1_234_567.0, "1,234,567"),
            (-12.34, "-12.3"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(tidy(value), text);
        }
    }

    #[test]
    fn ratios_are_short() {
        assert_eq!(times(1.0), "1.00x");
        assert_eq!(times(12.34), "12.3x");
        assert_eq!(times(1_234.0), "1,234x");
        assert_eq!(times(f64::INFINITY), "-");
    }

    #[test]
    fn sizes_are_whole() {
        assert_eq!([1.0, 4_096.0, 0.5].map(size), ["1", "4,096", "0.500"]);
    }
}
