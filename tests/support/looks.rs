//! How often one looks whether something has come.

use std::{iter::successors, time::Duration};

const FIRST: Duration = Duration::from_millis(4);
const LAST: Duration = Duration::from_millis(60);

/// Short ones first. Later ones are longer: a look costs what is waited for, on the
/// same two cores.
pub fn pauses() -> impl Iterator<Item = Duration> {
    successors(Some(FIRST), |pause| Some((*pause * 5 / 4).min(LAST)))
}
