//! Kubernetes' numbers, such as `500m`, `1` and `64Mi`.

/// The value in thousandths; `None`: not a number of this kind.
pub(super) fn thousandths(text: &str) -> Option<i128> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: i128 = match unit {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    match number.split_once('.') {
        None => number.parse::<i128>().ok()?.checked_mul(factor),
        Some((whole, part)) => {
            let scale = 10_i128.checked_pow(u32::try_from(part.len()).ok()?)?;
            let digits: i128 = format!("{whole}{part}").parse().ok()?;
            Some(digits.checked_mul(factor)? / scale)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::thousandths;

    #[test]
    fn numbers_are_read_with_their_unit() {
        for (text, value) in [
            ("500m", 500),
            ("1", 1000),
            ("1.5", 1500),
            ("64Mi", (64 * 1000) << 20),
            ("2k", 2_000_000),
        ] {
            assert_eq!(thousandths(text), Some(value), "{text}");
        }
        for text in ["", "x", "1x", "1.2.3"] {
            assert_eq!(thousandths(text), None, "{text}");
        }
    }
}
