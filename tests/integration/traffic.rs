//! Requests at a fixed rate, whatever becomes of them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::support::{Answer, eventually, request};

/// As many as are needed for the rate while each takes this long at most.
const CLIENTS: u32 = 32;

/// Sent until it is dropped or stopped.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    per_second: u32,
    begun: Instant,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    count: usize,
    /// When each good answer first came.
    first: Vec<(String, Instant)>,
    /// Who came when with what; nobody should.
    failed: Vec<(Duration, Option<Answer>)>,
}

impl Traffic {
    /// `per_second` requests for `/` of the host; a good answer is one of `good`.
    pub fn start(
        gateway: SocketAddr,
        host: &'static str,
        good: &'static [&'static str],
        per_second: u32,
    ) -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Seen>>::default());
        let begun = Instant::now();
        let client = |number: u32| {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            std::thread::spawn(move || {
                let every = Duration::from_secs(1) * CLIENTS / per_second;
                let mut due = begun + every * number / CLIENTS;
                while !stop.load(Relaxed) {
                    // The rate is what is asked for, not a wait for anything.
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    due += every;
                    let answer = request(gateway, host, "/");
                    seen.lock().unwrap().note(answer, good, begun);
                }
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { stop, seen, per_second, begun, clients }
    }

    /// Waits for so many more requests.
    pub fn more(&self, count: usize) {
        let enough = self.seen.lock().unwrap().count + count;
        while self.seen.lock().unwrap().count < enough {
            let before = self.seen.lock().unwrap().count;
            eventually("requests go on", || {
                (self.seen.lock().unwrap().count > before).then_some(())
            });
        }
    }

    /// From `since` until the first answer with this text.
    pub fn first(&self, text: &str, since: Instant) -> Duration {
        let at = eventually(&format!("{text} is answered"), || {
            let seen = self.seen.lock().unwrap();
            seen.first.iter().find(|(known, _)| known == text).map(|(_, at)| *at)
        });
        at.saturating_duration_since(since)
    }

    /// Forgets which answers have come.
    pub fn forget(&self) {
        self.seen.lock().unwrap().first.clear();
    }

    /// Ends it; the rate was held and not one request has failed.
    pub fn assert_no_failure(mut self) {
        self.stop.store(true, Relaxed);
        for client in self.clients.drain(..) {
            client.join().unwrap();
        }
        let (seen, ran) = (self.seen.lock().unwrap(), self.begun.elapsed());
        assert!(seen.failed.is_empty(), "of {} requests: {:?}", seen.count, seen.failed);
        let asked = f64::from(self.per_second) * ran.as_secs_f64();
        assert!(seen.count as f64 > asked * 0.9, "{} requests in {ran:?} are no load", seen.count);
        println!("{} requests in {ran:?}, none failed", seen.count);
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

impl Seen {
    fn note(&mut self, answer: Option<Answer>, good: &[&str], begun: Instant) {
        self.count += 1;
        let fine = answer.as_ref().filter(|answer| answer.status == 200);
        match fine.and_then(|answer| good.iter().find(|text| answer.body == **text)) {
            Some(text) if self.first.iter().all(|(known, _)| known != text) => {
                self.first.push(((*text).to_owned(), Instant::now()));
            }
            Some(_) => {}
            None => self.failed.push((begun.elapsed(), answer)),
        }
    }
}
