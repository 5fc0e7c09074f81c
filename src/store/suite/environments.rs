//! What environments give their deployments, and who may use the API.

use std::collections::BTreeMap;

use launchway_workflows::{
    app::{Process, ReleaseCommand, RunOptions, Scale},
    ids::{ApiKeyId, DeploymentId, WorkspaceId},
    model::{NewDeployment, Sealed},
    ports::{Guarded, ReleaseMark, ScaleStart, ScaleTarget, ScaleUnderWay, Store as _},
    services::scale::ScaleRequest,
};

use super::{
    super::{Act, Role, Store},
    create_from, invocation, live, on_both_databases, routing, submission,
};

on_both_databases!(
    a_deployment_keeps_the_variables_of_its_submission,
    variables_are_set_and_removed_all_or_none,
    a_scale_is_recorded_once_and_taken_back_whole,
    a_scale_that_was_left_behind_is_taken_back_by_whoever_comes_next,
    what_is_drained_is_told_to_the_routes_until_the_scale_has_ended,
    a_deployment_is_recorded_with_a_number_for_every_process,
    a_release_command_is_marked_once_for_each_attempt,
    projects_are_shown_with_what_is_live,
    keys_are_made_used_listed_and_revoked_but_for_the_last_admin,
    who_did_what_is_appended,
);

fn act(actor: &ApiKeyId) -> Act<'_> {
    static LOCAL: std::sync::OnceLock<WorkspaceId> = std::sync::OnceLock::new();
    Act { workspace: LOCAL.get_or_init(WorkspaceId::local), actor }
}

fn sealed(pairs: &[(&str, &str)]) -> BTreeMap<String, Sealed> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Sealed((*value).to_owned()))).collect()
}

/// `Err`: refused.
async fn set(store: &Store, actor: &ApiKeyId, variables: &[(&str, &str)]) -> Result<(), String> {
    let sealed = sealed(variables);
    store.set_variables(act(actor), "shop", "preview", &sealed).await.unwrap()
}

async fn variables(store: &Store, id: &DeploymentId) -> BTreeMap<String, Sealed> {
    store.run_inputs(id).await.unwrap().env
}

async fn a_deployment_keeps_the_variables_of_its_submission(store: &Store) {
    let actor = ApiKeyId::generate();
    let first = create_from(store, submission("first")).await;
    set(store, &actor, &[("A", "1"), ("B", "2")]).await.unwrap();
    let second = create_from(store, submission("second")).await;
    set(store, &actor, &[("A", "3")]).await.unwrap();
    let gone = ["B".to_owned()];
    let unset = store.unset_variables(act(&actor), "shop", "preview", &gone);
    unset.await.unwrap().unwrap();
    let other = NewDeployment { environment: "staging".to_owned(), ..submission("other") };
    let third = create_from(store, submission("third")).await;
    let other = create_from(store, other).await;
    assert_eq!(variables(store, &first).await, sealed(&[]));
    assert_eq!(variables(store, &second).await, sealed(&[("A", "1"), ("B", "2")]));
    assert_eq!(variables(store, &third).await, sealed(&[("A", "3")]));
    assert_eq!(variables(store, &other).await, sealed(&[]), "another environment's");
    let shown = store.deployment(&WorkspaceId::local(), &second).await.unwrap().unwrap();
    assert_eq!(shown.variables, ["A", "B"]);
}

