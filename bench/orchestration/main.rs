//! What the orchestration of a deployment costs: whole deployments on instant
//! adapters against as many empty journaled steps, without and with the calls of
//! a deployment, on the same restate-server, taking turns. Started by `bench/orchestration.py`.

mod floor;
mod measure;

use std::{net::SocketAddr, process::ExitCode};

use clap::Parser;
use launchway::{restate::admin::AdminClient, store::Store};

use measure::{Kind, Measured, Target};

/// Turns that each of them takes at each level.
const ROUNDS: usize = 3;

#[derive(Parser)]
struct Args {
    #[arg(long)]
    database: String,
    #[arg(long)]
    ingress: String,
    #[arg(long)]
    admin: String,
    /// Where the floor's handler is served.
    #[arg(long)]
    floor: SocketAddr,
    /// Calls at once.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    levels: Vec<usize>,
    /// Deployments that all begin at once.
    #[arg(long, value_delimiter = ',', default_value = "250,500,1000")]
    crowds: Vec<usize>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), measure::Failed> {
    let listener = tokio::net::TcpListener::bind(args.floor).await?;
    tokio::spawn(floor::serve(listener));
    AdminClient::new(&args.admin).register(&format!("http://{}", args.floor)).await?;
    let target = Target::new(Store::open(&args.database).await?, args.ingress).await?;
    // All are warm before anything counts.
    for kind in Kind::ALL {
        measure::run(&target, kind, 16, 64).await?;
    }
    println!(
        "| at once | | per second | median | p99 | latency, throughput of empty steps | of those with calls |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for level in args.levels {
        let count = (level * 4).max(100);
        let mut measured: [Vec<Measured>; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (kind, into) in Kind::ALL.into_iter().zip(&mut measured) {
                into.push(measure::run(&target, kind, level, count).await?);
            }
        }
        let [floor, calls, deploy] = measured.map(Measured::median);
        println!("| {level} | empty steps | {floor} | | |");
        println!("| {level} | the same with calls | {calls} | {} | |", of(&calls, &floor));
        println!(
            "| {level} | deployment | {deploy} | {} | {} |",
            of(&deploy, &floor),
            of(&deploy, &calls)
        );
    }
    println!("\n| deployments at once | all done after | each |");
    println!("| --- | --- | --- |");
    for crowd in args.crowds {
        let measured = measure::run(&target, Kind::Deployment, crowd, crowd).await?;
        let seconds = crowd as f64 / measured.rate;
        println!("| {crowd} | {seconds:.1} s | {:.1} ms |", seconds * 1000.0 / crowd as f64);
    }
    Ok(())
}

fn of(this: &Measured, base: &Measured) -> String {
    format!("{:.2}, {:.2}", this.p50 / base.p50, this.rate / base.rate)
}
