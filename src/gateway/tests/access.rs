use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use super::support::*;

/// What the subscriber of one test wrote.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn requests(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.filter(|line: &serde_json::Value| line["target"] == "launchway::access").collect()
    }
}

/// Checklist 59-61.
#[tokio::test]
async fn each_request_is_one_line_of_plain_fields_without_its_query() {
    // With only one subscriber alive, tracing asks the thread that first meets
    // a callsite, which may be another test's and has none.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let app = Instance::named("hello").await;
    let routes = vec![route("app.localhost", &[closed_address().await, app.address])];
    let setup = Setup::new(routes).await;
    setup.gateway.get("App.localhost:80", "/path?token=s3cret").await;
    setup.gateway.get("nobody.localhost", "/").await;
    setup.gateway.stopped().await;

    let requests = lines.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    let fields = &requests[0]["fields"];
    assert_eq!(fields["method"], "GET");
    assert_eq!(fields["host"], "app.localhost");
    assert_eq!(fields["path"], "/path");
    assert_eq!(fields["status"], 200);
    assert_eq!(fields["complete"], true);
    assert_eq!(fields["deployment_id"], "dep_app");
    assert_eq!(fields["attempts"], 2);
    assert_eq!(fields["request_id"].as_str().unwrap().len(), 32);
    assert!(fields["duration_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(requests[1]["fields"]["status"], 404);
    assert_eq!(requests[1]["fields"]["deployment_id"], "");
}
