//! One build of an id at a time on a machine, whichever worker does it. A worker
//! that is frozen keeps its connection, so that the engine goes on with its build
//! while Restate has handed the deployment to another worker.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
};

use launchway_workflows::ids::BuildId;

/// Held until it is dropped or its process has ended, however: the system keeps
/// the name of a socket as long as somebody has it, and nothing is left in a file
/// system.
pub(super) struct Turn(#[expect(dead_code, reason = "held, never used")] UnixListener);

impl Turn {
    /// `None`: somebody has it.
    pub(super) fn take(build: &BuildId) -> io::Result<Option<Self>> {
        let address = SocketAddr::from_abstract_name(format!("launchway-build-{build}"))?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => Ok(Some(Self(listener))),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_at_a_time() {
        let (one, other) = (BuildId::generate(), BuildId::generate());
        let held = Turn::take(&one).unwrap();
        assert!(held.is_some());
        assert!(Turn::take(&one).unwrap().is_none());
        assert!(Turn::take(&other).unwrap().is_some());
        drop(held);
        assert!(Turn::take(&one).unwrap().is_some());
    }
}
