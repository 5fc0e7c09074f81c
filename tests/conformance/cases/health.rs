//! When an instance is ready.

use launchway_proto::krane::v1::{DeploymentRequest, HealthCheck, Instance, NotReadyReason};

use crate::{harness::HTTPD, world::World};

/// A server that answers `/` and `/up` with what its CGI says.
fn with_health(request: DeploymentRequest, health: HealthCheck) -> DeploymentRequest {
    let mut request = request;
    request.processes[0].health = Some(HealthCheck { interval_ms: 50, ..health });
    request
}

/// A script that does this once `/tmp/go` exists.
fn waiting(then: &str) -> String {
    format!("/busybox mkdir -p /tmp; while ! [ -e /tmp/go ]; do /busybox sleep 0.05; done; {then}")
}

/// The instances once one was asked again and again in vain.
async fn asked_in_vain(world: &World<'_>, id: &str) -> Vec<Instance> {
    let least = if world.harness.tells_answers() { 3 } else { 0 };
    let vain = |one: &Instance| {
        one.reason() == NotReadyReason::ProbeFailing && one.probe_attempts >= least
    };
    let asked = world.until(id, |all| all.iter().any(vain)).await;
    assert!(!asked[0].ready && !asked[0].permanent && !asked[0].message.is_empty(), "{asked:?}");
    assert_eq!(asked[0].exit_code, None);
    asked
}

pub async fn a_slow_start_is_told_and_waited_for(world: &World<'_>) {
    let request = world.scripted(&waiting(HTTPD));
    let id = &request.deployment_id;
    world.apply(&request).await;
    asked_in_vain(world, id).await;
    world.exec(id, "> /tmp/go").await;
    let ready = world.ready(id, 1).await;
    assert!(ready[0].message.is_empty(), "{ready:?}");
    assert_eq!(ready[0].reason(), NotReadyReason::Unspecified);
}

pub async fn an_answer_of_500_is_not_ready(world: &World<'_>) {
    let script = format!(
        "/busybox mkdir -p /www/cgi-bin /tmp; \
        printf '#!/busybox sh\\n[ -e /tmp/go ] && s=200 || s=503\\n\
        echo \"Status: $s x\"; echo; echo' > /www/cgi-bin/up; \
        /busybox chmod 755 /www/cgi-bin/up; {HTTPD}"
    );
    let path = "/cgi-bin/up".to_owned();
    let health = HealthCheck { path, ..HealthCheck::default() };
    let request = with_health(world.scripted(&script), health);
    let id = &request.deployment_id;
    world.apply(&request).await;
    asked_in_vain(world, id).await;
    if world.harness.tells_answers() {
        world.until(id, |all| all.iter().any(|one| one.message.contains("503"))).await;
    }
    world.exec(id, "> /tmp/go").await;
    world.ready(id, 1).await;
}

pub async fn a_connection_is_enough_where_tcp_is_asked_for(world: &World<'_>) {
    // It accepts and says nothing, which no HTTP probe would take for an answer.
    let script = waiting("trap 'exit 0' TERM; while :; do /busybox nc -l -p $PORT; done & wait");
    let health = HealthCheck { tcp: true, ..HealthCheck::default() };
    let request = with_health(world.scripted(&script), health);
    let id = &request.deployment_id;
    world.apply(&request).await;
    asked_in_vain(world, id).await;
    world.exec(id, "> /tmp/go").await;
    world.ready(id, 1).await;
}

pub async fn another_port_is_asked_where_one_is_given(world: &World<'_>) {
    let script = format!("/busybox httpd -p $PORT; {}", waiting(&format!("PORT=9000; {HTTPD}")));
    let health = HealthCheck { port: 9000, ..HealthCheck::default() };
    let request = with_health(world.scripted(&script), health);
    let id = &request.deployment_id;
    world.apply(&request).await;
    asked_in_vain(world, id).await;
    world.exec(id, "> /tmp/go").await;
    world.ready(id, 1).await;
}

pub async fn a_command_in_the_instance_decides(world: &World<'_>) {
    let script = format!("/busybox mkdir -p /tmp; {HTTPD}");
    let command = crate::harness::sh("[ -e /tmp/go ] || { echo not migrated; exit 1; }");
    let health = HealthCheck { command, ..HealthCheck::default() };
    let request = with_health(world.scripted(&script), health);
    let id = &request.deployment_id;
    world.apply(&request).await;
    let starting = asked_in_vain(world, id).await;
    if world.harness.tells_answers() {
        assert!(starting[0].message.contains("not migrated"), "{starting:?}");
    }
    world.exec(id, "> /tmp/go").await;
    world.ready(id, 1).await;
}

pub async fn without_a_check_it_must_stay_up_for_a_moment(world: &World<'_>) {
    let worker = |script| {
        let mut request = world.scripted(script);
        request.processes[0] = launchway_proto::krane::v1::Process {
            name: "worker".to_owned(),
            port: 0,
            health: None,
            ..request.processes[0].clone()
        };
        request
    };
    let (stays, ends) = (worker("while :; do /busybox sleep 1; done"), worker("exit 7"));
    let (ready, ()) = tokio::join!(world.deploy(&stays), world.apply(&ends));
    assert!(ready[0].address.is_empty() && !ready[0].routed, "{ready:?}");
    let id = &ends.deployment_id;
    let ended = world.until(id, |all| all.iter().any(|one| one.exit_code.is_some())).await;
    assert_eq!((ended[0].exit_code, ended[0].ready), (Some(7), false));
}

pub async fn one_that_is_not_ready_within_its_start_period_is_ended(world: &World<'_>) {
    let health = HealthCheck { start_period_ms: 1500, ..HealthCheck::default() };
    let script = "echo I wait for nothing; while :; do /busybox sleep 0.1; done";
    let request = with_health(world.scripted(script), health);
    let id = &request.deployment_id;
    world.apply(&request).await;
    let ended = world.until(id, |all| all.iter().any(|one| one.exit_code.is_some())).await;
    assert!(!ended[0].ready && ended[0].permanent, "{ended:?}");
    assert_eq!(ended[0].reason(), NotReadyReason::ProbeFailing);
    assert!(ended[0].message.contains("1500 ms"), "{ended:?}");
    assert_eq!(ended[0].log_tail, ["I wait for nothing"]);
}
