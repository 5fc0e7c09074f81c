//! A real registry with a password: Debian's `docker-registry`.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use launchway_workflows::secret::Secret;
use oci_client::{
    Reference,
    client::{Client, ClientConfig, ClientProtocol},
    manifest::OciManifest,
    secrets::RegistryAuth,
};

use super::engine::current_engine;
use launchway::registry::{Login, Registry};

pub const USER: &str = "builder";
/// What the line below is the bcrypt hash of.
pub const PASSWORD: &str = "correct-horse-battery";
const HTPASSWD: &str = "builder:$2y$04$CXHEK1H5dkt6uphUx3zw9Otl0gdMXdzW1AF/UQKIJOJh.BqS3SDmW\n";

/// A registry of one test, on a port of its own.
pub struct TestRegistry {
    pub host: String,
    dir: PathBuf,
    process: Child,
    _owned: tempfile::TempDir,
}

impl TestRegistry {
    pub fn start() -> Self {
        let owned = tempfile::tempdir().unwrap();
        let dir = owned.path().to_owned();
        fs::write(dir.join("htpasswd"), HTPASSWD).unwrap();
        let (process, host) = serve(&dir, "127.0.0.1:0");
        Self { host, dir, process, _owned: owned }
    }

    /// As configured: with its login, or with another password.
    pub fn settings(&self, password: &str) -> Registry {
        Registry {
            host: self.host.clone(),
            prefix: "tests".to_owned(),
            plain_http: true,
            login: Some(Login {
                host: self.host.clone(),
                username: USER.to_owned(),
                password: Secret::new(password),
            }),
            cache: false,
        }
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again where it was, with what it had.
    pub fn restart(&mut self) {
        (self.process, _) = serve(&self.dir, &self.host);
    }

    fn client() -> (Client, RegistryAuth) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() };
        (Client::new(config), RegistryAuth::Basic(USER.to_owned(), PASSWORD.to_owned()))
    }

    /// The configuration of an image: labels, command and history, as JSON.
    pub async fn config_of(&self, reference: &str) -> String {
        let (client, auth) = Self::client();
        let reference: Reference = reference.parse().unwrap();
        client.pull_manifest_and_config(&reference, &auth).await.unwrap().2
    }

    /// `os/architecture` of each image of an index; of a single image, nothing.
    pub async fn platforms_of(&self, reference: &str) -> Vec<String> {
        let (client, auth) = Self::client();
        let reference: Reference = reference.parse().unwrap();
        match client.pull_manifest(&reference, &auth).await.unwrap().0 {
            OciManifest::Image(_) => Vec::new(),
            OciManifest::ImageIndex(index) => {
                let platforms = index.manifests.into_iter().filter_map(|entry| entry.platform);
                platforms.map(|of| format!("{}/{}", of.os, of.architecture)).collect()
            }
        }
    }

    /// A push is under way: some of it has arrived.
    pub fn is_receiving(&self) -> bool {
        receiving(&self.dir.join("data"))
    }

    /// Every file that the registry keeps, unpacked where it is compressed.
    pub fn contents(&self) -> Vec<u8> {
        let mut all = Vec::new();
        collect(&self.dir.join("data"), &mut all);
        all
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn receiving(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        let upload = path.ends_with("data")
            && path.to_string_lossy().contains("/_uploads/")
            && fs::metadata(&path).is_ok_and(|file| file.len() > 0);
        upload || (path.is_dir() && receiving(&path))
    })
}

fn collect(dir: &Path, all: &mut Vec<u8>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), all);
            continue;
        }
        let file = fs::read(entry.path()).unwrap();
        let mut unpacked = Vec::new();
        let read = std::io::Read::read_to_end(
            &mut flate2::read::MultiGzDecoder::new(file.as_slice()),
            &mut unpacked,
        );
        all.extend(if read.is_ok() { unpacked } else { file });
    }
}

/// Returns once it listens, and on which address.
fn serve(dir: &Path, address: &str) -> (Child, String) {
    let config = dir.join("config.yml");
    fs::write(&config, "version: 0.1\nlog: { level: info, formatter: json }\n").unwrap();
    let mut process =
        Command::new(current_engine().with_file_name("files/usr/bin/docker-registry"))
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .env("REGISTRY_HTTP_ADDR", address)
            .env("REGISTRY_HTTP_SECRET", "the same after a restart")
            .env("REGISTRY_STORAGE", "filesystem")
            .env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", dir.join("data"))
            .env("REGISTRY_AUTH", "htpasswd")
            .env("REGISTRY_AUTH_HTPASSWD_REALM", "tests")
            .env("REGISTRY_AUTH_HTPASSWD_PATH", dir.join("htpasswd"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
    let listening = log.by_ref().find_map(|line| {
        let line = line.unwrap();
        let (_, address) = line.split_once("listening on ")?;
        Some(address.split(['"', ' ']).next().unwrap().to_owned())
    });
    // Its log is read to the end, so that it never blocks on it.
    std::thread::spawn(move || log.for_each(drop));
    (process, listening.expect("docker-registry has ended"))
}
