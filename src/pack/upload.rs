//! The upload: straight to the object store, by presigned URL.

use std::{collections::HashMap, io::Read, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use reqwest::{Body, StatusCode};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::PackedContext;

/// Longest time without a byte of the answer once all was sent.
const IDLE: Duration = Duration::from_secs(60);
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(200);
const CHUNK: usize = 64 * 1024;

/// The context did not get into the store.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The store said no; trying again cannot help.
    #[error("the object store refused the upload ({status}): {reason}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Its message, or what usually causes it.
        reason: String,
    },
    /// Not even after some tries.
    #[error(
        "the upload failed {TRIES} times, last with: {0}; check that this machine reaches storage.uploader_url"
    )]
    Failed(String),
    /// The packed file cannot be read any more.
    #[error("the packed context cannot be read: {0}")]
    Context(std::io::Error),
}

/// Uploads the context. `progress` is told the bytes sent so far, from 0 again
/// with each try.
///
/// # Errors
/// [`UploadError`]; nothing is deployed then.
pub async fn upload(
    context: &mut PackedContext,
    url: &str,
    headers: &HashMap<String, String>,
    progress: impl Fn(u64),
) -> Result<(), UploadError> {
    let http = crate::http::client()
        .read_timeout(IDLE)
        .build()
        .map_err(|error| UploadError::Failed(error.to_string()))?;
    let mut last = String::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(PAUSE * 2_u32.pow(attempt)).await;
        }
        match put(&http, context, url, headers, &progress).await? {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(UploadError::Failed(last))
}

/// One try; the inner error may be tried again.
async fn put(
    http: &reqwest::Client,
    context: &mut PackedContext,
    url: &str,
    headers: &HashMap<String, String>,
    progress: &impl Fn(u64),
) -> Result<Result<(), String>, UploadError> {
    let size = context.size;
    // Two chunks on their way: the reader waits for the network.
    let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(2);
    let (sent, mut sent_so_far) = mpsc::unbounded_channel();
    let chunks = ReceiverStream::new(receiver).inspect(move |chunk| {
        let bytes = chunk.as_ref().map_or(0, Bytes::len);
        let _ = sent.send(bytes as u64);
    });
    let mut request = http.put(url).header("content-length", size).body(Body::wrap_stream(chunks));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let file = context.rewound().map_err(UploadError::Context)?;
    let reading = async {
        loop {
            let mut chunk = vec![0; CHUNK];
            // Memory or the page cache: short enough not to block others.
            let read = file.read(&mut chunk);
            let end = matches!(read, Ok(0) | Err(_));
            let chunk = read.map(|read| Bytes::from(chunk).slice(..read));
            if matches!(&chunk, Ok(chunk) if chunk.is_empty())
                || sender.send(chunk).await.is_err()
                || end
            {
                break;
            }
        }
        drop(sender);
    };
    let reporting = async {
        let mut total = 0;
        while let Some(bytes) = sent_so_far.recv().await {
            total += bytes;
            progress(total);
        }
    };
    let (answer, (), ()) = tokio::join!(request.send(), reading, reporting);
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Ok(Err(error.without_url().to_string())),
    };
    let status = answer.status();
    if status.is_success() {
        return Ok(Ok(()));
    }
    let said = answer.text().await.unwrap_or_default();
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Ok(Err(format!("{status}: {}", message(&said))));
    }
    Err(UploadError::Refused { status, reason: reason(status, &said) })
}

fn reason(status: StatusCode, said: &str) -> String {
    let message = message(said);
    match status {
        StatusCode::FORBIDDEN => format!(
            "{message}; the upload URL may have expired, or the clocks of this machine and the store differ"
        ),
        _ => message,
    }
}

/// The `<Message>` of an S3 error.
fn message(said: &str) -> String {
    let inner = said.split_once("<Message>").and_then(|(_, rest)| rest.split_once("</Message>"));
    inner.map_or_else(|| said.chars().take(300).collect(), |(message, _)| message.to_owned())
}
