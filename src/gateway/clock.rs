//! Milliseconds since this process first asked: a time that fits an atomic.

use std::{sync::LazyLock, time::Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(super) fn now_ms() -> u64 {
    START.elapsed().as_millis() as u64
}
