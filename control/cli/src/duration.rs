//! Spans of time as Go writes them: `90s`, `5m`, `1h30m`, `1.5s`; a bare number is seconds.

use std::time::Duration;

use anyhow::{Context, Result, bail};

/// None for zero, which the flags take for "no limit".
pub(crate) fn parse(text: &str) -> Result<Option<Duration>> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok((seconds > 0).then(|| Duration::from_secs(seconds)));
    }
    let wrong = || format!("{text:?}: want a span such as 90s, 5m or 1h30m");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|one: char| !one.is_ascii_digit() && one != '.').with_context(wrong)?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|one: char| one.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let factor = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => bail!(wrong()),
        };
        let seconds = number.parse::<f64>().with_context(wrong)? * factor;
        let span = Duration::try_from_secs_f64(seconds).with_context(wrong)?;
        total = total.checked_add(span).with_context(wrong)?;
        rest = after;
    }
    if text.is_empty() {
        bail!(wrong());
    }
    Ok(Some(total).filter(|total| !total.is_zero()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_kubectl_reads_them() {
        for (text, seconds) in
            [("90", 90.0), ("5m", 300.0), ("1h30m", 5400.0), ("1.5s", 1.5), ("250ms", 0.25)]
        {
            let parsed = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed, Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        assert!(matches!(parse("0"), Ok(None)));
        assert!(matches!(parse("0s"), Ok(None)));
        for wrong in ["", "m", "5d", "-1s", "9999999999999999999999h", "1.2.3s", "5m3"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd_to_be_refused_politely(text in ".{0,12}") {
            parse(&text).ok();
        }
    }
}
