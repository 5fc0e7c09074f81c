//! The image of the suite.

use std::{
    io::Write,
    process::{Command, Stdio},
};

/// What the image does by itself: answers `$GREETING` on `$PORT`.
pub const DEFAULT_COMMAND: [&str; 4] = ["/busybox", "sh", "-c", SERVE];

/// Answers `$GREETING` on `$PORT`.
pub const SERVE: &str = "/busybox mkdir -p /www; echo \"$GREETING\" > /www/index.html; \
                         trap 'exit 0' TERM; /busybox httpd -f -p $PORT -h /www & wait";

/// Puts it into this machine's Docker engine.
pub fn import(image: &str) {
    let command = serde_json::to_string(&DEFAULT_COMMAND).unwrap();
    let mut import = Command::new("docker")
        .args(["import", "--change", &format!("CMD {command}"), "-", image])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_path_with_name("/bin/busybox", "busybox").unwrap();
    let archive = archive.into_inner().unwrap();
    import.stdin.take().unwrap().write_all(&archive).unwrap();
    assert!(import.wait().unwrap().success());
}
