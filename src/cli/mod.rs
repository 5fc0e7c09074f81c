//! The command line: results on stdout, progress on stderr, exit codes that
//! scripts can rely on.

mod actions;
mod args;
mod build;
mod builder;
mod connect;
mod deploy;
mod doctor;
mod domains;
mod environment;
mod exec;
mod exit;
mod gc;
mod inspect;
mod keys;
mod logs;
mod project;
mod query;
mod render;
mod run;
mod runtime_logs;
mod scale;
mod serve;
mod source;
mod terminal;
mod time;
mod vertices;
mod why;

use std::sync::Arc;

use clap::Parser;

pub use args::Cli;
pub use exit::{Exit, Failure};

use crate::up::Adapters;
use args::Command;

/// Runs the command line of this process, on these adapters where it is a
/// server.
pub async fn main(adapters: Arc<dyn Adapters>) -> Exit {
    let mut cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap prints each where it belongs.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success };
        }
    };
    let json = cli.global.json || cli.global.progress == args::Progress::Json;
    cli.global.json = json;
    match run(cli, adapters).await {
        Ok(exit) => exit,
        Err(failure) => {
            render::failure(&failure, json);
            failure.exit
        }
    }
}

async fn run(cli: Cli, adapters: Arc<dyn Adapters>) -> Result<Exit, Failure> {
    let global = &cli.global;
    match cli.command {
        Command::Up(args) => serve::up(global, args, adapters).await,
        Command::Serve(args) => serve::serve(args, adapters).await,
        Command::Down(args) => serve::down(global, args).await,
        Command::Doctor(args) => doctor::doctor(global, args).await,
        Command::Deploy(args) => deploy::deploy(global, args).await,
        Command::Build(args) => build::build(global, args).await,
        Command::Watch { id } => deploy::watch(global, &id).await,
        Command::Retry(args) => actions::retry(global, args).await,
        Command::Redeploy { id, follow } => actions::redeploy(global, id, follow).await,
        Command::Cancel(args) => actions::cancel(global, args).await,
        Command::Rollback { id } => actions::rollback(global, id).await,
        Command::Promote { id } => actions::promote(global, id).await,
        Command::List(args) => query::list(global, args).await,
        Command::Inspect { id, openapi: false } => inspect::inspect(global, &id).await,
        Command::Inspect { id, openapi: true } => inspect::openapi(global, &id).await,
        Command::Logs(args) if args.runtime.runtime => runtime_logs::logs(global, args).await,
        Command::Logs(args) => logs::logs(global, args).await,
        Command::Exec(args) => exec::exec(global, args).await,
        Command::Run(args) => run::run(global, args).await,
        Command::Journal { id, attempt } => why::journal(global, id, attempt).await,
        Command::Why { id } => why::why(global, id).await,
        Command::Open { id } => query::open(global, id.as_deref()).await,
        Command::Gc { dry_run } => gc::gc(global, dry_run).await,
        Command::Domains(command) => domains::domains(global, command).await,
        Command::Builder { command: args::BuilderCommand::Use(args) } => {
            builder::use_builder(global, args).await
        }
        Command::Init { path } => project::init(global, &path),
        Command::Scale(args) => scale::scale(global, args).await,
        Command::Env(command) => environment::environment(global, command).await,
        Command::Project { command: args::ProjectCommand::List } => query::projects(global).await,
        Command::Keys(command) => keys::keys(global, command).await,
        Command::Version => query::version(global),
    }
}
