//! Values that are written as text.

use std::{fmt, time::Duration};

use serde::{Deserialize, de::Error};

/// A time such as `500ms`, `30s`, `15m`, `2h` or `7d`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Period(Duration);

impl Period {
    /// The time.
    pub fn get(self) -> Duration {
        self.0
    }
}

impl fmt::Debug for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::str::FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule =
            || format!("`{text}` is not a time: write e.g. `500ms`, `30s`, `15m`, `2h` or `7d`");
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(rule)?;
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().map_err(|_| rule())?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(rule()),
        };
        number.checked_mul(millis).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(rule)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        let read = |text: &str| text.parse::<Period>().map(|period| period.get().as_millis());
        assert_eq!(read("500ms"), Ok(500));
        assert_eq!(read("15m"), Ok(900_000));
        assert_eq!(read("7d"), Ok(604_800_000));
        for bad in ["", "10", "s", "-1s", "1y", "1.5h"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
