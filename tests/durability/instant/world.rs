//! The outside, as files: builds that run, images, instances, and a log of
//! everything that was done. Shared by the instant adapters and the tests.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Names the directory.
pub const VARIABLE: &str = "LAUNCHWAY_INSTANT_WORLD";

/// See the module.
#[derive(Clone)]
pub struct World {
    dir: PathBuf,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(dead_code, reason = "the adapters write what the tests read")]
pub struct Event {
    pub what: String,
    pub id: String,
}

#[allow(dead_code, reason = "the adapters write what the tests read")]
impl World {
    pub fn at(dir: &Path) -> io::Result<Self> {
        for kind in ["builds", "images", "instances", "tasks"] {
            fs::create_dir_all(dir.join(kind))?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    pub fn of_environment() -> Option<Self> {
        Self::at(Path::new(&std::env::var_os(VARIABLE)?)).ok()
    }

    /// Appends to the log: one write, so that processes do not mix lines.
    pub fn note(&self, what: &str, id: &str) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let line = format!("{at} {} {what} {id}\n", std::process::id());
        let log = OpenOptions::new().create(true).append(true).open(self.dir.join("log"));
        log.and_then(|mut log| log.write_all(line.as_bytes())).expect("the world's log");
    }

    pub fn events(&self) -> Vec<Event> {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let event = |line: &str| {
            let mut words = line.split(' ').skip(2).map(str::to_owned);
            Some(Event { what: words.next()?, id: words.next()? })
        };
        log.lines().filter_map(event).collect()
    }

    /// How often this was done.
    pub fn count(&self, what: &str, id: &str) -> usize {
        self.events().iter().filter(|event| event.what == what && event.id == id).count()
    }

    /// False: it exists already.
    pub fn create(&self, kind: &str, id: &str) -> bool {
        let made = OpenOptions::new().write(true).create_new(true).open(self.path(kind, id));
        match made {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => panic!("the world's {kind}: {error}"),
        }
    }

    /// Sets the content as a whole.
    pub fn set(&self, kind: &str, id: &str, content: &str) {
        let path = self.path(kind, id);
        let fresh = self.dir.join(format!("{id}.{}", std::process::id()));
        let set = fs::write(&fresh, content).and_then(|()| fs::rename(&fresh, &path));
        set.expect("the world's files");
    }

    pub fn get(&self, kind: &str, id: &str) -> Option<String> {
        fs::read_to_string(self.path(kind, id)).ok()
    }

    /// False: there is none.
    pub fn remove(&self, kind: &str, id: &str) -> bool {
        fs::remove_file(self.path(kind, id)).is_ok()
    }

    pub fn ids(&self, kind: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join(kind)).expect("the world's directories");
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    fn path(&self, kind: &str, id: &str) -> PathBuf {
        self.dir.join(kind).join(id)
    }
}
