//! See [`super::builder`].

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use super::{Config, ConfigError, Overrides, builder::BuilderSettings};
use crate::builder::Address;

fn load(set: &[String]) -> Result<Config, ConfigError> {
    let overrides = Overrides { file: None, set: set.to_vec(), env: Vec::new() };
    Config::load(PathBuf::from("/nonexistent"), &overrides)
}

fn set(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn problems(texts: &[&str]) -> String {
    load(&set(texts)).map(drop).unwrap_err().to_string()
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    }
}

/// Checklist 35.
#[test]
fn without_any_setting_docker_builds_and_its_images_are_local() {
    let settings = load(&[]).unwrap().builder().unwrap();
    assert!(matches!(settings, BuilderSettings::Docker(None)), "{settings:?}");
}

/// Checklist 2.
#[test]
fn local_images_are_refused_for_a_runtime_that_is_elsewhere() {
    let said = problems(&["krane.url=http://krane.example.com:7070"]);
    assert!(said.contains("krane.example.com") && said.contains("registry.host"), "{said}");
    load(&set(&["krane.url=http://127.0.0.2:7070"])).unwrap();
    load(&set(&["krane.url=http://krane.example.com:7070", "registry.host=r.example.com"]))
        .unwrap();
}

/// Checklist 32: every problem at once.
#[test]
fn a_buildkit_is_checked_as_a_whole() {
    let said = problems(&[
        "builder.backend=buildkit",
        "buildkit.address=http://b:1",
        "buildkit.key_file=k",
    ]);
    for expected in ["buildkit.address", "buildkit.ca_file", "buildkit.cert_file", "registry.host"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let bare = ["builder.backend=buildkit", "registry.host=r", "buildkit.address=tcp://b:1234"];
    assert!(problems(&bare).contains("without TLS"));
    let local =
        ["builder.backend=buildkit", "registry.host=r", "buildkit.address=tcp://[::1]:1234"];
    match load(&set(&local)).unwrap().builder().unwrap() {
        BuilderSettings::Buildkit(Address::Tcp { host, port: 1234, tls: None }, registry) => {
            assert_eq!((host.as_str(), registry.plain_http), ("::1", false));
        }
        other => panic!("{other:?}"),
    }
    assert!(problems(&["builder.backend=podman"]).contains("podman"));
}

/// Checklist 1, 36, 40.
#[test]
fn depot_has_a_token_of_its_own_and_its_registrys_user() {
    let files = Files::new();
    let said = problems(&["builder.backend=depot", "depot.api_url=http://depot.example.com"]);
    for expected in ["depot.token_file", "registry.password_file", "depot.api_url"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let given = set(&[
        "builder.backend=depot",
        &format!("depot.token_file={}", files.with("token", "the-token\n", 0o600)),
        &format!("registry.password_file={}", files.with("password", "the-password", 0o600)),
    ]);
    let config = load(&given).unwrap();
    let BuilderSettings::Depot(depot) = config.builder().unwrap() else {
        panic!("another builder")
    };
    assert_eq!(depot.token.expose(), "the-token");
    let login = depot.registry.login.unwrap();
    assert_eq!(
        (depot.registry.host.as_str(), login.username.as_str()),
        ("registry.depot.dev", "x-token")
    );
    assert_eq!(login.password.expose(), "the-password");
    assert_eq!(config.registry().unwrap().unwrap().login.unwrap().username, "x-token");
}

/// Checklist 41, 42.
#[test]
fn a_secret_that_others_may_read_is_refused_and_never_shown() {
    let files = Files::new();
    let open = files.with("open", "the-password", 0o644);
    let given = set(&[
        "registry.host=registry.example.com",
        "registry.username=me",
        &format!("registry.password_file={open}"),
    ]);
    let config = load(&given).unwrap();
    let said = config.builder().unwrap_err().to_string();
    assert!(said.contains("chmod 600") && said.contains(&open), "{said}");
    files.with("open", "the-password", 0o600);
    let shown = format!("{:?}", config.builder().unwrap());
    assert!(shown.contains("registry.example.com") && !shown.contains("the-password"), "{shown}");
}

#[test]
fn a_registry_is_named_without_scheme_and_with_its_password() {
    let said = problems(&[
        "registry.host=https://r/x",
        "registry.repository=Team/",
        "registry.username=me",
    ]);
    for expected in ["registry.host", "registry.repository", "registry.password_file"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

/// Checklist 42: what deploy/compose.yaml mounts is what its settings name, and
/// no secret stands in either.
#[test]
fn the_settings_of_the_composition_are_valid_and_every_file_they_name_is_mounted() {
    let deploy = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let file = Some(deploy.join("config.toml"));
    let overrides = Overrides { file, ..Overrides::default() };
    let config = Config::load(PathBuf::from("/nonexistent"), &overrides).unwrap();
    let compose = fs::read_to_string(deploy.join("compose.yaml")).unwrap();
    let launchway = compose.split("\n  postgres:").next().unwrap();
    let mounted = launchway.lines().find(|line| line.contains("secrets: [")).unwrap();
    for file in [
        &config.server.sealing_key_file,
        &config.database.url_file,
        &config.storage.secret_access_key_file,
        &config.registry.password_file,
    ] {
        let name = file.strip_prefix("/run/secrets/").unwrap();
        assert!(mounted.contains(name), "{name} is not mounted: {mounted}");
        assert!(compose.contains(&format!("{name}: {{ file: ./secrets/{name} }}")), "{name}");
    }
    for line in compose.lines().filter(|line| line.contains("PASSWORD")) {
        assert!(line.contains("_FILE: /run/secrets/"), "a secret inline: {line}");
    }
}
