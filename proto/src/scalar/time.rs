//! Time and MicroTime: instants, as RFC 3339 in UTC.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{ScalarError, quoted};
use crate::json::{self, JsonError, Read, Reader, Write};
use crate::meta::v1::{MicroTime, Time};

/// What jiff cannot say (before year -9999, after 9999) is cut to what it can.
fn timestamp(seconds: i64, nanos: i32) -> Timestamp {
    let limit = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::new(seconds, nanos).unwrap_or(limit)
}

fn parse(text: &str) -> Result<Timestamp, ScalarError> {
    let wrong = || ScalarError::Time(quoted(text));
    // RFC 9557 would allow a zone's name behind it; RFC 3339 does not.
    if text.len() > 64 || text.contains('[') {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}

impl Time {
    /// In whole seconds, which is what JSON carries.
    pub fn now() -> Self {
        Self::from_unix(Timestamp::now().as_second())
    }

    pub fn from_unix(seconds: i64) -> Self {
        Self { seconds, nanos: 0 }
    }

    pub fn unix(&self) -> i64 {
        self.seconds
    }
}

impl MicroTime {
    pub fn now() -> Self {
        Self::from_unix_micros(Timestamp::now().as_microsecond())
    }

    pub fn from_unix_micros(micros: i64) -> Self {
        let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or_default();
        Self { seconds: micros.div_euclid(1_000_000), nanos }
    }

    /// Whole seconds.
    pub fn unix(&self) -> i64 {
        self.seconds
    }

    pub fn unix_micros(&self) -> i64 {
        self.seconds.saturating_mul(1_000_000).saturating_add(i64::from(self.nanos / 1_000))
    }
}

impl From<MicroTime> for Time {
    fn from(time: MicroTime) -> Self {
        Self::from_unix(time.seconds)
    }
}

impl From<Time> for MicroTime {
    fn from(time: Time) -> Self {
        Self { seconds: time.seconds, nanos: 0 }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}", timestamp(self.seconds, 0))
    }
}

impl fmt::Display for MicroTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", timestamp(self.seconds, self.nanos))
    }
}

impl FromStr for Time {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        let seconds = parse(text)?.as_microsecond().div_euclid(1_000_000);
        Ok(Self::from_unix(seconds))
    }
}

impl FromStr for MicroTime {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        Ok(Self::from_unix_micros(parse(text)?.as_microsecond()))
    }
}

macro_rules! json_as_text {
    ($time:ty) => {
        impl Read for $time {
            fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError> {
                match value {
                    Value::String(text) => text.parse().map_err(|error: ScalarError| at.fail(error)),
                    Value::Null => Ok(Self::default()),
                    other => Err(at.expected("a time", other)),
                }
            }
        }

        impl Write for $time {
            fn is_unset(&self) -> bool {
                false
            }

            fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl Serialize for $time {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.write(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $time {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                json::deserialize(deserializer)
            }
        }
    };
}

json_as_text!(Time);
json_as_text!(MicroTime);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_written_in_whole_seconds_of_utc() {
        let time: Time = "2024-05-06T07:08:09.9+02:00".parse().unwrap();
        assert_eq!(time.to_string(), "2024-05-06T05:08:09Z");
        assert_eq!(Time::from_unix(0).to_string(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn micro_time_has_six_digits_always() {
        for (text, written) in [
            ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09.000000Z"),
            ("2024-05-06T07:08:09.1234567Z", "2024-05-06T07:08:09.123456Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.500000Z"),
        ] {
            assert_eq!(text.parse::<MicroTime>().unwrap().to_string(), written);
        }
    }

    #[test]
    fn what_is_no_time_is_refused_and_what_is_out_of_range_is_cut() {
        for text in ["", "now", "2024-13-01T00:00:00Z", "2024-01-01", "2024-01-01T00:00:00Z[UTC]"] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
        assert_eq!(Time::from_unix(i64::MAX).to_string(), "9999-12-30T22:00:00Z");
        assert!(Time::from_unix(i64::MIN).to_string().starts_with("-009999"));
    }
}
