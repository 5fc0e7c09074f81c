//! What may go, and what must stay.

use launchway_workflows::{
    error::ErrorCode,
    model::{BuildContext, BuiltImage, Purpose, Source, Submission},
    ports::{Archive as _, Cutoffs, Garbage, ReleaseStart, Store as _},
    services::release::{ReleaseKind, ReleaseRequest},
};

use super::{
    DeploymentId, NewDeployment, Store, WorkspaceId, create_from, invocation, live,
    on_both_databases, submission,
};
use crate::store::suite::attempts::failed;

on_both_databases!(
    what_failed_long_ago_goes_with_its_image_first,
    what_is_live_or_under_way_is_never_garbage,
    a_context_is_needed_as_long_as_something_may_be_built_from_it,
    an_image_that_was_deployed_by_its_id_stays,
    a_target_whose_image_was_given_up_is_refused,
);

/// Everything is past these.
const NOW: Cutoffs =
    Cutoffs { sources: i64::MAX, logs: i64::MAX, records: i64::MAX, restorable: 0 };
/// Nothing is past these.
const NEVER: Cutoffs = Cutoffs { sources: 0, logs: 0, records: 0, restorable: 0 };

fn image(id: &DeploymentId) -> BuiltImage {
    BuiltImage {
        reference: format!("launchway/local/shop:{id}"),
        digest: format!("sha256:{id}"),
        local_only: true,
    }
}

fn from_context(key: &str, context: &str) -> NewDeployment {
    let build_context_path = context.to_owned();
    let source = Source::BuildContext(BuildContext { build_context_path, dockerfile_path: None });
    NewDeployment { source, ..submission(key) }
}

/// One that has built its image and then failed.
async fn failed_one(store: &Store, new: NewDeployment) -> DeploymentId {
    let id = create_from(store, new).await;
    let owner = invocation(&format!("inv-{id}"));
    store.begin_attempt(&id, &owner).await.unwrap().unwrap();
    store.record_image(&id, &image(&id)).await.unwrap();
    store.finish_attempt(&id, &owner, &failed(ErrorCode::NotReady)).await.unwrap();
    id
}

fn image_of(id: &DeploymentId) -> Garbage {
    Garbage::Image { deployment_id: id.clone(), image: image(id), size: 0 }
}

async fn what_failed_long_ago_goes_with_its_image_first(store: &Store) {
    let id = failed_one(store, submission("one")).await;
    assert_eq!(store.expired(&NEVER, 10).await.unwrap(), []);
    assert_eq!(store.expired(&NOW, 10).await.unwrap(), [image_of(&id)]);
    let record = Garbage::Record { deployment_id: id.clone() };
    assert!(!store.give_up(&record, &NOW).await.unwrap(), "its image is still there");
    assert!(!store.give_up(&image_of(&id), &NEVER).await.unwrap(), "it is not past its time");
    // Twice: after a crash between the two.
    assert!(store.give_up(&image_of(&id), &NOW).await.unwrap());
    assert_eq!(store.expired(&NOW, 10).await.unwrap(), [image_of(&id)]);
    assert!(store.give_up(&image_of(&id), &NOW).await.unwrap());
    store.image_gone(&id).await.unwrap();
    assert_eq!(store.expired(&NOW, 10).await.unwrap(), std::slice::from_ref(&record));
    assert!(store.give_up(&record, &NOW).await.unwrap());
    assert!(store.deployment(&WorkspaceId::local(), &id).await.unwrap().is_none());
    assert!(store.give_up(&record, &NOW).await.unwrap(), "the same again says the same");
}

