//! Builds of a workspace: never more than its limit, production first, nobody
//! starves.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use crate::support::{App, Installation, eventually, text};

const LIMIT: usize = 3;
const BUILDS: usize = 50;

/// A build whose command can be told from any other on this machine.
fn app(seconds: &str) -> App {
    let command =
        format!(r#"["/bin/busybox", "sh", "-c", "echo $N; /bin/busybox sleep {seconds}"]"#);
    App::new("built", &format!("ARG N\nRUN {command}"))
}

/// Builds that run, as the machine sees them.
fn running(seconds: &str) -> usize {
    let wanted = format!("/bin/busybox\0sleep\0{seconds}\0");
    let runs = |entry: &fs::DirEntry| {
        fs::read(entry.path().join("cmdline")).is_ok_and(|found| found == wanted.as_bytes())
    };
    fs::read_dir("/proc").unwrap().flatten().filter(runs).count()
}

/// Looks all the time how many builds run.
struct Watch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicUsize>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    fn begin(seconds: String) -> Self {
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopping, seen) = (Arc::clone(&stop), Arc::clone(&most));
        let thread = thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                seen.fetch_max(running(&seconds), Ordering::Relaxed);
            }
        });
        Self { stop, most, thread }
    }

    fn most(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.most.load(Ordering::Relaxed)
    }
}

#[test]
fn fifty_builds_run_three_at_a_time_production_first_through_a_kill() {
    // Of this run alone: the builder remembers what it has run before.
    let seconds = format!("0.4{}", std::process::id());
    let mut here = Installation::start_with(&["build.concurrency=3", "run.keep_running=0"]);
    let blocking = app("86323");
    let blockers: Vec<String> = (0..LIMIT)
        .map(|at| {
            // One of its own each: BuildKit runs what is the same once.
            let (n, branch) = (format!("N={at}"), format!("b{at}"));
            let more = ["-p", "blocking", "--build-arg", &n, "--branch", &branch];
            here.submit(blocking.path(), &more)
        })
        .collect();
    eventually("the blockers build", || (running("86323") == LIMIT).then_some(()));
    let app = app(&seconds);
    // Every second one to production; a branch each, so that none is superseded.
    let ids: Vec<String> = (0..BUILDS)
        .map(|at| {
            let (n, branch) = (format!("N={at}"), format!("b{at}"));
            let mut more = vec!["-p", "shop", "--build-arg", &n, "--branch", &branch];
            if at % 2 == 1 {
                more.push("--prod");
            }
            here.submit(app.path(), &more)
        })
        .collect();
    here.wait_status(&ids[BUILDS - 1], &["queued"]);
    let watch = Watch::begin(seconds);
    for blocker in &blockers {
        let cancelled = here.run(&["cancel", blocker]);
        assert!(cancelled.status.success(), "{}", text(&cancelled));
    }
    eventually("some are built", || {
        let done = here.json(&["list", "-p", "shop", "--limit", "100"]);
        let done = done["deployments"].as_array()?.iter().filter(|d| d["status"] != "queued");
        (done.count() > BUILDS / 4).then_some(())
    });
    here.kill_up();
    here.up();
    let mut started: Vec<(i64, bool)> = Vec::new();
    for (at, id) in ids.iter().enumerate() {
        let shown = here.wait_status(id, &["live", "ready", "retiring", "retired"]);
        let steps = shown["steps"].as_array().unwrap();
        let slot = steps.iter().find(|row| row["name"] == "acquire-slot").unwrap();
        started.push((slot["ended_at"].as_i64().unwrap(), at % 2 == 1));
    }
    assert_eq!(watch.most(), LIMIT, "builds that ran at once");
    started.sort();
    let order: String =
        started.iter().map(|(_, production)| if *production { 'P' } else { 'p' }).collect();
    // Three for production, then one that has waited longest.
    let production_in_first_half = order[..BUILDS / 2].matches('P').count();
    assert!(production_in_first_half >= 17, "production goes first: {order}");
    assert!(!order.contains("PPPPPPP"), "previews do not starve: {order}");
}