async fn variables_are_set_and_removed_all_or_none(store: &Store) {
    let actor = ApiKeyId::generate();
    let local = WorkspaceId::local();
    let names = async || {
        let found = store.variables(&local, "shop", "preview").await.unwrap();
        found.into_iter().map(|variable| variable.name).collect::<Vec<_>>()
    };
    assert_eq!(names().await, Vec::<String>::new());
    let many: Vec<String> = (0..201).map(|number| format!("V{number}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "x")).collect();
    let refused = set(store, &actor, &many).await;
    assert!(refused.unwrap_err().contains("at most 200"));
    let large = "x".repeat(600 * 1024);
    let refused = set(store, &actor, &[("L", &large)]).await;
    assert!(refused.unwrap_err().contains("512 KiB"));
    let bad = store.set_variables(act(&actor), "shop", "Not A Slug", &sealed(&[("A", "1")])).await;
    assert!(bad.unwrap().unwrap_err().contains("environment name"));
    assert_eq!(names().await, Vec::<String>::new(), "a part of it was set");
    set(store, &actor, &[("A", "1"), ("B", "2")]).await.unwrap();
    let gone = ["A".to_owned(), "C".to_owned()];
    let refused = store.unset_variables(act(&actor), "shop", "preview", &gone).await.unwrap();
    assert!(refused.unwrap_err().contains("`C`"));
    assert_eq!(names().await, ["A", "B"], "a part of it was removed");
    let there: WorkspaceId = "elsewhere".to_owned().try_into().unwrap();
    assert_eq!(store.variables(&there, "shop", "preview").await.unwrap(), []);
}

/// Two processes, of which one has a number of its own.
fn processes() -> RunOptions {
    let worker = Process { replicas: 2, ..Process::default() };
    let processes = [("web", Process::default()), ("worker", worker)];
    RunOptions {
        processes: processes.map(|(name, process)| (name.to_owned(), process)).into(),
        ..RunOptions::default()
    }
}

async fn begun(store: &Store, request: &ScaleRequest, by: &str) -> ScaleTarget {
    match store.begin_scale(request, &invocation(by)).await.unwrap() {
        ScaleStart::Begun(target) => *target,
        other => panic!("{other:?}"),
    }
}

fn wanted(plan: &launchway_workflows::model::DeploymentPlan, replicas: u32) -> ScaleRequest {
    ScaleRequest {
        environment_id: plan.environment_id.clone(),
        deployment_id: None,
        process: None,
        replicas,
        cpu_millicores: Some(500),
        memory_mib: None,
    }
}

async fn web(store: &Store, id: &DeploymentId) -> Scale {
    store.run_inputs(id).await.unwrap().options.scale_of("web").unwrap()
}

async fn a_scale_is_recorded_once_and_taken_back_whole(store: &Store) {
    let (plan, _) = live(store, "first").await;
    let id = &plan.deployment_id;
    let (from, to) = (
        Scale { replicas: 1, ..Scale::default() },
        Scale { replicas: 3, cpu_millicores: 500, memory_mib: 0 },
    );
    let target = begun(store, &wanted(&plan, 3), "one").await;
    assert_eq!((target.from, target.to), (from, to));
    assert_eq!(begun(store, &wanted(&plan, 3), "one").await, target, "repeated it is the same");
    assert_eq!(web(store, id).await, to);
    let early = create_from(store, submission("early")).await;
    assert_eq!(web(store, &early).await, from, "what may still be taken back is no default");
    assert_eq!(store.finish_scale(id, &invocation("two")).await.unwrap(), Guarded::Lost);
    assert_eq!(store.finish_scale(id, &invocation("one")).await.unwrap(), Guarded::Applied);
    let next = create_from(store, submission("next")).await;
    assert_eq!(web(store, &next).await, to, "it is the default");

    let target = begun(store, &wanted(&plan, 7), "three").await;
    assert_eq!(target.from, to);
    assert_eq!(store.undo_scale(&target, &invocation("two")).await.unwrap(), Guarded::Lost);
    for _ in 0..2 {
        let undone = store.undo_scale(&target, &invocation("three")).await.unwrap();
        assert_eq!(undone, Guarded::Applied);
        assert_eq!(web(store, id).await, to);
    }
    assert_eq!(store.finish_scale(id, &invocation("three")).await.unwrap(), Guarded::Applied);
    let next = create_from(store, submission("after")).await;
    assert_eq!(web(store, &next).await, to, "what was taken back is no default");
}

async fn a_scale_that_was_left_behind_is_taken_back_by_whoever_comes_next(store: &Store) {
    let (plan, _) = live(store, "first").await;
    let id = &plan.deployment_id;
    let replicas = async || web(store, id).await.replicas;
    assert_eq!(store.scales_under_way().await.unwrap(), []);
    let left = |by: &str| ScaleUnderWay {
        environment_id: plan.environment_id.clone(),
        deployment_id: id.clone(),
        by: by.to_owned(),
    };
    let killed = begun(store, &wanted(&plan, 3), "killed").await;
    assert_eq!(store.scales_under_way().await.unwrap(), [left("killed")]);
    let take_over = async |from: &str, by: &str| {
        store.take_over_scale(&left(from), &invocation(by)).await.unwrap()
    };
    assert_eq!(take_over("another", "settler").await, None);
    assert_eq!(replicas().await, 3);
    for _ in 0..2 {
        assert_eq!(take_over("killed", "settler").await.as_ref(), Some(&killed));
        assert_eq!(replicas().await, 1);
    }
    assert_eq!(store.finish_scale(id, &invocation("killed")).await.unwrap(), Guarded::Lost);
    // The settler is killed too, and the next scale comes.
    for _ in 0..2 {
        let start = store.begin_scale(&wanted(&plan, 5), &invocation("next")).await.unwrap();
        assert_eq!(start, ScaleStart::LeftBehind(Box::new(killed.clone())));
        assert_eq!(replicas().await, 1);
    }
    assert_eq!(store.finish_scale(id, &invocation("next")).await.unwrap(), Guarded::Applied);
    assert_eq!(store.scales_under_way().await.unwrap(), []);
    assert_eq!(begun(store, &wanted(&plan, 5), "next").await.from.replicas, 1);
}

async fn what_is_drained_is_told_to_the_routes_until_the_scale_has_ended(store: &Store) {
    let (plan, _) = live(store, "first").await;
    let id = &plan.deployment_id;
    let drained = async || {
        let rows = store.route_rows_of(id).await.unwrap();
        assert_eq!(rows.len(), 3);
        rows[0].drained.as_ref().map(|drained| (drained.process.clone(), drained.from))
    };
    begun(store, &wanted(&plan, 5), "up").await;
    assert_eq!(drained().await, None, "new ones get requests as soon as they are ready");
    store.finish_scale(id, &invocation("up")).await.unwrap();
    begun(store, &wanted(&plan, 2), "down").await;
    assert_eq!(drained().await, Some(("web".to_owned(), 2)));
    store.finish_scale(id, &invocation("down")).await.unwrap();
    assert_eq!(drained().await, None);
}

async fn a_deployment_is_recorded_with_a_number_for_every_process(store: &Store) {
    let new = NewDeployment { run: processes(), ..submission("first") };
    let (plan, owner) = routing(store, new).await;
    let claims = launchway_workflows::domains::claims(&plan, "localhost");
    store.commit_routes(&plan.deployment_id, &owner, &claims).await.unwrap().unwrap();
    let ask = |process: &str, replicas| ScaleRequest {
        process: Some(process.to_owned()),
        ..wanted(&plan, replicas)
    };
    begun(store, &ask("worker", 4), "one").await;
    store.finish_scale(&plan.deployment_id, &invocation("one")).await.unwrap();
    let options = store.run_inputs(&plan.deployment_id).await.unwrap().options;
    let of = |options: &RunOptions, name| options.scale_of(name).unwrap().replicas;
    assert_eq!((of(&options, "web"), of(&options, "worker")), (1, 4));
    let unknown = store.begin_scale(&ask("clock", 2), &invocation("two")).await.unwrap();
    let ScaleStart::Refused(reason) = unknown else { panic!("{unknown:?}") };
    assert!(reason.contains("`web`, `worker`"), "{reason}");
    // What a submission says goes before the environment's default.
    let said = create_from(store, NewDeployment { run: processes(), ..submission("said") }).await;
    let mut silent = processes();
    silent.processes.insert("worker".to_owned(), Process::default());
    let silent = create_from(store, NewDeployment { run: silent, ..submission("silent") }).await;
    for (id, workers) in [(said, 2), (silent, 4)] {
        let options = store.run_inputs(&id).await.unwrap().options;
        assert_eq!(of(&options, "worker"), workers);
        // The same again is the same: a redeploy has what was recorded.
        let again = store.resubmission(&id).await.unwrap().unwrap();
        assert_eq!(again.run, options);
    }
}

async fn a_release_command_is_marked_once_for_each_attempt(store: &Store) {
    let command = vec!["migrate".to_owned()];
    let release = Some(ReleaseCommand { command, idempotent: false, time_limit_ms: None });
    let run = RunOptions { release, ..RunOptions::default() };
    let id = create_from(store, NewDeployment { run, ..submission("first") }).await;
    let owner = invocation("owner");
    let plan = store.begin_attempt(&id, &owner).await.unwrap().unwrap();
    assert!(plan.has_release);
    assert_eq!(store.release_attempt(&id).await.unwrap(), None);
    let mark = async |owner: &str| store.mark_release(&id, &invocation(owner)).await.unwrap();
    assert_eq!(mark("somebody else").await, ReleaseMark::Lost);
    assert_eq!(store.release_attempt(&id).await.unwrap(), None);
    assert_eq!(mark("owner").await, ReleaseMark::First { attempt: 1 });
    assert_eq!(mark("owner").await, ReleaseMark::Again { attempt: 1 });
    assert_eq!(store.release_attempt(&id).await.unwrap(), Some(1));
    let plain = create_from(store, submission("plain")).await;
    assert!(!store.begin_attempt(&plain, &owner).await.unwrap().unwrap().has_release);
}

async fn projects_are_shown_with_what_is_live(store: &Store) {
    let local = WorkspaceId::local();
    assert_eq!(store.projects(&local).await.unwrap(), []);
    store.ensure_project(&local, "bare").await.unwrap().unwrap();
    let (plan, _) = live(store, "first").await;
    let staging = NewDeployment { environment: "staging".to_owned(), ..submission("other") };
    create_from(store, staging).await;
    let shown = store.projects(&local).await.unwrap();
    let names: Vec<_> = shown.iter().map(|project| project.slug.as_str()).collect();
    assert_eq!(names, ["bare", "shop"]);
    assert_eq!(shown[0].environments, []);
    let [preview, staging] = &shown[1].environments[..] else { panic!("{shown:#?}") };
    assert_eq!((preview.slug.as_str(), staging.slug.as_str()), ("preview", "staging"));
    assert_eq!((&preview.live, &staging.live), (&Some(plan.deployment_id), &None));
    assert_eq!(preview.domain.as_deref(), Some("shop-preview-local.localhost"));
    assert_eq!(staging.domain, None);
    let there: WorkspaceId = "elsewhere".to_owned().try_into().unwrap();
    assert_eq!(store.projects(&there).await.unwrap(), []);
}

async fn keys_are_made_used_listed_and_revoked_but_for_the_last_admin(store: &Store) {
    let local = WorkspaceId::local();
    store.add_api_key(&local, Role::Admin, "lwk_first").await.unwrap();
    let first = store.api_key("lwk_first").await.unwrap().unwrap();
    let made = store.create_api_key(act(&first.id), Role::Read, "the dashboard", "lwk_read").await;
    let made = made.unwrap();
    assert_eq!(
        (made.role, made.name.as_str(), made.revoked_at),
        (Role::Read, "the dashboard", None)
    );
    assert_eq!(store.api_key("lwk_read").await.unwrap().unwrap().id, made.id);
    let refused = store.revoke_api_key(act(&first.id), &first.id).await.unwrap().unwrap_err();
    assert!(refused.contains("last admin key"), "{refused}");
    assert!(store.api_key("lwk_first").await.unwrap().is_some());
    for _ in 0..2 {
        store.revoke_api_key(act(&first.id), &made.id).await.unwrap().unwrap();
        assert!(store.api_key("lwk_read").await.unwrap().is_none());
    }
    let unknown = store.revoke_api_key(act(&first.id), &ApiKeyId::generate()).await.unwrap();
    assert!(unknown.unwrap_err().contains("there is no API key"));
    let second = store.create_api_key(act(&first.id), Role::Admin, "", "lwk_second").await.unwrap();
    store.revoke_api_key(act(&second.id), &first.id).await.unwrap().unwrap();
    let listed = store.api_keys(&local).await.unwrap();
    let good: Vec<_> = listed.iter().map(|key| (key.role, key.revoked_at.is_none())).collect();
    assert_eq!(good, [(Role::Admin, true), (Role::Read, false), (Role::Admin, false)]);
    let there: WorkspaceId = "elsewhere".to_owned().try_into().unwrap();
    assert_eq!(store.api_keys(&there).await.unwrap(), []);
}

async fn who_did_what_is_appended(store: &Store) {
    let actor = ApiKeyId::generate();
    set(store, &actor, &[("A", "very-secret")]).await.unwrap();
    let refused = store.unset_variables(act(&actor), "shop", "preview", &["B".to_owned()]).await;
    refused.unwrap().unwrap_err();
    let made = store.create_api_key(act(&actor), Role::Deploy, "", "lwk_x").await.unwrap();
    let rows = store.audit(&WorkspaceId::local()).await.unwrap();
    let rows: Vec<_> = rows
        .iter()
        .map(|row| (row.actor == actor.as_str(), row.action.as_str(), row.subject.as_str()))
        .collect();
    let key = format!("{} (deploy)", made.id);
    assert_eq!(rows, [(true, "env set", "shop/preview: A"), (true, "keys create", key.as_str())]);
}
