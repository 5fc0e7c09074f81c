//! Layers that are kept in the registry, for builders that come and go.

use launchway_workflows::{
    ids::BuildId,
    model::BuildOptions,
    ports::{BuildEvent, BuildEventKind, BuildSpec},
};

use super::{
    bench::{Backend, Bench, OWNER, build_with, run},
    servers::registry::PASSWORD,
};
use crate::{builder::BuildkitBuilder, registry::Registry};

async fn built(builder: &BuildkitBuilder, spec: &BuildSpec) -> Vec<BuildEvent> {
    let (built, events) = build_with(builder, spec).await;
    built.unwrap();
    events
}

fn done(events: &[BuildEvent], vertex: &str) -> bool {
    events.iter().any(|event| {
        event.vertex.contains(vertex) && matches!(event.kind, BuildEventKind::Done { .. })
    })
}

/// Checklist 21.
#[tokio::test]
async fn layers_go_to_the_registry_and_come_from_it() {
    let bench = Bench::new(Backend::Buildkit, &run("echo cached > /made")).await;
    let settings = Registry { cache: true, ..bench.registry.settings(PASSWORD) };
    let address = bench.forwarder.as_ref().unwrap().client();
    let builder = BuildkitBuilder::new(address, settings.clone(), OWNER);
    let mut spec = bench.spec(BuildOptions::default()).await;
    spec.options.no_cache = false;
    let reference = format!("{}:buildcache", bench.repository());
    assert_eq!(settings.digest_of(&reference).await.unwrap(), None);
    // Nothing to import yet: that fails no build.
    let first = built(&builder, &spec).await;
    assert!(done(&first, "exporting cache to registry"), "{first:?}");
    assert!(settings.digest_of(&reference).await.unwrap().is_some());
    spec.build_id = BuildId::generate();
    let second = built(&builder, &spec).await;
    assert!(done(&second, "importing cache manifest from"), "{second:?}");
}
