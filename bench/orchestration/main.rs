//! What the orchestration of a deployment costs: whole deployments on instant
//! adapters against as many empty journaled steps, on the same restate-server,
//! taking turns. Started by `bench/orchestration.py`.

mod floor;
mod measure;

use std::{net::SocketAddr, process::ExitCode};

use clap::Parser;
use launchway::{restate::admin::AdminClient, store::Store};

use measure::{Kind, Measured, Target};

/// Turns that each of the two takes at each level.
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
    // Both are warm before anything counts.
    for kind in Kind::BOTH {
        measure::run(&target, kind, 16, 64).await?;
    }
    println!("| at once | | per second | median | p99 | of the floor |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for level in args.levels {
        let count = (level * 4).max(100);
        let mut measured: [Vec<Measured>; 2] = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (kind, into) in Kind::BOTH.into_iter().zip(&mut measured) {
                into.push(measure::run(&target, kind, level, count).await?);
            }
        }
        let [floor, deploy] = measured.map(Measured::median);
        println!("| {level} | empty steps | {floor} | |");
        let (latency, rate) = (deploy.p50 / floor.p50, deploy.rate / floor.rate);
        println!(
            "| {level} | deployment | {deploy} | {latency:.2} of the latency, {rate:.2} of the throughput |"
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
