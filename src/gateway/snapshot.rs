//! The last good table on disk: what a gateway serves until the control plane
//! speaks to it.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{
    Gateway,
    table::{RouteSpec, RouteTable, Upstreams},
};

/// Raised when a reader of the old format would misunderstand the new one.
const FORMAT: u32 = 1;
/// Between two tries to write, e.g. on a full disk.
const RETRY: Duration = Duration::from_secs(5);
/// Between two writes: many changes a second are not as many files.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Stored {
    format: u32,
    version: u64,
    routes: Vec<RouteSpec>,
}

#[derive(Serialize)]
struct Storing<'a> {
    format: u32,
    version: u64,
    routes: Vec<&'a RouteSpec>,
}

/// The stored table, or an empty one: a gateway starts without its snapshot
/// rather than not at all.
pub(super) fn load(path: &Path, upstreams: &mut Upstreams) -> RouteTable {
    match read(path) {
        Ok(stored) => {
            let mut table = RouteTable::empty();
            table.version = stored.version;
            for spec in stored.routes {
                table.insert(spec, upstreams);
            }
            table
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => RouteTable::empty(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "route snapshot ignored; waiting for the control plane");
            RouteTable::empty()
        }
    }
}

fn read(path: &Path) -> io::Result<Stored> {
    let stored: Stored = serde_json::from_slice(&fs::read(path)?)?;
    if stored.format != FORMAT {
        let reason = format!("format {} is not {FORMAT}", stored.format);
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(stored)
}

/// Writes the table after a change, with all that came in the last second; ends with the gateway, after a last write.
pub(super) async fn keep(gateway: Arc<Gateway>) {
    let mut written = gateway.table.load_full();
    let mut changed = gateway.changed.subscribe();
    let mut failing = false;
    loop {
        let ending = gateway.stopping.is_cancelled();
        let table = gateway.table.load_full();
        if !Arc::ptr_eq(&table, &written) {
            match write(gateway.config.snapshot_path.clone(), Arc::clone(&table)).await {
                Ok(()) => (written, failing) = (table, false),
                Err(error) => {
                    if !failing {
                        let path = gateway.config.snapshot_path.display();
                        tracing::warn!(%path, %error, "route snapshot not written; will retry");
                    }
                    failing = true;
                }
            }
            gateway.stopping.run_until_cancelled(sleep(PAUSE)).await;
        }
        if ending {
            return;
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = gateway.stopping.cancelled() => {}
            () = sleep(RETRY), if failing => {}
        }
    }
}

async fn write(path: PathBuf, table: Arc<RouteTable>) -> io::Result<()> {
    let write = move || {
        let routes = table.specs().collect();
        let stored = Storing { format: FORMAT, version: table.version, routes };
        replace(&path, &serde_json::to_vec(&stored)?)
    };
    tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
}

/// Readers see the old file or the new one, also after a power cut. The
/// temporary file is 0600 from the start.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let mut file = tempfile::Builder::new().prefix(".routes-").tempfile_in(parent)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    fs::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Checklist 9.
    #[test]
    fn the_file_is_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway/routes.json");
        replace(&path, b"one, and longer").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_or_foreign_file_gives_an_empty_table() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("routes.json");
        for bytes in ["", "{\"format\":1", "{\"format\":2,\"version\":9,\"routes\":[]}"] {
            fs::write(&path, bytes).unwrap();
            let table = load(&path, &mut Upstreams::new(1));
            assert_eq!((table.version, table.len()), (0, 0), "{bytes}");
        }
    }
}
