//! `launchway.toml` beside an application, and what it leaves open.

use std::path::Path;

use launchway_workflows::names::{check_slug, slugify};
use serde::Deserialize;

use super::{Failure, args::Global};

/// The file's content.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProjectFile {
    pub(super) project: Option<String>,
    pub(super) environment: Option<String>,
    pub(super) dockerfile: Option<String>,
    pub(super) target: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) replicas: Option<u32>,
    /// `supersede-queued` or `queue`.
    pub(super) queue: Option<String>,
}

/// Reads `launchway.toml` in `dir`; none is empty.
pub(super) fn read(dir: &Path) -> Result<ProjectFile, Failure> {
    let path = dir.join("launchway.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(ProjectFile::default()),
        // A file or nothing in the directory's place is said by the packer.
        Err(_) if !dir.is_dir() => Ok(ProjectFile::default()),
        Err(error) => Err(Failure::usage(format!("{} cannot be read: {error}", path.display()))),
    }
}

/// The project: flag, file, the directory's name.
pub(super) fn name(global: &Global, file: &ProjectFile, dir: &Path) -> Result<String, Failure> {
    let given = global.project.clone().or_else(|| file.project.clone());
    let name = match given {
        Some(name) => name,
        None => {
            let full = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
            let base = full.file_name().map(|name| name.to_string_lossy().into_owned());
            let slug: String = slugify(&base.unwrap_or_default()).chars().take(30).collect();
            slug.trim_matches(|c: char| c == '-' || c.is_ascii_digit()).to_owned()
        }
    };
    if name.starts_with("prj_") {
        return Ok(name);
    }
    check_slug("project", &name, 30)
        .map_err(|error| Failure::usage(format!("{error}; name it with --project")))?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(project: Option<&str>) -> Global {
        Global {
            url: None,
            token: None,
            workspace: None,
            project: project.map(str::to_owned),
            environment: None,
            json: false,
            progress: super::super::args::Progress::Auto,
        }
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_directory() {
        let file = ProjectFile { project: Some("from-file".to_owned()), ..ProjectFile::default() };
        let dir = Path::new("/srv/My App");
        assert_eq!(name(&global(Some("flag")), &file, dir).unwrap(), "flag");
        assert_eq!(name(&global(None), &file, dir).unwrap(), "from-file");
        assert_eq!(name(&global(None), &ProjectFile::default(), dir).unwrap(), "my-app");
        let error = name(&global(None), &ProjectFile::default(), Path::new("/")).unwrap_err();
        assert!(error.message.contains("--project"), "{error:?}");
    }
}
