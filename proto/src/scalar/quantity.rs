//! Quantity: an exact fixed-point amount with Kubernetes' suffixes and canonical form.
//!
//! Held in billionths, which is as fine as Kubernetes goes: what is finer is rounded up, so that asking for a little is
//! never asking for nothing. What exceeds 2^63-1 is cut to it. Equality and order are those of the amount: "1Ki" equals
//! "1024", whatever each prints as.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;

use prost::DecodeError;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{ScalarError, quoted};
use crate::json::{self, JsonError, Read, Reader, Write};

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;
/// More is no amount of anything.
const MAX_LENGTH: usize = 128;

/// Which suffixes a quantity prints with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// n u m k M G T P E
    #[default]
    DecimalSi,
    /// Ki Mi Gi Ti Pi Ei
    BinarySi,
    /// e3 e6 …
    DecimalExponent,
}

#[derive(Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    fn new(nanos: i128, format: Format) -> Self {
        Self { nanos: nanos.clamp(-MAX, MAX), format }
    }

    /// Thousandths: `from_milli(250)` is "250m".
    pub fn from_milli(milli: i64) -> Self {
        Self::new(i128::from(milli) * (NANO / 1_000), Format::DecimalSi)
    }

    /// `from_value(4)` is "4".
    pub fn from_value(value: i64) -> Self {
        Self::new(i128::from(value) * NANO, Format::DecimalSi)
    }

    /// Printed in powers of 1024: `from_bytes(1 << 30)` is "1Gi".
    pub fn from_bytes(bytes: i64) -> Self {
        Self::new(i128::from(bytes) * NANO, Format::BinarySi)
    }

    /// Thousandths, rounded up.
    pub fn milli_value(&self) -> i128 {
        -(-self.nanos).div_euclid(NANO / 1_000)
    }

    /// Units, rounded up.
    pub fn value(&self) -> i128 {
        -(-self.nanos).div_euclid(NANO)
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// The format of a sum is that of the first operand that is not zero.
    fn combine(self, nanos: i128, other: Self) -> Self {
        Self::new(nanos, if self.is_zero() { other.format } else { self.format })
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.combine(self.nanos + other.nanos, other)
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.combine(self.nanos - other.nanos, other)
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl<'a> Sum<&'a Quantity> for Quantity {
    fn sum<I: Iterator<Item = &'a Quantity>>(iter: I) -> Self {
        iter.copied().sum()
    }
}

/// What a suffix multiplies by: a power of ten and a power of two.
struct Suffix {
    ten: i64,
    two: u32,
    format: Format,
}

impl Suffix {
    fn parse(text: &str) -> Option<Self> {
        let decimal = |ten| Some(Self { ten, two: 0, format: Format::DecimalSi });
        let binary = |two| Some(Self { ten: 0, two, format: Format::BinarySi });
        match text {
            "" => decimal(0),
            "n" => decimal(-9),
            "u" => decimal(-6),
            "m" => decimal(-3),
            "k" => decimal(3),
            "M" => decimal(6),
            "G" => decimal(9),
            "T" => decimal(12),
            "P" => decimal(15),
            "E" => decimal(18),
            "Ki" => binary(10),
            "Mi" => binary(20),
            "Gi" => binary(30),
            "Ti" => binary(40),
            "Pi" => binary(50),
            "Ei" => binary(60),
            exponent => {
                let ten = exponent.strip_prefix(['e', 'E'])?;
                let digits = ten.strip_prefix(['+', '-']).unwrap_or(ten);
                let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                // Far beyond this all is cut to the largest or rounded up to the smallest amount anyway.
                let ten = ten.parse::<i64>().ok().filter(|_| all_digits)?.clamp(-1_000, 1_000);
                Some(Self { ten, two: 0, format: Format::DecimalExponent })
            }
        }
    }
}

impl FromStr for Quantity {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        parse(text).ok_or_else(|| ScalarError::Quantity(quoted(text)))
    }
}

fn parse(text: &str) -> Option<Quantity> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let suffix = Suffix::parse(suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|digit| digit - b'0').collect();
    let nanos = to_nanos(&digits, whole.len() as i64 + suffix.ten, suffix.two);
    Some(Quantity::new(if negative { -nanos } else { nanos }, suffix.format))
}

/// The digits with the decimal point before `point`, times 10^9 * 2^two, rounded up and cut to the largest.
fn to_nanos(digits: &[u8], point: i64, two: u32) -> i128 {
    let unit = NANO << two;
    let digit = |place: i64| {
        usize::try_from(place).ok().and_then(|place| digits.get(place)).map_or(0, |digit| i128::from(*digit))
    };
    let mut whole = 0;
    for place in 0..point {
        whole = (whole * 10 + digit(place)).min(MAX);
    }
    // From the last digit up: what a division leaves over only decides whether to round up.
    let (mut nanos, mut inexact) = (0, false);
    for place in (point..digits.len() as i64).rev() {
        let sum = nanos + digit(place) * unit;
        inexact |= sum % 10 != 0;
        nanos = sum / 10;
    }
    whole.saturating_mul(unit).min(MAX).saturating_add(nanos + i128::from(inexact)).min(MAX)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits_binary = self.nanos % NANO == 0 && self.nanos.abs() >= 1024 * NANO;
        match self.format {
            _ if self.nanos == 0 => f.write_str("0"),
            Format::BinarySi if fits_binary => {
                let (number, power) = strip(self.nanos / NANO, 1024);
                write!(f, "{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power])
            }
            Format::BinarySi | Format::DecimalSi => {
                let (number, power) = strip(self.nanos, 1000);
                write!(f, "{number}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][power])
            }
            Format::DecimalExponent => match strip(self.nanos, 1000) {
                (number, 3) => write!(f, "{number}"),
                (number, power) => write!(f, "{number}e{}", power as i64 * 3 - 9),
            },
        }
    }
}

/// `number` as `n * base^power` with the largest power. Amounts are bounded, and so is the power: below 1024^7 and 1000^10.
fn strip(mut number: i128, base: i128) -> (i128, usize) {
    let mut power = 0;
    while number % base == 0 {
        number /= base;
        power += 1;
    }
    (number, power)
}

impl fmt::Debug for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quantity({self})")
    }
}

impl Read for Quantity {
    fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError> {
        match value {
            Value::String(text) => text.parse().map_err(|error: ScalarError| at.fail(error)),
            Value::Number(number) => number.to_string().parse().map_err(|error: ScalarError| at.fail(error)),
            Value::Null => Ok(Self::ZERO),
            other => Err(at.expected("a quantity", other)),
        }
    }
}

impl Write for Quantity {
    fn is_unset(&self) -> bool {
        false
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.write(serializer)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json::deserialize(deserializer)
    }
}

const STRING: u32 = 1;

impl prost::Message for Quantity {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        encoding::string::encode(STRING, &self.to_string(), buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != STRING {
            return encoding::skip_field(wire_type, tag, buf, ctx);
        }
        let mut text = String::new();
        encoding::string::merge(wire_type, &mut text, buf, ctx)?;
        #[expect(
            deprecated,
            reason = "prost offers no other way for a message of one's own to refuse a value"
        )]
        let quantity = text.parse().map_err(|error: ScalarError| DecodeError::new(error.to_string()))?;
        *self = quantity;
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        encoding::string::encoded_len(STRING, &self.to_string())
    }

    fn clear(&mut self) {
        *self = Self::ZERO;
    }
}

#[cfg(test)]
mod tests;
