//! `launchway.toml` beside an application, and what it leaves open.

mod file;
mod init;
mod section;

use std::path::Path;

use launchway_workflows::{
    app::{RunOptions, WEB},
    names::{DEFAULT_ENVIRONMENT, check_slug, slugify},
};

pub(super) use file::ProjectFile;
pub(super) use init::init;

use super::{Failure, args::Global, deploy::here};

/// Reads `launchway.toml` in `dir`; none is empty.
pub(super) fn read(dir: &Path) -> Result<ProjectFile, Failure> {
    let path = dir.join("launchway.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) => ProjectFile::parse(&text).map_err(|problems| {
            let lines: Vec<String> =
                problems.iter().map(|problem| format!("{}: {problem}", path.display())).collect();
            Failure::usage(lines.join("\n"))
        }),
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
        None => directory_name(dir),
    };
    if name.starts_with("prj_") {
        return Ok(name);
    }
    check_slug("project", &name, 30)
        .map_err(|error| Failure::usage(format!("{error}; name it with --project")))?;
    Ok(name)
}

/// How to run: the file, with what flags say of the process that gets requests.
pub(super) fn run_options(
    file: &ProjectFile,
    port: Option<u16>,
    replicas: Option<u32>,
) -> Result<RunOptions, Failure> {
    let mut run = file.run.clone();
    if run.processes.is_empty() {
        run.port = port.unwrap_or(run.port);
        run.replicas = replicas.unwrap_or(run.replicas);
        return Ok(run);
    }
    match run.processes.get_mut(WEB) {
        Some(web) => {
            web.port = port.or(web.port);
            web.replicas = replicas.unwrap_or(web.replicas);
        }
        None if port.is_some() || replicas.is_some() => {
            return Err(Failure::usage(format!(
                "--port and --replicas are of the process `{WEB}`, and launchway.toml has none: set them \
                 for its processes there"
            )));
        }
        None => {}
    }
    Ok(run)
}

/// The directory's name as a project's; empty when nothing usable is in it.
fn directory_name(dir: &Path) -> String {
    let full = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let base = full.file_name().map(|name| name.to_string_lossy().into_owned());
    let slug: String = slugify(&base.unwrap_or_default()).chars().take(30).collect();
    slug.trim_matches(|c: char| c == '-' || c.is_ascii_digit()).to_owned()
}

/// Project and environment of a verb that has no deployment: flags, the file
/// here, the directory's name and the default environment.
pub(super) fn environment_here(global: &Global) -> Result<(String, String), Failure> {
    let file = read(here())?;
    let project = name(global, &file, here())?;
    let environment = global.environment.clone().or(file.environment);
    Ok((project, environment.unwrap_or_else(|| DEFAULT_ENVIRONMENT.to_owned())))
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
            progress: crate::cli::args::Progress::Auto,
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
