//! Times as people read them.

/// `340 ms`, `2.4 s`, `3 min 05 s`.
pub(super) fn duration(ms: i64) -> String {
    match ms.max(0) {
        ms @ ..1000 => format!("{ms} ms"),
        ms @ ..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        ms => format!("{} min {:02} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

/// `12 s ago`, `3 min ago`, `5 h ago`, `2 d ago`.
pub(super) fn ago(then: i64, now: i64) -> String {
    let seconds = (now - then).max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// `14:05:09.123`, in UTC.
pub(super) fn clock(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms)
        .map(|at| at.strftime("%H:%M:%S%.3f").to_string())
        .unwrap_or_default()
}

pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!(duration(340), "340 ms");
        assert_eq!(duration(2_449), "2.4 s");
        assert_eq!(duration(185_000), "3 min 05 s");
        assert_eq!(ago(0, 59_000), "59 s ago");
        assert_eq!(ago(0, 90_000_000), "1 d ago");
        assert_eq!(clock(1_000), "00:00:01.000");
    }
}