async fn what_is_live_or_under_way_is_never_garbage(store: &Store) {
    let (plan, _) = live(store, "live").await;
    store.record_image(&plan.deployment_id, &image(&plan.deployment_id)).await.unwrap();
    let waiting = create_from(store, submission("waiting")).await;
    let building = create_from(store, submission("building")).await;
    store.begin_attempt(&building, &invocation("inv")).await.unwrap().unwrap();
    store.record_image(&building, &image(&building)).await.unwrap();
    assert_eq!(store.expired(&NOW, 10).await.unwrap(), []);
    for id in [&plan.deployment_id, &waiting, &building] {
        for garbage in [
            image_of(id),
            Garbage::Record { deployment_id: id.clone() },
            Garbage::BuildLog { deployment_id: id.clone(), size: 1 },
        ] {
            assert!(!store.give_up(&garbage, &NOW).await.unwrap(), "{garbage:?}");
        }
    }
    let known = [plan.deployment_id.clone(), waiting, building];
    let unknown = DeploymentId::generate();
    let asked = [known.as_slice(), std::slice::from_ref(&unknown)].concat();
    assert_eq!(store.may_run(&asked).await.unwrap(), known);
}

async fn a_context_is_needed_as_long_as_something_may_be_built_from_it(store: &Store) {
    let keys = ["contexts/p/a".to_owned(), "contexts/p/b".to_owned()];
    let context = Garbage::Context { key: keys[0].clone(), size: 1 };
    failed_one(store, from_context("one", &keys[0])).await;
    let needed = store.needed_contexts(&keys, &NEVER).await.unwrap();
    assert_eq!(needed, keys[..1], "within its time it can be retried");
    assert!(!store.give_up(&context, &NEVER).await.unwrap());
    assert_eq!(store.needed_contexts(&keys, &NOW).await.unwrap(), Vec::<String>::new());
    let again = create_from(store, from_context("two", &keys[0])).await;
    assert!(!store.give_up(&context, &NOW).await.unwrap(), "it is about to be built");
    let owner = invocation("inv-2");
    store.begin_attempt(&again, &owner).await.unwrap().unwrap();
    store.finish_attempt(&again, &owner, &failed(ErrorCode::NotReady)).await.unwrap();
    for _ in 0..2 {
        assert!(store.give_up(&context, &NOW).await.unwrap());
    }
    // Whoever has seen it before it was given up hears of that now.
    let late = store.create_deployment(&from_context("three", &keys[0])).await.unwrap();
    assert!(matches!(late, Submission::Refused { conflict: true, .. }), "{late:?}");
}

async fn an_image_that_was_deployed_by_its_id_stays(store: &Store) {
    let built = NewDeployment { purpose: Purpose::Build, ..submission("built") };
    let id = failed_one(store, built).await;
    let source = Source::DockerImage(image(&id).digest);
    let deployed = create_from(store, NewDeployment { source, ..submission("by-id") }).await;
    assert_eq!(store.expired(&NOW, 10).await.unwrap(), []);
    assert!(!store.give_up(&image_of(&id), &NOW).await.unwrap());
    let owner = invocation("inv-by-id");
    store.begin_attempt(&deployed, &owner).await.unwrap().unwrap();
    store.finish_attempt(&deployed, &owner, &failed(ErrorCode::NotReady)).await.unwrap();
    assert!(store.give_up(&image_of(&id), &NOW).await.unwrap());
}

async fn a_target_whose_image_was_given_up_is_refused(store: &Store) {
    let (first, _) = live(store, "first").await;
    let id = first.deployment_id;
    store.record_image(&id, &image(&id)).await.unwrap();
    let (second, _) = live(store, "second").await;
    let candidates = store.retirement_candidates(&second.deployment_id, 0).await.unwrap();
    for candidate in candidates {
        store.begin_retirement(&candidate).await.unwrap();
        store.finish_retirement(&candidate.deployment_id).await.unwrap();
    }
    let kept = Cutoffs { restorable: 1, ..NOW };
    assert!(!store.give_up(&image_of(&id), &kept).await.unwrap(), "it is restorable");
    assert!(store.give_up(&image_of(&id), &NOW).await.unwrap());
    let request = ReleaseRequest {
        kind: ReleaseKind::Promote,
        target_deployment_id: id.clone(),
        source_deployment_id: None,
    };
    match store.begin_release(&request).await.unwrap() {
        ReleaseStart::Refused(reason) => assert!(reason.contains("redeploy"), "{reason}"),
        other => panic!("{other:?}"),
    }
}
