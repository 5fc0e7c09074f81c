//! What stands in the way of `up`: one sentence with the remedy, exit code 2.

use std::{io::Write, net::TcpStream, os::unix::fs::PermissionsExt, process::Output};

use launchway_workflows::services::journal_version;

use crate::support::{Installation, text};

fn refused(output: &Output, expected: &[&str]) {
    assert_eq!(output.status.code(), Some(2), "{}", text(output));
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    for expected in expected {
        assert!(last.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_taken_port_is_named_with_its_holder() {
    let here = Installation::prepare(&[]);
    let _held = std::net::TcpListener::bind(here.address("gateway.bind")).unwrap();
    let own = std::process::id().to_string();
    for more in [&[][..], &["--detach"]] {
        let output = here.up_command(more).output().unwrap();
        refused(&output, &["gateway.bind", &own, "--set"]);
    }
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let here = Installation::start();
    let output = here.up_command(&[]).output().unwrap();
    refused(&output, &["in use by process", "launchway down"]);
    // In the background it is what is wanted already.
    assert!(here.up_command(&["--detach"]).output().unwrap().status.success());
}

#[test]
fn a_wrong_restate_version_is_refused() {
    let here = Installation::prepare(&[]);
    let program = tempfile::NamedTempFile::new().unwrap();
    program.as_file().set_permissions(std::fs::Permissions::from_mode(0o755)).unwrap();
    program.as_file().write_all(b"#!/bin/sh\necho restate-server 1.0.0\n").unwrap();
    let program = program.into_temp_path();
    let output = here
        .up_command(&["--set", &format!("restate.binary={}", program.display())])
        .output()
        .unwrap();
    refused(&output, &["restate-server 1.0.0", "1.7.12", "--set restate.binary"]);
}

#[test]
fn a_missing_docker_engine_is_refused() {
    let here = Installation::prepare(&[]);
    let output = here.up_command(&[]).env("DOCKER_HOST", "tcp://127.0.0.1:1").output().unwrap();
    refused(&output, &["the Docker engine does not answer", "DOCKER_HOST"]);
}

/// Checklist 32.
#[test]
fn every_wrong_setting_is_named_at_once() {
    let here = Installation::prepare(&["server.workspace=A B", "build.concurrency=0"]);
    let output = here.up_command(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output);
    assert!(said.contains("server.workspace") && said.contains("build.concurrency"), "{said}");
}

#[test]
fn the_worker_answers_only_requests_signed_by_its_restate() {
    let here = Installation::start();
    let worker = here.address("worker.bind");
    // HTTP/2 with prior knowledge, as Restate speaks it.
    let output = std::process::Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--http2-prior-knowledge",
            "-X",
            "POST",
        ])
        .arg(format!("http://{worker}/j{}/invoke/Deployments/create", journal_version()))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "401", "{}", text(&output));
    let other = std::process::Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--http2-prior-knowledge"])
        .arg(format!("http://{worker}/j999/discover"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&other.stdout), "404", "journals of another version");
}

#[test]
fn the_object_store_takes_only_what_was_signed() {
    let here = Installation::start();
    let store = here.address("storage.bind");
    let mut stream = TcpStream::connect(store).unwrap();
    let request = format!(
        "PUT /launchway/contexts/x HTTP/1.1\r\nHost: {store}\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[test]
fn doctor_says_that_all_is_well_and_what_is_not() {
    let here = Installation::start();
    let data = here.data().display().to_string();
    let healthy = here.run(&["doctor", "--data-dir", &data, "--json"]);
    let said = text(&healthy);
    // Its addresses are not those of this installation: only what needs none.
    for name in ["docker", "restate-server", "control API"] {
        assert!(said.contains(&format!("\"name\":\"{name}\"")), "{name}: {said}");
    }
    let nothing = tempfile::tempdir().unwrap();
    let output = here.run(&["doctor", "--data-dir", &nothing.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("launchway up --detach"), "{}", text(&output));
}
