//! What an application says about itself, from `launchway.toml` to what the
//! engine runs: processes, health, limits, release command, variables.

use std::{
    fs,
    process::Stdio,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::support::{App, Installation, docker, eventually, step, text};

const HOST: &str = "shop-preview-local.localhost";
const SECRET: &str = "very-private-value-4712";

/// `app` with a `launchway.toml`.
fn saying(app: App, file: &str) -> App {
    fs::write(app.path().join("launchway.toml"), format!("project = \"shop\"\n{file}")).unwrap();
    app
}

/// What a shell in the image does, as a command of the file.
fn shell(script: &str) -> String {
    format!(r#"["/bin/busybox", "sh", "-c", "{script}"]"#)
}

fn id_of(result: &Value) -> String {
    result["deployment_id"].as_str().unwrap().to_owned()
}

/// Of every container of a deployment, what the engine says.
fn inspected(here: &Installation, id: &str, format: &str) -> Vec<String> {
    let containers = here.containers(id);
    assert!(!containers.is_empty(), "{id} has no containers");
    let ids: Vec<&str> = containers.iter().map(String::as_str).collect();
    let mut found = docker(&[&["inspect", "--format", format][..], &ids].concat());
    found.sort();
    found
}

/// No file of the installation has it; journals are in Restate's own.
fn is_nowhere(here: &Installation, secret: &str) {
    let mut dirs = vec![here.data()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else if let Ok(content) = fs::read(entry.path()) {
                let found = content.windows(secret.len()).any(|at| at == secret.as_bytes());
                assert!(!found, "{secret} is in {}", entry.path().display());
            }
        }
    }
}

#[test]
fn processes_run_with_what_the_file_says_of_them_and_only_those_with_a_port_get_requests() {
    let here = Installation::start();
    let worker = shell("trap 'exit 0' INT; echo working; while :; do /bin/busybox sleep 0.1; done");
    let file = format!(
        r#"
stop_signal = "SIGINT"
drain = "3s"
cpu = 250
memory = 64
[processes.web]
command = "/bin/busybox httpd -f -p 8080 -h '/www'"
port = 8080
health = {{ path = "/index.html", interval = "100ms", timeout = "1s" }}
[processes.worker]
command = {worker}
replicas = 2
memory = 32
health = {{ command = ["/bin/busybox", "true"], start_period = "20s" }}
"#
    );
    let result = here.deploy(saying(App::new("from web", ""), &file).path(), &[]);
    let id = id_of(&result);
    let limits = inspected(&here, &id, "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}}");
    let mib = 1 << 20;
    let (web, worker) = (format!("250000000 {}", 64 * mib), format!("250000000 {}", 32 * mib));
    let mut wanted = [web, worker.clone(), worker];
    wanted.sort();
    assert_eq!(limits, wanted);
    assert_eq!(inspected(&here, &id, "{{.Config.StopSignal}}"), ["SIGINT"; 3]);
    // Were a worker asked, some of these would fail.
    for _ in 0..20 {
        assert_eq!(here.get(HOST, "/").body, "from web");
    }
    let processes = &result["run"]["processes"];
    assert_eq!(processes["worker"]["replicas"], 2, "{result:#}");
    assert_eq!(processes["worker"]["cpu_millicores"], 250, "{result:#}");
    assert_eq!(processes["web"]["health"]["check"]["path"], "/index.html", "{result:#}");
    let shown = text(&here.run(&["inspect", &id]));
    for expected in [
        "1 of web: 250 millicores, 64 MiB, port 8080, ready on GET /index.html",
        "2 of worker: 250 millicores, 32 MiB, ready on `/bin/busybox true`",
        "SIGINT, killed after 3.0 s",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    // The same again has the same, whatever the file says by now.
    let again = here.json(&["redeploy", &id]);
    assert_eq!(again["run"], result["run"], "{again:#}");
}

#[test]
fn a_process_that_does_not_get_ready_fails_the_deployment_although_the_others_are() {
    let here = Installation::start();
    let file = format!(
        "[processes.web]\nport = 8080\n[processes.worker]\ncommand = {}\n",
        shell("echo no queue; exit 7")
    );
    let app = saying(App::new("from web", ""), &file);
    let output = here.run(&["deploy", &app.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("code 7") && said.contains("no queue"), "{said}");
    let id = id_of(&here.json(&["list"])["deployments"][0]);
    assert!(here.containers(&id).is_empty());
}

#[test]
fn everything_that_is_wrong_with_the_file_is_named_at_once() {
    let here = Installation::prepare(&[]);
    let file = "prot = 1\ndrain = \"soon\"\nstop_signal = \"INT\"\nrelease = \"a && b\"\n";
    let app = saying(App::new("", ""), file);
    let output = here.run(&["deploy", &app.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let said = text(&output);
    for expected in
        ["prot is not a key", "drain = \"soon\"", "stop_signal = `INT`", "needs a shell"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_release_command_runs_before_any_instance_with_the_variables_and_into_the_log() {
    let here = Installation::start();
    let variable = format!("SECRET={SECRET}");
    let set = here.run(&["env", "set", "GREETING=hello", &variable, "--project", "shop"]);
    assert!(set.status.success(), "{}", text(&set));
    assert!(text(&set).contains("next deployments") && !text(&set).contains(SECRET));
    let release = shell("echo migrating for $GREETING; echo the secret is $SECRET; echo done >&2");
    let app = saying(App::new("migrated", ""), &format!("release = {release}\n"));
    let output = here.run(&["deploy", &app.path().display().to_string()]);
    assert!(output.status.success(), "{}", text(&output));
    let id = id_of(&here.json(&["list"])["deployments"][0]);
    let shown = here.inspect(&id);
    let (released, started) = (step(&shown, "release-command"), step(&shown, "deploy-to-krane"));
    assert_eq!(released["status"], "done", "{shown:#}");
    assert!(released["ended_at"].as_i64() <= started["started_at"].as_i64(), "{shown:#}");
    assert_eq!(shown["variables"], serde_json::json!(["GREETING", "SECRET"]));
    let log = text(&here.run(&["logs", &id, "--release"]));
    for expected in
        ["migrating for hello", "the secret is <secret>", "done", "release-command DONE"]
    {
        assert!(log.contains(expected), "{expected}: {log}");
    }
    assert!(!log.contains("busybox"), "it is the command's output alone: {log}");
    assert!(text(&here.run(&["logs", &id, "--build"])).contains("migrating for hello"));
    let left = format!("label=launchway.deployment={id}");
    let tasks = docker(&["ps", "-aq", "--filter", &left, "--filter", "label=launchway.task"]);
    assert_eq!(tasks, Vec::<String>::new(), "its container is left");
    for said in [text(&output), shown.to_string(), log] {
        assert!(!said.contains(SECRET), "{said}");
    }
    let journal = here.sql("SELECT entry_json, raw FROM sys_journal");
    assert!(!format!("{journal:?}").contains(SECRET));
    is_nowhere(&here, SECRET);
    // What is run beside the instances has the variables too.
    let ran = text(&here.run(&["run", &id, "--", "/bin/busybox", "env"]));
    assert!(ran.contains("GREETING=hello"), "{ran}");
    // A prebuilt image runs it too.
    let image = shown["image"].as_str().unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("launchway.toml"), format!("release = {release}\n")).unwrap();
    let dir = dir.path().display().to_string();
    let prebuilt = here.json(&["deploy", &dir, "--image", image, "--project", "other"]);
    assert_eq!(step(&prebuilt, "release-command")["status"], "done", "{prebuilt:#}");
}

#[test]
fn a_release_command_that_fails_is_told_with_its_last_lines_and_the_old_version_serves() {
    let here = Installation::start();
    here.deploy(App::new("version one", "").path(), &["--project", "shop"]);
    let release = shell("echo adding column; echo no such table >&2; exit 3");
    let app = saying(App::new("version two", ""), &format!("release = {release}\n"));
    let output = here.run(&["deploy", &app.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    let said = text(&output);
    for expected in
        ["failed at release-command", "ended with code 3", "| no such table", "release-failed"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let id = id_of(&here.json(&["list"])["deployments"][0]);
    assert!(here.containers(&id).is_empty());
    assert_eq!(here.get(HOST, "/").body, "version one");
    let slow = format!("release = {}\nrelease_time_limit = \"1s\"\n", shell("sleep 600"));
    let slow = saying(App::new("version three", ""), &slow);
    let output = here.run(&["deploy", &slow.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(text(&output).contains("within its limit of 1 s"), "{}", text(&output));
}

/// kill -9 of everything while it runs: it goes on, and is found again.
#[test]
fn a_release_command_outlives_launchway_and_runs_once() {
    let mut here = Installation::start();
    let release = shell("echo begun; /bin/busybox sleep 3; echo ended");
    let file = format!("release = {release}\n[health]\ntcp = true\nstart_period = \"30s\"\n");
    let app = saying(App::new("migrated", ""), &file);
    let id = here.submit(app.path(), &[]);
    let log = |here: &Installation| text(&here.run(&["logs", &id, "--release"]));
    eventually("it has begun", || log(&here).contains("begun").then_some(()));
    here.kill_up();
    here.up();
    let shown = here.wait_status(&id, &["live", "failed"]);
    assert_eq!(shown["status"], "live", "{shown:#}");
    let log = log(&here);
    for line in ["begun", "ended"] {
        assert_eq!(log.lines().filter(|text| *text == line).count(), 1, "{log}");
    }
}

#[test]
fn a_rollback_runs_with_the_variables_that_its_target_was_submitted_with() {
    let here = Installation::start_with(&["run.keep_running=0", "run.retire_after=100ms"]);
    let set = |value: &str| {
        let mut set = here.cli(&["env", "set", "COLOUR=-", "--project", "shop"]);
        let mut set = set.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        std::io::Write::write_all(&mut set.stdin.take().unwrap(), value.as_bytes()).unwrap();
        assert!(set.wait().unwrap().success());
    };
    let colour = |id: &str| {
        let found = inspected(&here, id, "{{json .Config.Env}}").concat();
        let env: Vec<String> = serde_json::from_str(&found).unwrap();
        env.into_iter().find_map(|text| text.strip_prefix("COLOUR=").map(str::to_owned))
    };
    let app = App::new("any", "");
    let first = id_of(&here.deploy(app.path(), &["--project", "shop"]));
    assert_eq!(colour(&first), None);
    set("red\n");
    let second = id_of(&here.deploy(app.path(), &["--project", "shop"]));
    set("blue\n");
    assert_eq!(colour(&second).as_deref(), Some("red"), "what runs keeps what it has");
    let third = id_of(&here.deploy(app.path(), &["--project", "shop"]));
    assert_eq!(colour(&third).as_deref(), Some("blue"));
    here.wait_status(&second, &["retired"]);
    here.json(&["rollback", &second]);
    assert_eq!(colour(&second).as_deref(), Some("red"));
    here.json(&["env", "unset", "COLOUR", "--project", "shop"]);
    let listed = here.json(&["env", "list", "--project", "shop"]);
    assert_eq!(listed["variables"], serde_json::json!([]));
    let gone = here.run(&["env", "unset", "COLOUR", "--project", "shop"]);
    assert_eq!(gone.status.code(), Some(9), "{}", text(&gone));
    let fourth = here.json(&["redeploy", &third]);
    assert_eq!(colour(&id_of(&fourth)), None, "a new deployment has the present ones");
    let wrong = here.run(&["env", "set", "1A=x", "PORT=80", "--project", "shop"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
    assert!(text(&wrong).contains("`1A`") && text(&wrong).contains("`PORT`"), "{}", text(&wrong));
}

#[test]
fn a_scale_is_recorded_shown_and_the_default_and_what_cannot_be_is_refused() {
    let here = Installation::start_with(&["run.retire_after=200ms"]);
    let early = here.run(&["scale", "2", "--project", "shop"]);
    assert_eq!(early.status.code(), Some(9), "{}", text(&early));
    let app = App::new("scaled", "");
    let first = id_of(&here.deploy(app.path(), &["--project", "shop"]));
    let scaled = here.json(&["scale", "3", "--memory", "64", "--project", "shop"]);
    assert_eq!(scaled["deployment_id"], first.as_str(), "{scaled:#}");
    assert_eq!((&scaled["from"]["replicas"], &scaled["to"]["replicas"]), (&1.into(), &3.into()));
    let memory = (64 << 20).to_string();
    assert_eq!(inspected(&here, &first, "{{.HostConfig.Memory}}"), [memory.as_str(); 3]);
    assert_eq!(here.inspect(&first)["run"]["processes"]["web"]["replicas"], 3);
    assert_eq!(here.json(&["scale", "2", &first])["to"]["replicas"], 2);
    assert_eq!(here.containers(&first).len(), 2);
    let second = id_of(&here.deploy(app.path(), &["--project", "shop"]));
    assert_eq!(inspected(&here, &second, "{{.HostConfig.Memory}}"), [memory.as_str(); 2]);
    let zero = here.run(&["scale", "0", "--project", "shop"]);
    assert_eq!(zero.status.code(), Some(9), "{}", text(&zero));
    assert!(text(&zero).contains("at least 1"), "{}", text(&zero));
    let not_live = here.run(&["scale", "2", &first]);
    assert_eq!(not_live.status.code(), Some(9), "{}", text(&not_live));
    assert!(text(&not_live).contains("launchway promote"), "{}", text(&not_live));
    let nowhere = here.run(&["scale", "2", "--project", "shop", "--env", "staging"]);
    assert_eq!(nowhere.status.code(), Some(9), "{}", text(&nowhere));
}

/// Instances that are started after a moment exit at once.
#[test]
fn a_scale_whose_instances_do_not_get_ready_is_taken_back() {
    let here = Installation::start();
    let seconds = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let until = seconds() + 20;
    let script = format!(
        "[ $(/bin/busybox date +%s) -lt {until} ] || exit 5; exec /bin/busybox httpd -f -p 8080 -h /www"
    );
    let dockerfile =
        format!("FROM scratch\nCOPY busybox /bin/busybox\nCOPY www /www\nCMD {}\n", shell(&script));
    let app = App::with_dockerfile("serving", &dockerfile);
    let id = id_of(&here.deploy(app.path(), &["--project", "shop"]));
    let before = here.containers(&id);
    eventually("it is too late for more instances", || (seconds() > until).then_some(()));
    let output = here.run(&["scale", "3", "--project", "shop"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("code 5") && said.contains("the scale is as it was"), "{said}");
    assert_eq!(here.containers(&id), before);
    assert_eq!(here.inspect(&id)["run"]["processes"]["web"]["replicas"], 1);
    assert_eq!(here.get(HOST, "/").body, "serving");
}

#[test]
fn projects_are_listed_and_a_first_file_is_written_once() {
    let here = Installation::start();
    let app = App::new("first", "EXPOSE 8080");
    let dir = app.path().display().to_string();
    let init = |more: &[&str]| here.run(&[&["init", dir.as_str()][..], more].concat());
    let written = init(&["--project", "shop"]);
    assert!(written.status.success(), "{}", text(&written));
    let file = fs::read_to_string(app.path().join("launchway.toml")).unwrap();
    assert!(file.contains("project = \"shop\"") && file.contains("port = 8080"), "{file}");
    let again = init(&[]);
    assert_eq!(again.status.code(), Some(9), "{}", text(&again));
    assert_eq!(fs::read_to_string(app.path().join("launchway.toml")).unwrap(), file);
    let id = id_of(&here.deploy(app.path(), &[]));
    let listed = here.json(&["project", "list"]);
    let project = &listed["projects"][0];
    assert_eq!(project["project"], "shop", "{listed:#}");
    let environment = &project["environments"][0];
    assert_eq!(environment["environment"], "preview", "{listed:#}");
    assert_eq!(environment["live"], id.as_str(), "{listed:#}");
    assert!(environment["url"].as_str().unwrap().contains(HOST), "{listed:#}");
}

#[test]
fn a_key_may_do_what_its_role_says_until_it_is_revoked() {
    let here = Installation::start();
    let image = id_of(&here.deploy(App::new("mine", "").path(), &["--project", "shop"]));
    let create = |role: &str| {
        let made = here.json(&["keys", "create", "--role", role, "--name", "for a test"]);
        (made["key_id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
    };
    let exit = |secret: &str, args: &[&str]| {
        let output = here.run(&[args, &["--token", secret]].concat());
        output.status.code().unwrap_or_else(|| panic!("{}", text(&output)))
    };
    let (read, deploy) = (create("read"), create("deploy"));
    for (secret, looks, deploys, keys) in [(&read.1, 0, 8, 8), (&deploy.1, 0, 0, 8)] {
        assert_eq!(exit(secret, &["inspect", &image]), looks);
        assert_eq!(exit(secret, &["env", "list", "--project", "shop"]), looks);
        assert_eq!(exit(secret, &["env", "set", "A=1", "--project", "shop"]), deploys);
        assert_eq!(exit(secret, &["keys", "list"]), keys);
        assert_eq!(exit(secret, &["keys", "create", "--role", "admin"]), keys);
    }
    assert!(here.run(&["keys", "revoke", &read.0]).status.success());
    assert_eq!(exit(&read.1, &["inspect", &image]), 8);
    let listed = here.json(&["keys", "list"]);
    let of = |id: &str| {
        let keys = listed["keys"].as_array().unwrap();
        keys.iter().find(|key| key["key_id"] == id).unwrap().clone()
    };
    assert!(of(&read.0)["revoked_at"].is_i64() && of(&deploy.0)["revoked_at"].is_null());
    let admin = listed["keys"].as_array().unwrap();
    let admin = admin.iter().find(|key| key["role"] == "admin").unwrap()["key_id"].clone();
    let last = here.run(&["keys", "revoke", admin.as_str().unwrap()]);
    assert_eq!(last.status.code(), Some(9), "{}", text(&last));
    is_nowhere(&here, &deploy.1);
}
