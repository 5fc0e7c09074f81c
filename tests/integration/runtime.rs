//! What people do with what runs: logs, exec, run.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Output, Stdio},
};

use launchway_proto::krane::v1::{
    RunTaskRequest, deployment_service_client::DeploymentServiceClient, task_event,
};
use launchway_workflows::ids::EnvironmentId;
use serde_json::Value;

use crate::{
    servers::private::Private,
    support::{App, Installation, docker, eventually, signal, text},
};

/// Says something at its start and whatever is written to `/say`.
fn talking() -> App {
    let script = "echo begun; /bin/busybox mkfifo /say; \
                  (while :; do /bin/busybox cat /say; done) & \
                  exec /bin/busybox httpd -f -p 8080 -h /www";
    let command = serde_json::to_string(&["/bin/busybox", "sh", "-c", script]).unwrap();
    App::with_dockerfile(
        "hello",
        &format!(
            "FROM scratch\nCOPY busybox /bin/busybox\nCOPY www /www\nENV COLOUR=blue\nCMD {command}\n"
        ),
    )
}

fn id_of(result: &Value) -> String {
    result["deployment_id"].as_str().unwrap().to_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn lines(output: &Output) -> Vec<String> {
    let mut lines: Vec<String> = stdout(output).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn logs_of_instances_are_merged_selected_and_followed_through_a_kill() {
    let mut here = Installation::start();
    let app = talking();
    let id = id_of(&here.deploy(app.path(), &["--project", "shop", "--replicas", "2"]));
    let all = here.run(&["logs", &id, "--runtime"]);
    assert_eq!(lines(&all), ["web.0 | begun", "web.1 | begun"], "{}", text(&all));
    let one = here.run(&["logs", &id, "--runtime", "--replica", "1", "--since", "1h"]);
    assert_eq!(stdout(&one), "begun\n", "{}", text(&one));
    let json = here.run(&["logs", &id, "--runtime", "--tail", "1", "--json"]);
    let json: Vec<Value> =
        stdout(&json).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(json.len(), 3);
    assert_eq!((&json[0]["text"], &json[0]["process"]), (&"begun".into(), &"web".into()));
    assert_eq!((&json[2]["type"], &json[2]["lines"]), (&"result".into(), &2.into()));

    let mut follow = here.cli(&["logs", &id, "--runtime", "-f", "--process", "web"]);
    let mut follow = follow.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut seen = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = || seen.next().unwrap().unwrap();
    let mut begun = [next(), next()];
    begun.sort();
    assert_eq!(begun, ["web.0 | begun", "web.1 | begun"]);
    let say = |what: &str, here: &Installation| {
        let script = format!("echo {what} > /say");
        let command = ["/bin/busybox", "sh", "-c", &script];
        let said = here.run(&[&["exec", &id, "--replica", "1", "--"], &command[..]].concat());
        assert!(said.status.success(), "{}", text(&said));
    };
    say("before", &here);
    assert_eq!(next(), "web.1 | before");
    here.kill_up();
    here.up();
    say("after", &here);
    assert_eq!(next(), "web.1 | after", "a line was lost, or came twice");
    follow.kill().unwrap();
    follow.wait().unwrap();

    let refused = here.run(&["logs", &id, "--runtime", "--process", "worker"]);
    assert_eq!(refused.status.code(), Some(9));
    assert!(text(&refused).contains("no instance worker.*: it has web.0, web.1"));
    let misused = here.run(&["logs", &id, "--tail", "3"]);
    assert_eq!(misused.status.code(), Some(2), "{}", text(&misused));
}

#[test]
fn exec_passes_input_output_terminal_and_exit_code() {
    let here = Installation::start();
    let app = talking();
    let id = id_of(&here.deploy(app.path(), &["--project", "shop"]));
    let script = "read a; echo got $a; echo $COLOUR >&2; exit 7";
    let mut exec =
        here.cli(&["exec", &id, "--process", "web", "--", "/bin/busybox", "sh", "-c", script]);
    let mut exec =
        exec.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    exec.stdin.take().unwrap().write_all(b"word\nmore\n").unwrap();
    let output = exec.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert_eq!(stdout(&output), "got word\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "blue\n");

    // On a terminal: `script` gives it one.
    let launchway = env!("CARGO_BIN_EXE_launchway");
    let command = format!(
        "stty cols 93 rows 31; {launchway} exec {id} -- /bin/busybox sh -c \
         '/bin/busybox sleep 0.3; /bin/busybox stty size; test -t 0; echo terminal $?; exit 5'"
    );
    let mut terminal = here.cli(&[]);
    let environment: Vec<_> = terminal
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    terminal = std::process::Command::new("script");
    terminal.args(["-qec", &command, "/dev/null"]).envs(environment).stdin(Stdio::null());
    let output = terminal.output().unwrap();
    let shown = stdout(&output);
    assert!(shown.contains("31 93") && shown.contains("terminal 0"), "{}", text(&output));
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));

    let refused = here.run(&["exec", &id, "--replica", "3", "--", "/bin/busybox", "true"]);
    assert_eq!(refused.status.code(), Some(9), "{}", text(&refused));
    assert!(text(&refused).contains("it has web.0"), "{}", text(&refused));
    let unknown = here.run(&["exec", "dep_01h00000000000000000000000", "--", "true"]);
    assert_eq!(unknown.status.code(), Some(9), "{}", text(&unknown));
    let mut stranger = here.cli(&["exec", &id, "--", "/bin/busybox", "true"]);
    let stranger = stranger.env("LAUNCHWAY_TOKEN", "lw_unknown").output().unwrap();
    assert_eq!(stranger.status.code(), Some(8), "{}", text(&stranger));
    assert_eq!(here.run(&["exec", &id]).status.code(), Some(2));
}

/// Containers of tasks that the deployment has.
fn tasks(id: &str) -> Vec<String> {
    let deployment = format!("label=launchway.deployment={id}");
    docker(&["ps", "-aq", "--filter", &deployment, "--filter", "label=launchway.task"])
}

#[test]
fn run_runs_once_beside_the_instances_and_leaves_nothing() {
    let here = Installation::start();
    let app = talking();
    let id = id_of(&here.deploy(app.path(), &["--project", "shop"]));
    let command = ["/bin/busybox", "sh", "-c", "echo $COLOUR; echo oops >&2; exit 6"];
    // The live one of the project.
    let ran = here.run(&[&["run", "--project", "shop", "--"], &command[..]].concat());
    assert_eq!(ran.status.code(), Some(6), "{}", text(&ran));
    assert_eq!(stdout(&ran), "blue\n");
    let progress = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(progress.contains("oops") && progress.contains(&id), "{progress}");
    eventually("it is removed", || tasks(&id).is_empty().then_some(()));
    let json = here.run(&[&["run", &id, "--json", "--"], &command[..]].concat());
    assert_eq!(json.status.code(), Some(6), "{}", text(&json));
    let last: Value = serde_json::from_str(stdout(&json).lines().last().unwrap()).unwrap();
    assert_eq!((&last["type"], &last["exit_code"]), (&"result".into(), &6.into()));

    let limited = ["--time-limit", "1s", "--", "/bin/busybox", "sleep", "600"];
    let ended = here.run(&[&["run", &id], &limited[..]].concat());
    assert!(text(&ended).contains("time limit"), "{}", text(&ended));
    assert!(!ended.status.success());
    eventually("it is removed", || tasks(&id).is_empty().then_some(()));

    let mut endless = here.cli(&["run", &id, "--", "/bin/busybox", "sleep", "600"]);
    let mut endless = endless.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("it runs", || (!tasks(&id).is_empty()).then_some(()));
    signal("INT", endless.id());
    assert_eq!(endless.wait().unwrap().code(), Some(130));
    eventually("it is removed", || tasks(&id).is_empty().then_some(()));

    let nothing = here.run(&["run", "--project", "nothing", "--", "true"]);
    assert_eq!(nothing.status.code(), Some(9), "{}", text(&nothing));
    let missing = here.run(&["run", &id, "--", "/no/such/program"]);
    assert_eq!(missing.status.code(), Some(9), "{}", text(&missing));
    assert!(text(&missing).contains("/no/such/program"), "{}", text(&missing));
}

/// A task of the deployment, to its end: what it printed and its exit code.
async fn task(krane: &str, request: RunTaskRequest) -> Option<(Vec<String>, i32)> {
    let mut krane = DeploymentServiceClient::connect(krane.to_owned()).await.ok()?;
    let mut events = krane.run_task(request).await.ok()?.into_inner();
    let mut lines = Vec::new();
    loop {
        match events.message().await.ok()??.event? {
            task_event::Event::Started(_) => {}
            task_event::Event::Line(line) => lines.push(line.text),
            task_event::Event::Ended(ended) => return Some((lines, ended.exit_code)),
        }
    }
}

/// kill -9 of an engine of the test's own, which takes its containers with it.
#[test]
fn what_the_engine_took_with_it_runs_again_and_how_a_task_ended_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Private::prepare(dir.path());
    let mut process = engine.command().spawn().unwrap();
    eventually("the engine answers", || engine.answers().then_some(()));
    let mut here = Installation::prepare(&[]);
    here.set_env("DOCKER_HOST", &engine.host());
    here.up();
    let shown = here.deploy(talking().path(), &["--project", "shop"]);
    let (id, krane) = (id_of(&shown), format!("http://{}", here.address("krane.bind")));
    let request = |name: &str, script: &str, join_only| RunTaskRequest {
        namespace: EnvironmentId::generate().to_string(),
        deployment_id: id.clone(),
        task_id: name.to_owned(),
        image: shown["digest"].as_str().unwrap().to_owned(),
        command: ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
        join_only,
        ..RunTaskRequest::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ended = runtime.block_on(task(&krane, request("ended", "echo done; exit 3", false)));
    assert_eq!(ended, Some((vec!["done".to_owned()], 3)));
    let endless = request("endless", "echo begun; exec /bin/busybox sleep 600", false);
    let endless = {
        let krane = krane.clone();
        runtime.spawn(async move { task(&krane, endless).await })
    };
    eventually("it runs", || {
        let join = request("endless", "", true);
        let begun = async {
            let mut krane = DeploymentServiceClient::connect(krane.clone()).await.ok()?;
            let mut events = krane.run_task(join).await.ok()?.into_inner();
            events.message().await.ok()?
        };
        runtime.block_on(begun)
    });
    signal("KILL", process.id());
    process.wait().unwrap();
    assert_eq!(runtime.block_on(endless).unwrap(), None, "it cannot say how that ended");

    process = engine.command().spawn().unwrap();
    let host = "shop-preview-local.localhost";
    let gateway = here.address("gateway.bind");
    eventually("the application answers again", || {
        crate::support::request(gateway, host, "/").filter(|answer| answer.body.contains("hello"))
    });
    let again = runtime.block_on(task(&krane, request("ended", "", true)));
    assert_eq!(again, ended, "what had ended is known as before");
    let (lines, code) = runtime.block_on(task(&krane, request("endless", "", true))).unwrap();
    assert_eq!(lines, ["begun"]);
    assert_ne!(code, 0, "it was ended, and did not run again");
    let said = here.run(&["exec", &id, "--", "/bin/busybox", "echo", "back"]);
    assert_eq!(stdout(&said), "back\n", "{}", text(&said));
    drop(here);
    signal("TERM", process.id());
    process.wait().unwrap();
}
