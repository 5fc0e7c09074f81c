//! `builder use`: asks for what is missing, checks that it works, and only then
//! writes settings and secrets.

use std::{
    fs,
    io::{IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use dialoguer::{Input, Password};
use serde_json::json;
use toml_edit::{DocumentMut, Item, Table, value};

use super::{
    Exit, Failure,
    args::{BackendName, BuilderArgs, Global},
    render::emit,
    serve::data_dir,
};
use crate::{
    config::{Config, Overrides},
    up::Layout,
};

/// Settings of one builder: section, key and what it is to be.
struct Wanted {
    settings: Vec<(&'static str, &'static str, Setting)>,
    interactive: bool,
}

/// What the TLS files of a buildkitd are, for people.
const TLS_FILES: [&str; 3] = [
    "file with the authority of the server's certificate",
    "file with the certificate of this client",
    "file with its key",
];

enum Setting {
    Text(String),
    Flag(bool),
    /// Kept in a file of ours of this name.
    Secret(&'static str, String),
}

pub(super) async fn use_builder(global: &Global, args: BuilderArgs) -> Result<Exit, Failure> {
    let layout = Layout::new(&data_dir(&args.config));
    layout.create().map_err(Failure::usage)?;
    let wanted = Wanted::of(&args).map_err(Failure::usage)?;
    // Secrets first, beside the ones in use: nothing refers to them yet.
    let written = wanted.write_secrets(&layout.secrets()).map_err(Failure::usage)?;
    let checked = check(&args, &wanted, &written).await;
    let builder = match checked {
        Ok(builder) => builder,
        Err(problem) => {
            written.iter().for_each(|(_, file)| drop(fs::remove_file(file)));
            return Err(Failure::usage(format!("nothing was changed: {problem}")));
        }
    };
    let path = settings_path(&args);
    save(&path, &wanted, &written).map_err(Failure::usage)?;
    if global.json {
        emit(&json!({"type": "result", "builder": builder, "config": path.display().to_string()}));
    } else {
        eprintln!("builds go to {builder}");
        eprintln!("written to {}; it holds from the next start of launchway", path.display());
    }
    Ok(Exit::Success)
}

/// The configuration as it would be, and whether its builder answers.
async fn check(
    args: &BuilderArgs,
    wanted: &Wanted,
    written: &[(&'static str, PathBuf)],
) -> Result<String, String> {
    let mut overrides =
        Overrides::from_environment(args.config.config.clone(), args.config.set.clone());
    overrides.set.extend(
        wanted
            .settings
            .iter()
            .map(|(section, key, setting)| format!("{section}.{key}={}", setting.text(written))),
    );
    let config = Config::load(data_dir(&args.config), &overrides);
    let config = config.map_err(|error| error.to_string())?;
    config.builder().map_err(|error| error.to_string())?.check().await
}

impl Setting {
    fn text(&self, written: &[(&'static str, PathBuf)]) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Flag(flag) => flag.to_string(),
            Self::Secret(name, _) => written
                .iter()
                .find(|(known, _)| known == name)
                .map_or_else(String::new, |(_, file)| file.display().to_string()),
        }
    }
}

impl Wanted {
    fn of(args: &BuilderArgs) -> Result<Self, String> {
        let interactive = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        let mut wanted = Self { settings: Vec::new(), interactive };
        match args.backend {
            BackendName::Docker => wanted.text("builder", "backend", "docker"),
            BackendName::Buildkit => wanted.buildkit(args)?,
            BackendName::Depot => wanted.depot(args)?,
        }
        wanted.registry(args)?;
        Ok(wanted)
    }

    fn buildkit(&mut self, args: &BuilderArgs) -> Result<(), String> {
        self.text("builder", "backend", "buildkit");
        let address =
            self.ask("--address", "buildkitd (tcp://HOST:PORT or unix:///PATH)", &args.address)?;
        self.text("buildkit", "address", &address);
        let files = [
            ("ca_file", "buildkit-ca.pem", &args.ca_file),
            ("cert_file", "buildkit-cert.pem", &args.cert_file),
            ("key_file", "buildkit-key.pem", &args.key_file),
        ];
        let remote = address.starts_with("tcp://");
        for ((key, name, given), what) in files.into_iter().zip(TLS_FILES) {
            let file = match given {
                Some(file) => Some(file.clone()),
                None if remote => self.ask_optional(what)?.map(PathBuf::from),
                None => None,
            };
            match file {
                Some(file) => self.secret("buildkit", key, name, read(&file)?),
                None => self.text("buildkit", key, ""),
            }
        }
        self.text("buildkit", "server_name", args.server_name.as_deref().unwrap_or_default());
        Ok(())
    }

    fn depot(&mut self, args: &BuilderArgs) -> Result<(), String> {
        self.text("builder", "backend", "depot");
        let token =
            self.ask_secret("--token-file", "API token of the organisation", &args.token_file)?;
        self.secret("depot", "token_file", "depot-token", token);
        self.text("depot", "organization", args.organization.as_deref().unwrap_or_default());
        for (key, given) in [("region", &args.region), ("api_url", &args.api_url)] {
            if let Some(given) = given {
                self.text("depot", key, given);
            }
        }
        Ok(())
    }

    fn registry(&mut self, args: &BuilderArgs) -> Result<(), String> {
        let host = match (args.backend, &args.registry) {
            (BackendName::Buildkit, given) => {
                self.ask("--registry", "registry of the images (host, or host:port)", given)?
            }
            (_, given) => given.clone().unwrap_or_default(),
        };
        self.text("registry", "host", &host);
        self.text("registry", "repository", args.repository.as_deref().unwrap_or_default());
        self.settings.push(("registry", "cache", Setting::Flag(args.cache)));
        let user = match &args.username {
            // Nobody has to name the user of Depot's own registry.
            None if !host.is_empty() => self.ask_optional("user of the registry")?,
            given => given.clone(),
        };
        let user = user.unwrap_or_default();
        self.text("registry", "username", &user);
        let needed = args.backend == BackendName::Depot || !user.is_empty();
        if needed || args.password_file.is_some() {
            let password = self.ask_secret(
                "--password-file",
                "password of the registry",
                &args.password_file,
            )?;
            self.secret("registry", "password_file", "registry-password", password);
        } else {
            self.text("registry", "password_file", "");
        }
        Ok(())
    }

    fn text(&mut self, section: &'static str, key: &'static str, text: &str) {
        self.settings.push((section, key, Setting::Text(text.to_owned())));
    }

    fn secret(
        &mut self,
        section: &'static str,
        key: &'static str,
        name: &'static str,
        text: String,
    ) {
        self.settings.push((section, key, Setting::Secret(name, text)));
    }

    fn ask(&self, flag: &str, what: &str, given: &Option<String>) -> Result<String, String> {
        match given {
            Some(given) => Ok(given.clone()),
            None if self.interactive => {
                Input::new().with_prompt(what).interact_text().map_err(|error| error.to_string())
            }
            None => Err(format!("{flag} is missing: give the {what}")),
        }
    }

    /// An empty answer is none; not asked for without a terminal.
    fn ask_optional(&self, what: &str) -> Result<Option<String>, String> {
        if !self.interactive {
            return Ok(None);
        }
        let prompt = format!("{what} (empty: none)");
        let answer: Result<String, _> =
            Input::new().with_prompt(prompt).allow_empty(true).interact_text();
        answer.map(|text| Some(text).filter(|text| !text.is_empty())).map_err(|e| e.to_string())
    }

    fn ask_secret(
        &self,
        flag: &str,
        what: &str,
        given: &Option<PathBuf>,
    ) -> Result<String, String> {
        match given {
            Some(file) => read(file),
            None if self.interactive => {
                Password::new().with_prompt(what).interact().map_err(|error| error.to_string())
            }
            None => Err(format!("{flag} is missing: name the file with the {what}")),
        }
    }

    /// New files, 0600, under names that nothing has yet.
    fn write_secrets(&self, dir: &Path) -> Result<Vec<(&'static str, PathBuf)>, String> {
        let mut written = Vec::new();
        for (_, _, setting) in &self.settings {
            let Setting::Secret(name, text) = setting else { continue };
            let file = dir.join(format!("{name}-{}", uuid::Uuid::new_v4().simple()));
            let problem = |error: std::io::Error| format!("{}: {error}", file.display());
            let mut options = fs::OpenOptions::new();
            let mut open =
                options.write(true).create_new(true).mode(0o600).open(&file).map_err(problem)?;
            open.write_all(text.as_bytes()).map_err(problem)?;
            written.push((*name, file));
        }
        Ok(written)
    }
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

fn settings_path(args: &BuilderArgs) -> PathBuf {
    args.config.config.clone().unwrap_or_else(|| data_dir(&args.config).join("config.toml"))
}

/// Sets the settings in the file and leaves everything else in it as it is.
fn save(path: &Path, wanted: &Wanted, written: &[(&'static str, PathBuf)]) -> Result<(), String> {
    let problem = |error: String| format!("{}: {error}", path.display());
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(problem(error.to_string())),
    };
    let mut document: DocumentMut =
        text.parse().map_err(|error: toml_edit::TomlError| problem(error.to_string()))?;
    for (section, key, setting) in &wanted.settings {
        let table = document.entry(section).or_insert(Item::Table(Table::new()));
        table[key] = match setting {
            Setting::Flag(flag) => value(*flag),
            setting => value(setting.text(written)),
        };
    }
    // Beside it and then in its place: no reader sees a half of it.
    let new = path.with_extension("toml.new");
    fs::write(&new, document.to_string()).map_err(|error| problem(error.to_string()))?;
    fs::rename(&new, path).map_err(|error| problem(error.to_string()))
}
