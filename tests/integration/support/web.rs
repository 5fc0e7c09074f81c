//! What answers over HTTP, and a load of requests.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;

use super::Installation;

/// The answer of a hostname.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Installation {
    /// What a hostname answers through the gateway.
    pub fn get(&self, host: &str, path: &str) -> Answer {
        request(self.address("gateway.bind"), host, path).expect("the gateway answers")
    }

    pub fn ingress(&self, handler: &str, key: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        post(self.address("restate.ingress_bind"), handler, key, &body)
    }

    /// Asks a host again and again until dropped; counts what went wrong.
    pub fn load(&self, host: &str, good: &'static [&'static str]) -> Load {
        let (gateway, host) = (self.address("gateway.bind"), host.to_owned());
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (stopping, asking, failing) =
            (Arc::clone(&stop), Arc::clone(&asked), Arc::clone(&failed));
        let thread = std::thread::spawn(move || {
            let mut last = String::new();
            while !stopping.load(Ordering::Relaxed) {
                let answer = request(gateway, &host, "/");
                let fine = answer.as_ref().is_some_and(|answer| {
                    answer.status == 200 && good.iter().any(|text| answer.body.contains(text))
                });
                asking.fetch_add(1, Ordering::Relaxed);
                if !fine {
                    failing.fetch_add(1, Ordering::Relaxed);
                    last = format!("{answer:?}");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            last
        });
        Load { stop, asked, failed, thread: Some(thread) }
    }
}

/// See [`Installation::load`].
pub struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    thread: Option<JoinHandle<String>>,
}

impl Load {
    /// Ends it; every request must have been answered well.
    pub fn assert_no_failure(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let last = self.thread.take().unwrap().join().unwrap();
        let (asked, failed) =
            (self.asked.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        assert!(asked > 0, "nothing was asked");
        assert_eq!(failed, 0, "of {asked} requests; the last was {last}");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// `None` when there is no whole answer.
pub fn request(address: SocketAddr, host: &str, path: &str) -> Option<Answer> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    exchange(address, head.as_bytes())
}

fn post(address: SocketAddr, path: &str, key: &str, body: &str) -> Answer {
    // Restate refuses a type where a handler takes nothing.
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let head = format!(
        "POST /{path} HTTP/1.1\r\nHost: {address}\r\n{kind}idempotency-key: {key}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    exchange(address, head.as_bytes()).unwrap()
}

pub(super) fn exchange(address: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    stream.write_all(bytes).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}
