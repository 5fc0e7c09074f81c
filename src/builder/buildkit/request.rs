//! A build as BuildKit's frontend and exporters are asked for it.

use std::collections::HashMap;

use bollard_buildkit_proto::moby::buildkit::v1::{CacheOptions, CacheOptionsEntry, SolveRequest};
use launchway_workflows::{
    error::{ErrorCode, StepError},
    ports::BuildSpec,
};

use crate::{
    builder::platform::Platforms,
    registry::{CacheRef, Registry},
};

/// Where the image goes.
#[derive(Debug, Clone)]
pub(in crate::builder) enum Output {
    /// Into the Docker engine that BuildKit is a part of, under this name.
    Engine(String),
    /// Pushed to a registry, under this reference.
    Registry {
        /// With tag.
        reference: String,
        /// The registry speaks HTTP.
        plain_http: bool,
    },
}

/// Everything about a solve but its session.
pub(super) fn of(
    spec: &BuildSpec,
    output: &Output,
    cache: Option<&CacheRef>,
    labels: &[(&str, &str)],
) -> Result<SolveRequest, StepError> {
    let mut attrs = frontend_attrs(spec)?;
    attrs.extend(labels.iter().map(|(name, value)| (format!("label:{name}"), (*value).to_owned())));
    let mut options = CacheOptions::default();
    if let Some(cache) = cache {
        options.imports = vec![import(cache)];
        options.exports = vec![export(cache)];
        // The frontend looks for base layers' cache by itself.
        attrs.insert("cache-imports".to_owned(), imports_json(&options.imports));
    }
    let (exporter, exporter_attrs) = exporter(output);
    Ok(SolveRequest {
        r#ref: spec.build_id.as_str().to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: attrs,
        // Understood by every version; `exporters` is not by the one in
        // Docker 20.10.
        exporter_deprecated: exporter.to_owned(),
        exporter_attrs_deprecated: exporter_attrs,
        cache: Some(options),
        ..SolveRequest::default()
    })
}

fn frontend_attrs(spec: &BuildSpec) -> Result<HashMap<String, String>, StepError> {
    let options = &spec.options;
    let platforms = Platforms::resolve(options.platform.as_deref())
        .map_err(|error| StepError::permanent(ErrorCode::BuildFailed, error.to_string()))?;
    let dockerfile = spec.dockerfile_path.as_deref().unwrap_or("Dockerfile");
    let mut attrs = HashMap::from([
        ("context".to_owned(), spec.context_url.0.clone()),
        ("filename".to_owned(), dockerfile.to_owned()),
    ]);
    if let Some(platforms) = platforms.sent() {
        attrs.insert("platform".to_owned(), platforms);
    }
    if let Some(target) = &options.target {
        attrs.insert("target".to_owned(), target.clone());
    }
    if options.no_cache {
        attrs.insert("no-cache".to_owned(), String::new());
    }
    let args = options.build_args.iter();
    attrs.extend(args.map(|(name, value)| (format!("build-arg:{name}"), value.clone())));
    let labels = spec.labels.iter();
    attrs.extend(labels.map(|(name, value)| (format!("label:{name}"), value.clone())));
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    attrs.insert("label:org.opencontainers.image.created".to_owned(), now);
    attrs.insert("label:launchway.build".to_owned(), spec.build_id.to_string());
    attrs.insert("label:launchway.deployment".to_owned(), spec.deployment_id.to_string());
    Ok(attrs)
}

fn exporter(output: &Output) -> (&'static str, HashMap<String, String>) {
    match output {
        Output::Engine(name) => ("moby", HashMap::from([("name".to_owned(), name.clone())])),
        Output::Registry { reference, plain_http } => {
            let mut attrs = HashMap::from([
                ("name".to_owned(), reference.clone()),
                ("push".to_owned(), "true".to_owned()),
                ("oci-mediatypes".to_owned(), "true".to_owned()),
            ]);
            if *plain_http {
                attrs.insert("registry.insecure".to_owned(), "true".to_owned());
            }
            ("image", attrs)
        }
    }
}

fn import(cache: &CacheRef) -> CacheOptionsEntry {
    let attrs = HashMap::from([("ref".to_owned(), cache.reference.clone())]);
    CacheOptionsEntry { r#type: "registry".to_owned(), attrs: insecure(attrs, cache) }
}

/// Every stage's layers; a registry that refuses them fails no build.
fn export(cache: &CacheRef) -> CacheOptionsEntry {
    let attrs = HashMap::from([
        ("ref".to_owned(), cache.reference.clone()),
        ("mode".to_owned(), "max".to_owned()),
        ("ignore-error".to_owned(), "true".to_owned()),
    ]);
    CacheOptionsEntry { r#type: "registry".to_owned(), attrs: insecure(attrs, cache) }
}

fn insecure(mut attrs: HashMap<String, String>, cache: &CacheRef) -> HashMap<String, String> {
    if cache.plain_http {
        attrs.insert("registry.insecure".to_owned(), "true".to_owned());
    }
    attrs
}

fn imports_json(imports: &[CacheOptionsEntry]) -> String {
    let entries: Vec<_> = imports
        .iter()
        .map(|entry| serde_json::json!({ "Type": entry.r#type, "Attrs": entry.attrs }))
        .collect();
    serde_json::Value::from(entries).to_string()
}

impl Output {
    /// A registry's repository with this build's tag.
    pub(in crate::builder) fn push(registry: &Registry, reference: String) -> Self {
        Self::Registry { reference, plain_http: registry.plain_http }
    }
}
