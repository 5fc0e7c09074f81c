//! A Docker engine of a test's own, which can be killed or filled up.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Where an engine of its own has what.
pub struct Private {
    dir: PathBuf,
    bridge: String,
}

impl Private {
    /// Makes its bridge: engines must not share one.
    pub fn prepare(dir: &Path) -> Self {
        let process = std::process::id();
        let bridge = format!("lwchaos{}", process % 100_000);
        let this = Self { dir: dir.join("engine"), bridge };
        std::fs::create_dir_all(this.dir.join("data")).unwrap();
        ip(&["link", "add", "name", &this.bridge, "type", "bridge"]);
        let address = format!("10.213.{}.1/24", process % 256);
        ip(&["addr", "add", &address, "dev", &this.bridge]);
        ip(&["link", "set", &this.bridge, "up"]);
        this
    }

    /// Bounds what it can keep, in MiB.
    #[allow(dead_code)]
    pub fn with_a_disk_of(self, size: u32) -> Self {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}m"), "launchway-test"]);
        assert!(mount.arg(self.dir.join("data")).status().unwrap().success());
        self
    }

    /// Where it keeps everything.
    #[allow(dead_code)]
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.dir.join("docker.sock").display())
    }

    pub fn command(&self) -> Command {
        self.forget_containerd();
        let mut command = Command::new("dockerd");
        let path = |flag: &str, name: &str| format!("--{flag}={}", self.dir.join(name).display());
        // No address pools of its own: with them the second start of an engine
        // removes the machine's `docker0` (Docker 20.10).
        // Without iptables of its own it leaves the machine's rules alone; what
        // is published is served by its proxies.
        command
            .args([path("data-root", "data"), path("exec-root", "exec"), path("pidfile", "pid")])
            .args(["--host", &self.host(), "--bridge", &self.bridge])
            .args(["--iptables=false", "--ip-masq=false", "--storage-driver=overlay2"]);
        command
    }

    /// It dies with its engine. The next one takes a pid that nobody has waited
    /// for to be alive.
    fn forget_containerd(&self) {
        let file = self.dir.join("exec/containerd/containerd.pid");
        if let Ok(pid) = std::fs::read_to_string(&file) {
            let _ = Command::new("kill").args(["-9", pid.trim()]).output();
            std::fs::remove_file(&file).unwrap();
        }
    }

    pub fn answers(&self) -> bool {
        let mut docker = Command::new("/usr/bin/docker");
        docker.args(["version", "--format", "{{.Server.Version}}"]).env("DOCKER_HOST", self.host());
        docker.output().is_ok_and(|asked| asked.status.success())
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        ip(&["link", "del", &self.bridge]);
        let _ = Command::new("umount").arg(self.dir.join("data")).output();
    }
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).status().unwrap();
    assert!(done.success() || std::thread::panicking(), "ip {arguments:?}");
}
