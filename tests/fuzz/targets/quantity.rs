//! Quantities against arithmetic on integers of any size. The input is two amounts, a line each.

#![no_main]

use libfuzzer_sys::fuzz_target;
use num_bigint::{BigInt, Sign};
use weir_proto::Quantity;

const NANO: u64 = 1_000_000_000;

fuzz_target!(|text: &str| {
    let (one, other) = text.split_once('\n').unwrap_or((text, "1"));
    let (Some((one, of_one)), Some((other, of_other))) = (checked(one), checked(other)) else { return };
    assert_eq!(nanos(&(one + other).to_string()), Some(cut(&of_one + &of_other)), "{one} + {other}");
    assert_eq!(nanos(&(one - other).to_string()), Some(cut(&of_one - &of_other)), "{one} - {other}");
    assert_eq!(one.cmp(&other), of_one.cmp(&of_other), "{one}, {other}");
    assert_eq!(one == other, of_one == of_other, "{one}, {other}");
});

/// The quantity and its amount in billionths, as that should be.
fn checked(text: &str) -> Option<(Quantity, BigInt)> {
    let parsed = text.parse::<Quantity>().ok();
    let expected = nanos(text).filter(|_| text.len() <= 128);
    assert_eq!(parsed.is_some(), expected.is_some(), "{text:?}");
    let (quantity, expected) = parsed.zip(expected)?;
    let printed = quantity.to_string();
    assert_eq!(nanos(&printed).as_ref(), Some(&expected), "{text:?} is printed as {printed:?}");
    let again: Quantity = printed.parse().expect("what is printed is parsed");
    assert_eq!((again, again.to_string()), (quantity, printed), "{text:?}");
    assert_eq!(BigInt::from(quantity.value()), ceiling(&expected, NANO), "{text:?}");
    assert_eq!(BigInt::from(quantity.milli_value()), ceiling(&expected, NANO / 1_000), "{text:?}");
    Some((quantity, expected))
}

/// Billionths, rounded away from zero and cut to what Kubernetes holds; None where the text is no quantity.
fn nanos(text: &str) -> Option<BigInt> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let suffix = unsigned.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = &unsigned[..unsigned.len() - suffix.len()];
    let digits: String = number.chars().filter(char::is_ascii_digit).collect();
    if digits.is_empty() || number.matches('.').count() > 1 {
        return None;
    }
    let behind = number.split_once('.').map_or(0, |(_, fraction)| fraction.len() as i64);
    let (two, ten) = power(suffix)?;
    let magnitude = digits.parse::<BigInt>().ok()? << two;
    let shift = 9 + ten - behind;
    let scale = BigInt::from(10).pow(shift.unsigned_abs() as u32);
    let magnitude = if shift >= 0 { magnitude * scale } else { (magnitude + &scale - 1) / scale };
    Some(cut(if text.starts_with('-') { -magnitude } else { magnitude }))
}

/// Powers of two and of ten that a suffix stands for.
fn power(suffix: &str) -> Option<(u32, i64)> {
    if let Some(place) = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"].iter().position(|s| *s == suffix) {
        return Some((0, place as i64 * 3 - 9));
    }
    if let Some(place) = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|s| *s == suffix) {
        return Some((place as u32 * 10 + 10, 0));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let fits = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
    // More than a thousand is as good as a thousand, but there are no exponents beyond 64 bits.
    Some((0, exponent.parse::<i64>().ok().filter(|_| fits)?.clamp(-1_000, 1_000)))
}

fn cut(nanos: BigInt) -> BigInt {
    let most = BigInt::from(i64::MAX) * NANO;
    nanos.clamp(-&most, most)
}

fn ceiling(number: &BigInt, unit: u64) -> BigInt {
    let (whole, rest) = (number / unit, number % unit);
    if rest.sign() == Sign::Plus { whole + 1 } else { whole }
}
