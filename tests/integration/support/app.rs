//! What is deployed.

use std::{fs, path::Path};

/// A small application in a directory of its own.
pub struct App {
    dir: tempfile::TempDir,
}

impl App {
    /// Answers with `greeting`; `before` are lines of the Dockerfile before CMD.
    pub fn new(greeting: &str, before: &str) -> Self {
        let command = r#"CMD ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"]"#;
        Self::with_dockerfile(
            greeting,
            &format!(
                "FROM scratch\nCOPY busybox /bin/busybox\nCOPY www /www\n{before}\n{command}\n"
            ),
        )
    }

    /// What it starts ends at once when it is stopped: a shell or a server that is
    /// the first process ignores SIGTERM, and every stop would take its ten seconds.
    pub fn with_dockerfile(greeting: &str, dockerfile: &str) -> Self {
        let app = Self { dir: tempfile::Builder::new().prefix("app-").tempdir().unwrap() };
        fs::copy("/bin/busybox", app.path().join("busybox")).unwrap();
        fs::create_dir(app.path().join("www")).unwrap();
        app.greet(greeting);
        let dockerfile = format!("{dockerfile}STOPSIGNAL SIGKILL\n");
        fs::write(app.path().join("Dockerfile"), dockerfile).unwrap();
        app
    }

    pub fn greet(&self, greeting: &str) {
        fs::write(self.path().join("www/index.html"), greeting).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}
