//! Images: found on the engine, or pulled.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bollard::{
    Docker, errors::Error, models::CreateImageInfo, query_parameters::CreateImageOptionsBuilder,
};
use futures::StreamExt;

use super::{failed, is_not_found};
use crate::{krane::backend::BackendError, registry::Login};

/// Longest pull of an image.
const PULL_LIMIT: Duration = Duration::from_secs(540);
/// How often the progress of a pull is told.
const TELL: Duration = Duration::from_millis(500);
const MIB: i64 = 1 << 20;

/// An image that the engine has.
pub(super) struct Image {
    pub(super) id: String,
    /// The only port it exposes.
    pub(super) exposed: Option<u16>,
}

/// Finds the image, pulling it where it is absent; `tell` hears how that goes.
pub(super) async fn find(
    docker: &Docker,
    login: Option<&Login>,
    reference: &str,
    tell: impl FnMut(&str),
) -> Result<Image, BackendError> {
    let unavailable =
        |reason: String| BackendError::ImageUnavailable { image: reference.to_owned(), reason };
    let found = match docker.inspect_image(reference).await {
        Ok(found) => found,
        Err(error) if is_not_found(&error) && reference.starts_with("sha256:") => {
            return Err(unavailable("this engine does not have it".to_owned()));
        }
        Err(error) if is_not_found(&error) => {
            pull(docker, login, reference, tell).await?;
            docker.inspect_image(reference).await.map_err(|error| failed(&error))?
        }
        Err(error) => return Err(failed(&error)),
    };
    let exposed = found.config.and_then(|config| config.exposed_ports).unwrap_or_default();
    let mut ports = exposed.iter().filter_map(|port| port.strip_suffix("/tcp")?.parse().ok());
    let exposed = ports.next().filter(|_| ports.next().is_none());
    Ok(Image { id: found.id.unwrap_or_else(|| reference.to_owned()), exposed })
}

async fn pull(
    docker: &Docker,
    login: Option<&Login>,
    reference: &str,
    mut tell: impl FnMut(&str),
) -> Result<(), BackendError> {
    let options = CreateImageOptionsBuilder::new().from_image(reference).build();
    let credentials = login.filter(|login| login.is_for(host_of(reference)));
    let credentials = credentials.map(Login::for_engine);
    let (begun, mut told) = (Instant::now(), None::<Instant>);
    let mut layers = Layers::default();
    let mut messages = docker.create_image(Some(options), None, credentials);
    tell("pulling the image");
    let pulling = async {
        while let Some(message) = messages.next().await {
            layers.note(message?);
            if told.is_none_or(|told| told.elapsed() >= TELL) {
                told = Some(Instant::now());
                let progress = layers.to_string();
                tracing::info!(image = reference, "{progress}");
                tell(&progress);
            }
        }
        Ok(())
    };
    match tokio::time::timeout(PULL_LIMIT, pulling).await {
        Ok(Ok(())) => {
            let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(image = reference, ms, "pulled");
            Ok(())
        }
        Ok(Err(error)) => Err(not_pulled(reference, &error)),
        Err(_) => Err(BackendError::Unavailable(format!(
            "the pull of `{reference}` did not end within {} s",
            PULL_LIMIT.as_secs()
        ))),
    }
}

/// A registry that is away for a moment is worth another try; one that says no
/// is not.
fn not_pulled(reference: &str, error: &Error) -> BackendError {
    let reason = match error {
        Error::DockerResponseServerError { message, .. } => message.clone(),
        Error::DockerStreamError { error } => error.clone(),
        error => error.to_string(),
    };
    let passing = ["timeout", "connection re", "EOF", "toomanyrequests", "server misbehaving"];
    if passing.iter().any(|sign| reason.contains(sign)) {
        return BackendError::Unavailable(format!("the pull of `{reference}` failed: {reason}"));
    }
    BackendError::ImageUnavailable { image: reference.to_owned(), reason }
}

/// How far each layer of a pull is.
#[derive(Default)]
struct Layers {
    by_id: HashMap<String, Layer>,
}

#[derive(Default)]
struct Layer {
    current: i64,
    total: i64,
    done: bool,
}

impl Layers {
    fn note(&mut self, message: CreateImageInfo) {
        let (Some(id), Some(status)) = (message.id, message.status) else { return };
        // The tag is an id too, with a status of its own.
        let known =
            ["Pulling fs layer", "Waiting", "Downloading", "Verifying", "Download complete"];
        let done = ["Extracting", "Pull complete", "Already exists"].contains(&status.as_str());
        if !done && !known.iter().any(|known| status.starts_with(known)) {
            return;
        }
        let layer = self.by_id.entry(id).or_default();
        layer.done |= status == "Pull complete" || status == "Already exists";
        if status == "Downloading"
            && let Some(detail) = message.progress_detail
        {
            layer.current = detail.current.unwrap_or(layer.current);
            layer.total = detail.total.unwrap_or(layer.total);
        }
        if done || status == "Download complete" {
            layer.current = layer.total;
        }
    }
}

impl std::fmt::Display for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let layers = self.by_id.values();
        let (done, all) = (layers.clone().filter(|layer| layer.done).count(), layers.len());
        let current: i64 = layers.clone().map(|layer| layer.current).sum();
        let total: i64 = layers.map(|layer| layer.total).sum();
        write!(f, "pulling the image: {done} of {all} layers")?;
        if total > 0 {
            let (current, total) = (current / MIB, (total + MIB - 1) / MIB);
            write!(f, ", {current} of {total} MiB")?;
        }
        Ok(())
    }
}

/// The registry of a reference; without one it is Docker's own.
fn host_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    #[test]
    fn a_pull_is_told_in_layers_and_bytes() {
        let mut layers = Layers::default();
        let mut note = |id: &str, status: &str, current, total| {
            layers.note(CreateImageInfo {
                id: Some(id.to_owned()),
                status: Some(status.to_owned()),
                progress_detail: Some(ProgressDetail { current, total }),
                ..CreateImageInfo::default()
            });
            layers.to_string()
        };
        note("latest", "Pulling from library/app", None, None);
        note("a", "Already exists", None, None);
        assert_eq!(note("b", "Pulling fs layer", None, None), "pulling the image: 1 of 2 layers");
        let half = note("b", "Downloading", Some(3 << 20), Some(6 << 20));
        assert_eq!(half, "pulling the image: 1 of 2 layers, 3 of 6 MiB");
        let all = note("b", "Pull complete", None, None);
        assert_eq!(all, "pulling the image: 2 of 2 layers, 6 of 6 MiB");
    }

    #[test]
    fn a_registry_that_says_no_is_not_asked_again() {
        let said = |message: &str| {
            let error =
                Error::DockerResponseServerError { status_code: 500, message: message.to_owned() };
            not_pulled("r/a@sha256:0", &error)
        };
        let gone = said("manifest for r/a not found: manifest unknown");
        assert!(matches!(gone, BackendError::ImageUnavailable { .. }), "{gone}");
        let away = said("Get https://r/v2/: dial tcp 10.0.0.1:443: connection refused");
        assert!(matches!(away, BackendError::Unavailable(_)), "{away}");
        assert!(away.to_string().contains("`r/a@sha256:0`"), "{away}");
    }
}
