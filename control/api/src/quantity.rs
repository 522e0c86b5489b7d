//! Quantities: `100m`, `1.5`, `128Mi`, `1e3`.
//!
//! Grammar and canonical form:
//! <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.

use std::fmt;

/// An exact amount, kept in billionths (the finest step the API knows, `1n`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount {
    nanos: i128,
}

/// Text that is no quantity; displays as the stock server words it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct ParseError;

/// How a quantity was written, which its canonical form keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Binary,
    Decimal,
    Exponent,
}

const NANO: i128 = 1_000_000_000;

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount { nanos: 0 };

    /// A whole number of units.
    pub const fn from_units(units: i64) -> Self {
        Amount { nanos: units as i128 * NANO }
    }

    /// A number of thousandths.
    pub const fn from_millis(millis: i64) -> Self {
        Amount { nanos: millis as i128 * 1_000_000 }
    }

    /// A number of billionths.
    pub const fn from_nanos(nanos: i128) -> Self {
        Amount { nanos }
    }

    /// Parses a quantity.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parse(text).map(|(amount, _)| amount)
    }

    /// Whole units, rounded up, as the API does for memory and counts.
    pub fn units(self) -> i64 {
        clamp(self.nanos.div_euclid(NANO) + i128::from(self.nanos.rem_euclid(NANO) != 0))
    }

    /// Thousandths, rounded up, as the API does for CPU.
    pub fn millis(self) -> i64 {
        clamp(self.nanos.div_euclid(1_000_000) + i128::from(self.nanos.rem_euclid(1_000_000) != 0))
    }

    /// The nearest number that a computer calculates fast with.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// True if below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }
}

/// An amount and how it was written: a sum reads like its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    amount: Amount,
    format: Format,
}

impl Written {
    /// Parses a quantity.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parse(text).map(|(amount, format)| Written { amount, format })
    }

    /// A number of things.
    pub const fn count(units: i64) -> Self {
        Written { amount: Amount::from_units(units), format: Format::Decimal }
    }

    /// How much it is.
    pub const fn amount(self) -> Amount {
        self.amount
    }

    fn with(self, amount: Amount, other: Written) -> Self {
        let format = if self.amount == Amount::ZERO { other.format } else { self.format };
        Written { amount, format }
    }

    /// The larger of both.
    pub fn max(self, other: Written) -> Self {
        if other.amount > self.amount { other } else { self }
    }
}

impl std::ops::Add for Written {
    type Output = Written;
    fn add(self, other: Written) -> Written {
        self.with(self.amount + other.amount, other)
    }
}

impl std::ops::Sub for Written {
    type Output = Written;
    fn sub(self, other: Written) -> Written {
        self.with(self.amount - other.amount, other)
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format(self.amount, self.format))
    }
}

impl std::ops::Add for Amount {
    type Output = Amount;
    fn add(self, other: Amount) -> Amount {
        Amount { nanos: self.nanos.saturating_add(other.nanos) }
    }
}

impl std::ops::Sub for Amount {
    type Output = Amount;
    fn sub(self, other: Amount) -> Amount {
        Amount { nanos: self.nanos.saturating_sub(other.nanos) }
    }
}

impl std::iter::Sum for Amount {
    fn sum<I: Iterator<Item = Amount>>(amounts: I) -> Amount {
        amounts.fold(Amount::ZERO, |a, b| a + b)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format(*self, Format::Decimal))
    }
}

/// The canonical form of a quantity: no precision lost, no fraction, the largest suffix of the
/// family it was written in (`1024Mi` → `1Gi`, `0.5` → `500m`).
pub fn canonical(text: &str) -> Result<String, ParseError> {
    let (amount, written) = parse(text)?;
    Ok(format(amount, written))
}

fn clamp(value: i128) -> i64 {
    value.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

fn parse(text: &str) -> Result<(Amount, Format), ParseError> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') {
        return Err(ParseError);
    }
    let (scale, written) = scale_of(suffix)?;
    let mut nanos: i128 = 0;
    // value = digits × scale, each digit at its place; what is finer than a billionth rounds up.
    let mut inexact = false;
    for digit in whole.bytes() {
        nanos = nanos.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
    }
    nanos = match scale {
        Scale::Times(factor) => nanos.saturating_mul(factor).saturating_mul(NANO),
        Scale::Nanos(factor) => nanos.saturating_mul(factor),
        Scale::Divided(divisor) => {
            inexact |= nanos % divisor != 0;
            nanos / divisor
        }
    };
    let unit = match scale {
        Scale::Times(factor) => factor.saturating_mul(NANO),
        Scale::Nanos(factor) => factor,
        Scale::Divided(_) => 0,
    };
    let mut place = unit;
    let mut numerator: i128 = 0;
    let mut divisor: i128 = 1;
    for digit in fraction.bytes().take(18) {
        numerator = numerator * 10 + i128::from(digit - b'0');
        divisor *= 10;
        place = unit;
    }
    if divisor > 1 {
        let product = place.saturating_mul(numerator);
        nanos = nanos.saturating_add(product / divisor);
        inexact |= product % divisor != 0;
    }
    if inexact {
        nanos = nanos.saturating_add(1);
    }
    Ok((Amount { nanos: if negative { -nanos } else { nanos } }, written))
}

