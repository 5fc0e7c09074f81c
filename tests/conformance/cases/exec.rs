//! Commands in instances.

use launchway_proto::krane::v1::{ExecInput, ExecStart, TerminalSize, exec_input::Input};
use tonic::Code;

use crate::world::{World, eventually};

pub async fn input_and_output_pass_and_the_exit_code_comes_last(world: &World<'_>) {
    let request = world.request();
    let id = &request.deployment_id;
    world.deploy(&request).await;
    let start = world.exec_of(id, "/busybox cat; echo GREETING $GREETING >&2; exit 9");
    let large = "x".repeat(200_000);
    let input = vec![
        Input::Stdin(b"first ".to_vec()),
        Input::Stdin(large.clone().into_bytes()),
        Input::CloseStdin(true),
    ];
    let said = world.try_exec(start, input).await.unwrap();
    assert!(said.stdout == format!("first {large}"), "{} bytes came back", said.stdout.len());
    assert_eq!(said.stderr.trim(), "GREETING hello");
    assert_eq!(said.exit_code, Some(9));
}

pub async fn a_terminal_has_the_size_it_is_given(world: &World<'_>) {
    let request = world.request();
    world.deploy(&request).await;
    // Bytes that are nothing to a terminal, which others could take for something.
    let script = "/busybox sleep 0.5; printf '\\001\\000'; /busybox sleep 0.2; \
                  /busybox stty size; read line; /busybox stty size; test -t 0 && exit 3";
    let start = ExecStart {
        tty: true,
        size: Some(TerminalSize { columns: 101, rows: 37 }),
        ..world.exec_of(&request.deployment_id, script)
    };
    let resized = TerminalSize { columns: 77, rows: 22 };
    let mut krane = world.krane().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let send = async |input| {
        let message = ExecInput { input: Some(input) };
        sender.send(message).await.unwrap();
    };
    send(Input::Start(start)).await;
    let messages = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut output = krane.exec(messages).await.unwrap().into_inner();
    let (mut seen, mut exit_code, mut answered) = (String::new(), None, false);
    while let Some(message) = output.message().await.unwrap() {
        use launchway_proto::krane::v1::exec_output::Output;
        match message.output.unwrap() {
            Output::Stdout(bytes) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            Output::Stderr(bytes) => panic!("a terminal has one output: {bytes:?}"),
            Output::ExitCode(code) => exit_code = Some(code),
        }
        if seen.contains("37 101") && !answered {
            answered = true;
            send(Input::Resize(resized)).await;
            send(Input::Stdin(b"go\r".to_vec())).await;
        }
    }
    assert!(seen.contains("22 77"), "{seen:?}");
    assert_eq!(exit_code, Some(3), "{seen:?}");
}

/// Whoever goes away leaves nothing behind that runs on for ever.
pub async fn a_command_ends_when_nobody_reads_it(world: &World<'_>) {
    let request = world.request();
    let id = &request.deployment_id;
    world.deploy(&request).await;
    let start = world.exec_of(id, "echo begun; exec /busybox sleep 4711");
    let input = ExecInput { input: Some(Input::Start(start)) };
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    sender.send(input).await.unwrap();
    let messages = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut output = world.krane().await.exec(messages).await.unwrap().into_inner();
    assert!(output.message().await.unwrap().is_some());
    let running = "/busybox ps -o args | /busybox grep '[s]leep 4711'";
    assert_eq!(world.exec(id, running).await.exit_code, Some(0));
    drop((sender, output));
    if !world.harness.ends_unread_commands() {
        return eprintln!("not run: this runtime has no way to end it");
    }
    eventually("it has ended", async || {
        (world.exec(id, running).await.exit_code != Some(0)).then_some(())
    })
    .await;
}

pub async fn where_nothing_runs_it_is_refused(world: &World<'_>) {
    let request = world.request();
    let id = &request.deployment_id;
    let refused = world.try_exec(world.exec_of(id, "true"), Vec::new()).await;
    assert_eq!(refused.unwrap_err().code(), Code::FailedPrecondition);
    world.deploy(&request).await;
    let other = ExecStart { replica: Some(4), ..world.exec_of(id, "true") };
    let refused = world.try_exec(other, Vec::new()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let nothing = ExecStart { command: Vec::new(), ..world.exec_of(id, "") };
    let refused = world.try_exec(nothing, Vec::new()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}
