use std::{
    collections::BTreeMap,
    io::Read,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
};

use super::*;

fn options(dir: &Path) -> PackOptions {
    PackOptions {
        dir: dir.to_owned(),
        dockerfile: "Dockerfile".to_owned(),
        build_inputs: Vec::new(),
        max_bytes: 1 << 30,
    }
}

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn packed(options: &PackOptions) -> PackedContext {
    pack_blocking(options, |_| ()).unwrap()
}

/// Path to (mode, link target or content).
fn unpacked(context: &mut PackedContext) -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
    let file = context.rewound().unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path_bytes().into_owned();
            let mode = entry.header().mode().unwrap();
            let mut content =
                entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
            entry.read_to_end(&mut content).unwrap();
            (path, (mode, content))
        })
        .collect()
}

/// Checklist 11, 56.
#[test]
fn modes_links_long_paths_and_strange_names_are_kept() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let dir = tree(&[("Dockerfile", "FROM scratch"), ("run.sh", "x"), (&long, "deep")]);
    std::fs::set_permissions(dir.path().join("run.sh"), std::fs::Permissions::from_mode(0o755))
        .unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("outside")).unwrap();
    let strange = std::ffi::OsStr::from_bytes(b"not\xfftext");
    std::fs::write(dir.path().join(strange), "bytes").unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let files = unpacked(&mut packed(&options(dir.path())));
    assert_eq!(files[b"run.sh".as_slice()], (0o755, b"x".to_vec()));
    assert_eq!(files[b"outside".as_slice()].1, b"/etc/passwd");
    assert_eq!(files[long.as_bytes()].1, b"deep");
    assert_eq!(files[b"not\xfftext".as_slice()].1, b"bytes");
    assert!(files.keys().any(|path| path.starts_with(b"empty")));
}

#[test]
fn the_content_hash_knows_content_and_inputs_but_no_times() {
    let dir = tree(&[("Dockerfile", "FROM scratch"), ("a", "1")]);
    let first = packed(&options(dir.path()));
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(100);
    std::fs::File::open(dir.path().join("a")).unwrap().set_modified(later).unwrap();
    let again = packed(&options(dir.path()));
    assert_eq!((&first.content_hash, &first.sha256), (&again.content_hash, &again.sha256));
    let inputs = vec![("target".to_owned(), "web".to_owned())];
    let other = packed(&PackOptions { build_inputs: inputs, ..options(dir.path()) });
    assert_ne!(other.content_hash, first.content_hash);
    std::fs::set_permissions(dir.path().join("a"), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_ne!(packed(&options(dir.path())).content_hash, first.content_hash);
}

/// Checklist 10.
#[test]
fn the_ignore_file_of_the_dockerfile_goes_before_the_one_at_the_root() {
    let dir = tree(&[
        ("build/Dockerfile", "FROM scratch"),
        ("build/Dockerfile.dockerignore", "*\n!app"),
        (".dockerignore", "app"),
        ("app/main", "x"),
        ("secret", "x"),
        (".env", "TOKEN=x"),
    ]);
    let options = PackOptions { dockerfile: "build/Dockerfile".to_owned(), ..options(dir.path()) };
    let files = unpacked(&mut packed(&options));
    let names: Vec<_> = files
        .keys()
        .map(|path| String::from_utf8_lossy(path).trim_end_matches('/').to_owned())
        .collect();
    assert_eq!(names, ["app", "app/main", "build/Dockerfile", "build/Dockerfile.dockerignore"]);
}

#[test]
fn a_missing_dockerfile_is_named_with_those_that_are_there() {
    let dir = tree(&[("web/Dockerfile", "FROM scratch")]);
    let error = pack_blocking(&options(dir.path()), |_| ()).err().unwrap().to_string();
    assert!(error.contains("no `Dockerfile`") && error.contains("web/Dockerfile"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = pack_blocking(&options(empty.path()), |_| ()).err().unwrap().to_string();
    assert!(error.contains("empty"), "{error}");
}

#[test]
fn what_is_no_directory_or_too_large_is_refused() {
    let dir = tree(&[("Dockerfile", "FROM scratch")]);
    let file = options(&dir.path().join("Dockerfile"));
    assert!(matches!(pack_blocking(&file, |_| ()), Err(PackError::NotADirectory(_))));
    let absent = options(&dir.path().join("absent"));
    assert!(matches!(pack_blocking(&absent, |_| ()), Err(PackError::Unreadable { .. })));
    let small = PackOptions { max_bytes: 10, ..options(dir.path()) };
    assert!(matches!(pack_blocking(&small, |_| ()), Err(PackError::TooLarge { limit: 10 })));
}

#[test]
fn a_socket_is_left_out_and_said() {
    let dir = tree(&[("Dockerfile", "FROM scratch")]);
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
    assert_eq!(packed(&options(dir.path())).skipped, [PathBuf::from("s")]);
}

#[tokio::test]
async fn an_upload_survives_a_store_that_fails_twice_and_carries_the_signed_headers() {
    use axum::{
        Router,
        body::Bytes,
        http::{HeaderMap, StatusCode},
        routing::put,
    };
    use std::sync::{Arc, Mutex};
    let seen: Arc<Mutex<Vec<(String, usize, String)>>> = Arc::default();
    let record = Arc::clone(&seen);
    let handler = move |headers: HeaderMap, body: Bytes| async move {
        let text = |name: &str| {
            headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let mut seen = record.lock().unwrap();
        seen.push((text("content-length"), body.len(), text("x-signed")));
        if seen.len() < 3 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/b/k", listener.local_addr().unwrap());
    let serving = tokio::spawn(
        axum::serve(listener, Router::new().route("/b/k", put(handler))).into_future(),
    );
    let dir = tree(&[("Dockerfile", "FROM scratch"), ("data", &"x".repeat(300_000))]);
    let mut context = packed(&options(dir.path()));
    let headers = std::collections::HashMap::from([("x-signed".to_owned(), "yes".to_owned())]);
    upload(&mut context, &url, &headers, |_| ()).await.unwrap();
    serving.abort();
    let expected = (context.size.to_string(), context.size as usize, "yes".to_owned());
    assert_eq!(*seen.lock().unwrap(), vec![expected; 3]);
}