enum Scale {
    /// The number counts this many units.
    Times(i128),
    /// The number counts this many billionths.
    Nanos(i128),
    /// The number counts billionths divided by this.
    Divided(i128),
}

fn scale_of(suffix: &str) -> Result<(Scale, Format), ParseError> {
    let binary = |power: u32| (Scale::Times(1i128 << (10 * power)), Format::Binary);
    let decimal = |power: u32| (Scale::Times(1000i128.pow(power)), Format::Decimal);
    Ok(match suffix {
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        "n" => (Scale::Nanos(1), Format::Decimal),
        "u" => (Scale::Nanos(1_000), Format::Decimal),
        "m" => (Scale::Nanos(1_000_000), Format::Decimal),
        "" => decimal(0),
        "k" => decimal(1),
        "M" => decimal(2),
        "G" => decimal(3),
        "T" => decimal(4),
        "P" => decimal(5),
        "E" => decimal(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseError)?;
            let exponent: i32 = exponent.parse().map_err(|_| ParseError)?;
            let scale = match exponent {
                0..=20 => Scale::Times(10i128.pow(exponent.unsigned_abs())),
                -9..0 => Scale::Nanos(10i128.pow((9 + exponent).unsigned_abs())),
                -30..-9 => Scale::Divided(10i128.pow((-9 - exponent).unsigned_abs())),
                _ => return Err(ParseError),
            };
            (scale, Format::Exponent)
        }
    })
}

fn format(amount: Amount, written: Format) -> String {
    let nanos = amount.nanos;
    if nanos == 0 {
        return "0".to_owned();
    }
    let whole = nanos % NANO == 0;
    if written == Format::Binary && whole && nanos.abs() >= 1024 * NANO {
        let mut value = nanos / NANO;
        let mut power = 0;
        while value % 1024 == 0 && power < 6 {
            value /= 1024;
            power += 1;
        }
        return format!("{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
    }
    let mut value = nanos;
    let mut power: i32 = -3;
    while value % 1000 == 0 && power < 6 {
        value /= 1000;
        power += 1;
    }
    if written == Format::Exponent {
        return if power == 0 { value.to_string() } else { format!("{value}e{}", power * 3) };
    }
    let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][(power + 3).unsigned_abs() as usize];
    format!("{value}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, units: i64, millis: i64, expected: &str) {
        let amount = Amount::parse(text).unwrap_or_else(|_| panic!("{text:?} does not parse"));
        assert_eq!((amount.units(), amount.millis()), (units, millis), "{text:?}");
        assert_eq!(canonical(text).unwrap(), expected, "canonical form of {text:?}");
    }

    #[test]
    fn values_and_canonical_forms() {
        check("0", 0, 0, "0");
        check("1", 1, 1000, "1");
        check("100m", 1, 100, "100m");
        check("0.5", 1, 500, "500m");
        check("1.5", 2, 1500, "1500m");
        check("1000m", 1, 1000, "1");
        check("2000", 2000, 2_000_000, "2k");
        check("128Mi", 134_217_728, 134_217_728_000, "128Mi");
        check("1024Mi", 1 << 30, (1 << 30) * 1000, "1Gi");
        check("1.5Gi", 1_610_612_736, 1_610_612_736_000, "1536Mi");
        check("1e3", 1000, 1_000_000, "1e3");
        check("12E", 12_000_000_000_000_000_000i128.min(i64::MAX.into()) as i64, i64::MAX, "12E");
        check("-5", -5, -5000, "-5");
        check(".5", 1, 500, "500m");
        check("1n", 1, 1, "1n");
        check("512", 512, 512_000, "512");
    }

    #[test]
    fn sums_read_like_their_parts() {
        let sum = |a: &str, b: &str| (Written::parse(a).unwrap() + Written::parse(b).unwrap()).to_string();
        assert_eq!(sum("0", "600Mi"), "600Mi");
        assert_eq!(sum("1Gi", "512Mi"), "1536Mi");
        assert_eq!(sum("250m", "0.75"), "1");
        assert_eq!((Written::parse("1Gi").unwrap() - Written::parse("1Gi").unwrap()).to_string(), "0");
        assert_eq!((Written::count(2) + Written::count(1)).to_string(), "3");
    }

    #[test]
    fn what_is_no_quantity() {
        for text in ["", "x", "1x", "1.2.3", "Mi", "1 Mi", "1mi", "--1", "1e", "1e99"] {
            assert_eq!(Amount::parse(text), Err(ParseError), "{text:?}");
        }
    }
}
