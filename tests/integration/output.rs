//! The output of builds: kept, followed, and shown in three ways.

use std::process::Stdio;

use serde_json::Value;

use crate::support::{App, Installation, eventually, text};

/// Counts for some seconds, with a line that no screen is as wide as.
const COUNTING: &str = r#"RUN ["/bin/busybox", "sh", "-c", "i=0; while [ $i -lt 400 ]; do echo count-$i-; i=$((i+1)); /bin/busybox usleep 5000; done; /bin/busybox head -c 40000 /dev/zero | /bin/busybox tr '\\0' w; echo; echo counted"]"#;

#[test]
fn whoever_follows_a_build_reads_on_where_it_was_when_the_server_is_killed() {
    let mut here = Installation::start();
    let app = App::new("counted", COUNTING);
    // What is in the builder's cache would print nothing.
    let id = here.submit(app.path(), &["--project", "shop", "--no-cache"]);
    let follow = here
        .cli(&["logs", &id, "--build", "-f", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it counts", || {
        text(&here.run(&["logs", &id, "--build"])).contains("count-20-").then_some(())
    });
    here.kill_up();
    here.up();
    here.wait_status(&id, &["live"]);
    let followed = follow.wait_with_output().unwrap();
    assert!(followed.status.success());
    let events: Vec<Value> = String::from_utf8(followed.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let cursors: Vec<i64> = events.iter().filter_map(|event| event["cursor"].as_i64()).collect();
    assert!(cursors.windows(2).all(|pair| pair[0] < pair[1]), "a line came twice: {cursors:?}");
    let counted = |event: &&Value| event["text"] == "counted";
    assert_eq!(events.iter().filter(counted).count(), 1);
    // Yesterday's build, and all of it: parts of a long line are joined.
    let shown = text(&here.run(&["logs", &id, "--build"]));
    for expected in ["count-0-", "count-399-", &"w".repeat(40_000)] {
        assert!(shown.lines().any(|line| line == expected), "{} is missing", &expected[..7]);
    }
}

#[test]
fn progress_is_shown_as_it_is_asked_for() {
    let here = Installation::start();
    let app = App::new("shown", r#"RUN ["/bin/busybox", "echo", "said by the build"]"#);
    let path = app.path().display().to_string();
    let deploy = |kind: &str| {
        here.run(&["deploy", &path, "--project", "shop", "--no-cache", "--progress", kind])
    };
    let plain = deploy("plain");
    let said = String::from_utf8(plain.stderr).unwrap();
    assert!(said.lines().any(|line| line.ends_with("build | said by the build")), "{said}");
    assert!(!said.contains('\u{1b}'), "{said:?}");
    let tty = String::from_utf8(deploy("tty").stderr).unwrap();
    assert!(tty.lines().any(|line| line.contains("✓") && line.contains("COPY www /www")), "{tty}");
    let json = String::from_utf8(deploy("json").stdout).unwrap();
    let events: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().any(|event| event["text"] == "said by the build"), "{json}");
    assert_eq!(events.last().unwrap()["type"], "result");
    let refused = deploy("fancy");
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
}
