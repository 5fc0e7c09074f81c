//! The embedded store through plain HTTP, as uploaders and builders use it.

use std::{path::Path, time::Duration};

use launchway_workflows::ports::ContextStore;
use sha2::{Digest, Sha256};

use super::{EmbeddedS3, EmbeddedSettings, PresignedPut, S3Storage, StorageSettings};

const LIMIT: u64 = 1 << 20;
const KEY: &str = "contexts/prj_x/context.tar.gz";

struct Served {
    storage: S3Storage,
    http: reqwest::Client,
    _dir: tempfile::TempDir,
}

/// A store with its bucket, in the directory; served as long as the test runs.
pub(crate) async fn serve(dir: &Path, max_object_bytes: u64, lifetime: Duration) -> S3Storage {
    let server = EmbeddedS3::bind(&EmbeddedSettings {
        bind: "127.0.0.1:0".parse().unwrap(),
        dir: dir.to_owned(),
        access_key_id: "id".to_owned(),
        secret_access_key: "secret".to_owned(),
        max_object_bytes,
    })
    .await
    .unwrap();
    let url = format!("http://{}", server.address().unwrap());
    tokio::spawn(server.serve(std::future::pending()));
    let storage = S3Storage::new(StorageSettings {
        url: url.clone(),
        uploader_url: url.clone(),
        builder_url: url,
        bucket: "launchway".to_owned(),
        region: "us-east-1".to_owned(),
        access_key_id: "id".to_owned(),
        secret_access_key: "secret".to_owned(),
        upload_url_lifetime: lifetime,
    });
    storage.ensure_bucket().await.unwrap();
    storage
}

impl Served {
    async fn start(lifetime: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage = serve(&dir.path().join("objects"), LIMIT, lifetime).await;
        Self { storage, http: crate::http::client().build().unwrap(), _dir: dir }
    }

    async fn signed(&self, body: &[u8]) -> PresignedPut {
        let size = u64::try_from(body.len()).unwrap();
        self.storage.presign_put(KEY, size, &sha256(body)).await.unwrap()
    }

    /// Uploads with the signed headers; the status it got.
    async fn upload(&self, signed: &PresignedPut, body: Vec<u8>) -> u16 {
        let mut request = self.http.put(&signed.url.0).body(body);
        for (name, value) in &signed.headers {
            request = request.header(name, value);
        }
        request.send().await.unwrap().status().as_u16()
    }

    async fn stored(&self) -> Vec<String> {
        let stored = self.storage.list("contexts/").await.unwrap();
        stored.into_iter().map(|context| context.key).collect()
    }
}

fn sha256(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_signed_upload_is_read_through_a_signed_download() {
    let here = Served::start(Duration::from_secs(60)).await;
    let body = vec![7; 100_000];
    let signed = here.signed(&body).await;
    assert_eq!(here.upload(&signed, body.clone()).await, 200);
    assert_eq!(here.storage.head(KEY).await.unwrap().unwrap().size, 100_000);
    let url = here.storage.presign_get(KEY, Duration::from_secs(60)).await.unwrap();
    let read = here.http.get(&url.0).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(read, body);
    let range = here.http.get(&url.0).header("range", "bytes=10-19").send().await.unwrap();
    assert_eq!((range.status().as_u16(), range.bytes().await.unwrap().len()), (206, 10));
}

/// Checklist 22, 23.
#[tokio::test]
async fn only_what_was_signed_is_taken_and_nothing_else_is_kept() {
    let here = Served::start(Duration::from_secs(60)).await;
    let body = vec![7; 1000];
    let signed = here.signed(&body).await;
    let mut other = body.clone();
    other[999] = 8;
    assert_eq!(here.upload(&signed, other).await, 400, "another content of the same length");
    assert_eq!(here.upload(&signed, vec![7; 999]).await, 403, "shorter");
    assert_eq!(here.upload(&signed, vec![7; 1001]).await, 403, "longer");
    let anonymous = signed.url.0.split('?').next().unwrap().to_owned();
    let refused = here.http.put(&anonymous).body(body.clone()).send().await.unwrap();
    assert_eq!(refused.status().as_u16(), 403, "without a signature");
    let elsewhere = signed.url.0.replace("context.tar.gz", "other.tar.gz");
    let url = launchway_workflows::ports::SignedUrl(elsewhere);
    assert_eq!(here.upload(&PresignedPut { url, ..signed.clone() }, body.clone()).await, 403);
    let reading = here.http.get(&signed.url.0).send().await.unwrap();
    assert_eq!(reading.status().as_u16(), 403, "an upload's URL does not read");
    assert_eq!(here.stored().await, Vec::<String>::new());
    // None of it has spoilt the real upload.
    assert_eq!(here.upload(&signed, body).await, 200);
    assert_eq!(here.stored().await, [KEY]);
}

#[tokio::test]
async fn an_expired_url_is_refused() {
    let here = Served::start(Duration::from_secs(1)).await;
    let body = vec![7; 10];
    let signed = here.signed(&body).await;
    // The signature's clock counts in seconds.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(here.upload(&signed, body).await, 403);
    assert_eq!(here.stored().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_upload_over_the_limit_or_without_a_length_is_refused_unread() {
    let here = Served::start(Duration::from_secs(60)).await;
    let over = usize::try_from(LIMIT).unwrap() + 1;
    let body = vec![0; over];
    let signed = here.signed(&body).await;
    assert_eq!(here.upload(&signed, body).await, 413);
    let endless = futures::stream::iter([Ok::<_, std::io::Error>("x")]);
    let chunked = here.http.put(&signed.url.0).body(reqwest::Body::wrap_stream(endless));
    assert_eq!(chunked.send().await.unwrap().status().as_u16(), 411);
    assert_eq!(here.stored().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_absent_object_has_no_size_and_deleting_it_is_fine() {
    let here = Served::start(Duration::from_secs(60)).await;
    assert!(here.storage.head("contexts/none").await.unwrap().is_none());
    here.storage.delete("contexts/none").await.unwrap();
    here.storage.put("contexts/a", bytes::Bytes::from_static(b"a")).await.unwrap();
    assert_eq!(here.storage.get("contexts/a").await.unwrap(), "a");
    assert!(here.storage.unreachable().await.is_empty());
}
