//! Who asks an instance what, and how often.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ExecAction, HTTPGetAction, Probe, TCPSocketAction};
use serde::{Deserialize, Serialize};

use super::{Style, number};
use crate::krane::backend::{Check, Health};

/// The longest start of an instance that names none.
const LONGEST_START: Duration = Duration::from_secs(600);
/// An instance that takes no connection for a minute is started anew.
const LIVENESS_PERIOD: i32 = 10;
const LIVENESS_FAILURES: i32 = 6;

/// What krane asks an instance until it is ready; kept with the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Question {
    /// Port and path.
    Http(u16, String),
    Tcp(u16),
    Command(Vec<String>),
}

impl Question {
    /// `None`: the kubelet asks, or nobody.
    pub(super) fn of(style: &Style, health: &Health, own: Option<u16>) -> Option<Self> {
        if !style.krane_probes {
            return None;
        }
        Some(match &health.check {
            Check::Http { path, port } => Self::Http(port.or(own)?, path.clone()),
            Check::Tcp { port } => Self::Tcp(port.or(own)?),
            Check::Command(command) => Self::Command(command.clone()),
            Check::StaysUp => return None,
        })
    }
}

/// What the kubelet asks; `None`: nothing.
fn asked(style: &Style, health: &Health, own: Option<u16>) -> Option<Probe> {
    let tcp = |port: u16| Probe {
        tcp_socket: Some(TCPSocketAction { port: number(port), ..TCPSocketAction::default() }),
        ..Probe::default()
    };
    Some(match &health.check {
        Check::Http { path, port } if !style.krane_probes => Probe {
            http_get: Some(HTTPGetAction {
                path: Some(path.clone()),
                port: number(port.or(own)?),
                ..HTTPGetAction::default()
            }),
            ..Probe::default()
        },
        Check::Http { port, .. } | Check::Tcp { port } => tcp(port.or(own)?),
        Check::Command(command) => {
            Probe { exec: Some(ExecAction { command: Some(command.clone()) }), ..Probe::default() }
        }
        Check::StaysUp => return None,
    })
}

/// Until it passes, nothing else is asked: a slow start is no failure.
pub(super) fn startup(style: &Style, health: &Health, own: Option<u16>) -> Option<Probe> {
    let period = seconds(health.interval);
    let longest = seconds(health.start_period.unwrap_or(LONGEST_START));
    Some(Probe {
        period_seconds: Some(period),
        timeout_seconds: Some(seconds(health.timeout)),
        // The first is asked at once.
        failure_threshold: Some((longest - 1) / period + 2),
        ..asked(style, health, own)?
    })
}

pub(super) fn readiness(style: &Style, health: &Health, own: Option<u16>) -> Option<Probe> {
    Some(Probe {
        period_seconds: Some(seconds(health.interval)),
        timeout_seconds: Some(seconds(health.timeout)),
        // One lost answer is no reason to take all traffic away.
        failure_threshold: Some(3),
        ..asked(style, health, own)?
    })
}

/// Only whether it takes connections: an application that answers 500 because
/// its database is away is not helped by being started anew.
pub(super) fn liveness(health: &Health, own: Option<u16>) -> Option<Probe> {
    let port = match &health.check {
        Check::Http { port, .. } | Check::Tcp { port } => port.or(own)?,
        Check::Command(_) | Check::StaysUp => return None,
    };
    Some(Probe {
        tcp_socket: Some(TCPSocketAction { port: number(port), ..TCPSocketAction::default() }),
        period_seconds: Some(LIVENESS_PERIOD),
        timeout_seconds: Some(seconds(health.timeout)),
        failure_threshold: Some(LIVENESS_FAILURES),
        ..Probe::default()
    })
}

/// Kubernetes counts in whole seconds.
fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(i32::MAX).max(1)
}
