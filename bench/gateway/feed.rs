//! A control plane of one gateway, for `./dev bench gateway`: so many routes to
//! one instance, and so many changes a second as each line of stdin says.
//!
//! `route-feed LISTEN INSTANCE ROUTES`

use std::{net::SocketAddr, time::Duration};

use launchway_proto::gateway::v1::{
    Route, RouteState, RouteUpdate, WatchRoutesRequest,
    route_service_server::{RouteService, RouteServiceServer},
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Where changed routes lead on every other change; nobody asks for them.
const ELSEWHERE: &str = "127.0.0.1:9";
/// The host that is asked for, which never changes.
const ASKED: usize = 7;

struct Feed {
    instance: String,
    routes: usize,
    per_second: watch::Receiver<u32>,
}

#[tonic::async_trait]
impl RouteService for Feed {
    type WatchRoutesStream = ReceiverStream<Result<RouteUpdate, Status>>;

    async fn watch_routes(
        &self,
        request: Request<Streaming<WatchRoutesRequest>>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        let (updates, stream) = mpsc::channel(16);
        let routes = (0..self.routes).map(|number| route(number, &self.instance)).collect();
        let (instance, count) = (self.instance.clone(), self.routes);
        let mut per_second = self.per_second.clone();
        tokio::spawn(async move {
            // The gateway ends the feed when its acknowledgements are not read.
            let mut acknowledged = request.into_inner();
            while let Ok(Some(_)) = acknowledged.message().await {}
        });
        tokio::spawn(async move {
            let mut update =
                RouteUpdate { version: 1, snapshot: true, routes, ..Default::default() };
            while updates.send(Ok(update)).await.is_ok() {
                let version = next(&mut per_second).await?;
                let number = version as usize % count;
                let number = if number == ASKED { 0 } else { number };
                let to = if (version as usize / count).is_multiple_of(2) {
                    ELSEWHERE
                } else {
                    &instance
                };
                let routes = vec![route(number, to)];
                update = RouteUpdate { version, snapshot: false, routes, ..Default::default() };
            }
            Some(())
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// The version of the next change, when its time has come.
async fn next(per_second: &mut watch::Receiver<u32>) -> Option<u64> {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    static VERSION: AtomicU64 = AtomicU64::new(1);
    let rate = *per_second.wait_for(|rate| *rate > 0).await.ok()?;
    tokio::time::sleep(Duration::from_secs(1) / rate).await;
    Some(VERSION.fetch_add(1, Relaxed) + 1)
}

fn route(number: usize, to: &str) -> Route {
    Route {
        host: format!("app-{number}.localhost"),
        deployment_id: format!("dep_{number:026}"),
        state: RouteState::Serving.into(),
        addresses: vec![to.to_owned()],
        start_failed: false,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = || arguments.next().ok_or("usage: route-feed LISTEN INSTANCE ROUTES");
    let (listen, instance) = (argument()?.parse::<SocketAddr>()?, argument()?);
    let routes = argument()?.parse()?;
    let (rates, per_second) = watch::channel(0);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            rates.send_replace(line.trim().parse().unwrap_or(0));
        }
        // Ends with the benchmark.
        std::process::exit(0);
    });
    tonic::transport::Server::builder()
        .add_service(RouteServiceServer::new(Feed { instance, routes, per_second }))
        .serve(listen)
        .await?;
    Ok(())
}
