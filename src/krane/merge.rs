//! Merges ordered sources by time, as far as they have been read: one that says
//! nothing for a moment does not hold up the others.

use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt, future::select_all, stream};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// How long the next word of a source is waited for while others have some.
const PATIENCE: Duration = Duration::from_millis(100);

/// One source: keys never fall.
pub(super) type Source<K, T> = mpsc::Receiver<(K, T)>;

struct Reader<K, T> {
    source: Source<K, T>,
    head: Option<(K, T)>,
    /// It was waited for in vain.
    quiet: bool,
}

/// Everything that the sources give, and those that come later. Ends when there
/// are none and none can come.
pub(super) fn merge<K, T>(
    sources: mpsc::Receiver<Source<K, T>>,
) -> impl Stream<Item = T> + Send + 'static
where
    K: Ord + Clone + Send + 'static,
    T: Send + 'static,
{
    let merger = Merger { readers: Vec::new(), coming: Some(sources) };
    stream::unfold(merger, |mut merger| async move {
        let next = merger.next().await?;
        Some((next, merger))
    })
    .boxed()
}

struct Merger<K, T> {
    readers: Vec<Reader<K, T>>,
    coming: Option<mpsc::Receiver<Source<K, T>>>,
}

/// What a wait has brought.
enum News<K, T> {
    Item(usize, Option<(K, T)>),
    Source(Option<Source<K, T>>),
}

impl<K: Ord + Clone + Send, T: Send> Merger<K, T> {
    async fn next(&mut self) -> Option<T> {
        let mut since = None;
        loop {
            self.read_ready();
            let waits = self.readers.iter().any(|reader| reader.head.is_none() && !reader.quiet);
            if !waits && let Some(first) = self.first() {
                return Some(first);
            }
            if self.readers.is_empty() && self.coming.is_none() {
                return None;
            }
            let has_head = self.readers.iter().any(|reader| reader.head.is_some());
            let news = match has_head {
                false => Some(self.news().await),
                true => {
                    let until = *since.get_or_insert_with(Instant::now) + PATIENCE;
                    timeout_at(until, self.news()).await.ok()
                }
            };
            match news {
                Some(News::Item(at, Some(item))) => {
                    self.readers[at].quiet = false;
                    self.readers[at].head = Some(item);
                }
                Some(News::Item(at, None)) => drop(self.readers.remove(at)),
                Some(News::Source(Some(source))) => {
                    self.readers.push(Reader { source, head: None, quiet: false });
                }
                Some(News::Source(None)) => self.coming = None,
                None => {
                    let silent = self.readers.iter_mut().filter(|reader| reader.head.is_none());
                    silent.for_each(|reader| reader.quiet = true);
                }
            }
        }
    }

    /// Takes what is there, without waiting.
    fn read_ready(&mut self) {
        while let Some(source) = self.coming.as_mut().and_then(|coming| coming.try_recv().ok()) {
            self.readers.push(Reader { source, head: None, quiet: false });
        }
        for reader in self.readers.iter_mut().filter(|reader| reader.head.is_none()) {
            if let Ok(item) = reader.source.try_recv() {
                reader.head = Some(item);
                reader.quiet = false;
            }
        }
    }

    fn first(&mut self) -> Option<T> {
        let heads = self.readers.iter_mut().filter(|reader| reader.head.is_some());
        let first = heads.min_by_key(|reader| reader.head.as_ref().map(|(key, _)| key.clone()))?;
        first.head.take().map(|(_, item)| item)
    }

    /// Whatever comes first.
    async fn news(&mut self) -> News<K, T> {
        let silent = self.readers.iter_mut().enumerate().filter(|(_, one)| one.head.is_none());
        let mut waits: Vec<_> = silent
            .map(|(at, reader)| async move { News::Item(at, reader.source.recv().await) }.boxed())
            .collect();
        if let Some(coming) = self.coming.as_mut() {
            waits.push(async move { News::Source(coming.recv().await) }.boxed());
        }
        select_all(waits).await.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(items: &[(u32, &'static str)]) -> Source<u32, &'static str> {
        let (sender, receiver) = mpsc::channel(16);
        items.iter().for_each(|item| sender.try_send(*item).unwrap());
        receiver
    }

    #[tokio::test]
    async fn what_has_ended_is_merged_by_key() {
        let (sources, coming) = mpsc::channel(4);
        for items in [&[(1, "a"), (4, "d")][..], &[], &[(2, "b"), (3, "c"), (5, "e")]] {
            sources.try_send(source(items)).unwrap();
        }
        drop(sources);
        assert_eq!(merge(coming).collect::<Vec<_>>().await, ["a", "b", "c", "d", "e"]);
    }

    #[tokio::test]
    async fn one_that_says_nothing_holds_up_nobody() {
        let (sources, coming) = mpsc::channel(4);
        let (silent, receiver) = mpsc::channel(4);
        sources.try_send(receiver).unwrap();
        sources.try_send(source(&[(1, "a"), (2, "b")])).unwrap();
        let mut merged = std::pin::pin!(merge(coming));
        assert_eq!(merged.next().await, Some("a"));
        assert_eq!(merged.next().await, Some("b"));
        silent.try_send((3, "c")).unwrap();
        assert_eq!(merged.next().await, Some("c"));
        sources.try_send(source(&[(4, "d")])).unwrap();
        assert_eq!(merged.next().await, Some("d"));
        drop((silent, sources));
        assert_eq!(merged.next().await, None);
    }
}
