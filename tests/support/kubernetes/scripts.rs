//! What pods are told to do, and what they have said.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
};

use serde_json::Value;

use super::containers;

/// What pods of an image do.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Answer every request so; a task of such an image ends well at once.
    Serve { status: u16, body: String },
    /// Run, and listen nowhere.
    Silent,
    /// End.
    Exit { code: i32, output: String },
    /// End for want of memory.
    OutOfMemory,
    /// Their image cannot be pulled.
    Pull { message: String },
    /// No node takes them.
    Unschedulable,
    /// Their settings cannot be used.
    Refused { message: String },
    /// Their node ends them as soon as they run.
    Evicted,
    /// What the image does, in a container.
    Container,
}

impl Behaviour {
    pub fn serve() -> Self {
        Self::Serve { status: 200, body: "hello".to_owned() }
    }
}

/// One life of a container, as it is logged.
#[derive(Clone)]
pub enum Life {
    /// Lines with their times.
    Told(Vec<(String, String)>),
    Container(String),
}

impl Life {
    pub fn container(&self) -> Option<&String> {
        match self {
            Self::Container(name) => Some(name),
            Self::Told(_) => None,
        }
    }
}

#[derive(Default)]
pub struct Scripts {
    by_image: HashMap<String, Behaviour>,
    /// Of images that are not there.
    other: Option<Behaviour>,
    /// The labels of a pod, each time its container was started.
    pub started: Vec<Value>,
    lives: HashMap<String, Vec<Life>>,
    addresses: u32,
    pub networks: HashSet<String>,
}

impl Scripts {
    pub fn set(&mut self, image: &str, behaviour: Behaviour) {
        self.by_image.insert(image.to_owned(), behaviour);
    }

    pub fn set_others(&mut self, behaviour: Behaviour) {
        self.other = Some(behaviour);
    }

    pub fn of(&self, image: &str) -> Behaviour {
        let scripted = self.by_image.get(image).or(self.other.as_ref());
        scripted.cloned().unwrap_or(Behaviour::Container)
    }

    /// An address of this machine that nobody else has.
    pub fn address(&mut self) -> IpAddr {
        self.addresses += 1;
        let [_, b, c, d] = self.addresses.to_be_bytes();
        // Tests run at the same time, each in a process of its own.
        let process = std::process::id().to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(127, 64 + (process[2] ^ b) % 128, process[3] ^ c, d.max(1)))
    }

    pub fn lives(&self, uid: &str) -> Vec<Life> {
        self.lives.get(uid).cloned().unwrap_or_default()
    }

    pub fn begin_life(&mut self, uid: &str, life: Life) {
        self.lives.entry(uid.to_owned()).or_default().push(life);
    }

    pub fn forget(&mut self, uid: &str) {
        self.lives.remove(uid);
    }

    pub fn remove_containers(&mut self) {
        let lives = self.lives.values().flatten();
        let names = lives.filter_map(Life::container).cloned();
        containers::remove_all(names.collect(), self.networks.drain().collect());
    }
}
