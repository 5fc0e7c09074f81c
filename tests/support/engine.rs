//! The engines that tests build on.

use std::{path::PathBuf, process::Command, sync::OnceLock};

/// The socket of a current Docker engine, started if it does not run. All test
/// processes share it.
pub fn current_engine() -> &'static PathBuf {
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    SOCKET.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/dev/engine.sh");
        let output = Command::new(script).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    })
}
