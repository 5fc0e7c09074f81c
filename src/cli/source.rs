//! A directory on its way to a build: its commit, its packed context, how to
//! build it.

use std::{collections::HashMap, path::Path};

use launchway_proto::ctrl::v1::{
    BuildContext, BuildOptions, GenerateUploadUrlRequest, GitCommitInfo,
};

use super::{
    Exit, Failure, args::BuildInputs, connect::Api, project::ProjectFile, render::Renderer,
};
use crate::pack::{self, PackOptions, PackedContext, git::GitState};

/// Above this the user is told what is going on.
const LARGE: u64 = 100 * 1024 * 1024;
/// The store refuses more by default; refused here before it is uploaded.
const MAX_PACKED: u64 = 2 * 1024 * 1024 * 1024;

/// A directory and how it is built: the flags before the file.
pub(super) struct BuildSource<'a> {
    dir: &'a Path,
    inputs: &'a BuildInputs,
    dockerfile: Option<String>,
    target: Option<String>,
    build_args: HashMap<String, String>,
    secrets: HashMap<String, String>,
}

impl<'a> BuildSource<'a> {
    /// Reads the secrets, here where their files are.
    ///
    /// # Errors
    /// A flag that cannot be read, by name.
    pub(super) fn new(
        dir: &'a Path,
        inputs: &'a BuildInputs,
        file: &ProjectFile,
    ) -> Result<Self, Failure> {
        Ok(Self {
            dir,
            inputs,
            dockerfile: inputs.dockerfile.clone().or_else(|| file.dockerfile.clone()),
            target: inputs.target.clone().or_else(|| file.target.clone()),
            build_args: build_args(&inputs.build_args)?,
            secrets: build_secrets(&inputs.build_secrets)?,
        })
    }

    pub(super) fn options(&self) -> BuildOptions {
        BuildOptions {
            target: self.target.clone(),
            platform: self.inputs.platform.clone(),
            build_args: self.build_args.clone(),
            no_cache: self.inputs.no_cache,
            secrets: self.secrets.clone(),
        }
    }

    /// Packs and uploads; with the hash of what was packed.
    pub(super) async fn upload(
        &self,
        api: &mut Api,
        project: &str,
        renderer: &Renderer,
    ) -> Result<(BuildContext, String), Failure> {
        let mut context = self.packed(renderer).await?;
        let build_context_path = uploaded(api, project, &mut context, renderer).await?;
        let dockerfile_path = self.dockerfile.clone();
        Ok((BuildContext { build_context_path, dockerfile_path }, context.content_hash))
    }

    async fn packed(&self, renderer: &Renderer) -> Result<PackedContext, Failure> {
        let dockerfile = self.dockerfile.clone().unwrap_or_else(|| "Dockerfile".to_owned());
        let mut build_inputs: Vec<(String, String)> = self
            .build_args
            .iter()
            .map(|(name, value)| (format!("arg:{name}"), value.clone()))
            .collect();
        build_inputs.sort();
        build_inputs.push(("dockerfile".to_owned(), dockerfile.clone()));
        build_inputs.push(("target".to_owned(), self.target.clone().unwrap_or_default()));
        build_inputs
            .push(("platform".to_owned(), self.inputs.platform.clone().unwrap_or_default()));
        let options = PackOptions {
            dir: self.dir.to_owned(),
            dockerfile,
            build_inputs,
            max_bytes: MAX_PACKED,
        };
        let context = pack::pack(options, |_| ()).await.map_err(Failure::usage)?;
        for path in &context.skipped {
            renderer.warning(&format!("`{}` is not a file and was left out", path.display()));
        }
        if context.size > LARGE {
            let size = context.size / (1024 * 1024);
            renderer.warning(&format!(
                "the context has {size} MiB packed: .dockerignore may leave something out"
            ));
        }
        Ok(context)
    }
}

/// The branch: the flag before git's; empty where there is neither.
pub(super) fn branch(inputs: &BuildInputs, git: Option<&GitState>) -> String {
    let detected = git.map(|git| git.branch.clone());
    inputs.branch.clone().or(detected).unwrap_or_default()
}

/// The commit: the flag before git's.
pub(super) fn commit(inputs: &BuildInputs, git: Option<GitState>) -> Option<GitCommitInfo> {
    let git = git.map(|git| GitCommitInfo {
        commit_sha: git.sha,
        commit_message: git.message,
        author_handle: git.author,
        author_avatar_url: String::new(),
        timestamp: git.timestamp,
        dirty: git.dirty,
        source_url: git.source_url,
    });
    match &inputs.commit {
        Some(sha) => Some(GitCommitInfo { commit_sha: sha.clone(), ..git.unwrap_or_default() }),
        None => git,
    }
}

fn build_args(given: &[String]) -> Result<HashMap<String, String>, Failure> {
    given
        .iter()
        .map(|text| match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(Failure::usage(format!("--build-arg {text}: give NAME=VALUE"))),
        })
        .collect()
}

/// Reads build secrets here, where their files are.
fn build_secrets(given: &[String]) -> Result<HashMap<String, String>, Failure> {
    given.iter().map(|text| build_secret(text).map_err(Failure::usage)).collect()
}

fn build_secret(text: &str) -> Result<(String, String), String> {
    let rule = || format!("--build-secret {text}: give id=ID,src=FILE or id=ID,env=NAME");
    let mut parts = HashMap::new();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or_else(rule)?;
        parts.insert(key, value);
    }
    let id = parts.remove("id").filter(|id| !id.is_empty()).ok_or_else(rule)?;
    let problem = |source: &str, error: String| format!("--build-secret {id}: {source}: {error}");
    let secret = match (parts.remove("src"), parts.remove("env"), parts.is_empty()) {
        (Some(file), None, true) => {
            std::fs::read_to_string(file).map_err(|error| problem(file, error.to_string()))?
        }
        (None, Some(name), true) => {
            std::env::var(name).map_err(|error| problem(name, error.to_string()))?
        }
        _ => return Err(rule()),
    };
    Ok((id.to_owned(), secret))
}

async fn uploaded(
    api: &mut Api,
    project: &str,
    context: &mut PackedContext,
    renderer: &Renderer,
) -> Result<String, Failure> {
    let request = GenerateUploadUrlRequest {
        unkey_project_id: project.to_owned(),
        size: context.size,
        sha256: context.sha256.clone(),
    };
    let granted = api.builds.generate_upload_url(request).await;
    let granted = granted.map_err(|status| Failure::of_call(&status))?.into_inner();
    renderer.begin_bytes("uploading", context.size);
    let sent =
        pack::upload(context, &granted.upload_url, &granted.headers, |sent| renderer.bytes(sent))
            .await;
    renderer.end_bytes();
    sent.map_err(|error| Failure::new(Exit::Internal, error))?;
    renderer.note(&format!("uploaded {} files, {} bytes", context.entries, context.size));
    Ok(granted.build_context_path)
}
