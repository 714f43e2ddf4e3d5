//! Bytes to store: small ones, and streams too large to hold.

use std::io;

use asynctask_operator::storage::{Digest, Expected, Incoming};
use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest as _, Sha256};

pub(crate) const MIB: u64 = 1 << 20;
const CHUNK: u64 = 64 << 10;

/// Whole bytes as a stream in chunks of three.
pub(crate) fn small(bytes: &'static [u8]) -> Incoming<'static> {
    futures::stream::iter(bytes.chunks(3).map(|chunk| Ok(Bytes::from_static(chunk)))).boxed()
}

/// A stream whose sender goes away after `bytes`.
pub(crate) fn broken_after(bytes: &'static [u8]) -> Incoming<'static> {
    let gone = futures::stream::iter([Err(io::Error::new(io::ErrorKind::ConnectionReset, "the client went away"))]);
    small(bytes).chain(gone).boxed()
}

/// Chunk `number` of a content in which no two chunks are alike.
fn chunk(number: u64, length: u64) -> Bytes {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = length.div_ceil(8);
    let mut bytes = Vec::with_capacity(usize::try_from(words * 8).expect("small"));
    for _ in 0..words {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(usize::try_from(length).expect("small"));
    bytes.into()
}

fn chunks(size: u64) -> impl Iterator<Item = Bytes> + Send {
    (0..size.div_ceil(CHUNK)).map(move |number| chunk(number, CHUNK.min(size - number * CHUNK)))
}

/// `size` bytes, made while they are read.
pub(crate) fn large(size: u64) -> Incoming<'static> {
    futures::stream::iter(chunks(size).map(Ok)).boxed()
}

/// The announcement of [`large`].
pub(crate) fn expected_large(size: u64) -> Expected {
    let mut hash = Sha256::new();
    chunks(size).for_each(|chunk| hash.update(&chunk));
    Expected { size, sha256: hex::encode(hash.finalize()).parse().expect("a digest") }
}

/// The bytes `range` of [`large`].
pub(crate) fn part_of_large(size: u64, range: std::ops::Range<u64>) -> Vec<u8> {
    let skip = usize::try_from(range.start % CHUNK).expect("small");
    let take = usize::try_from(range.end - range.start).expect("small");
    let first = range.start / CHUNK;
    let bytes = (first..size.div_ceil(CHUNK)).flat_map(|number| chunk(number, CHUNK.min(size - number * CHUNK)));
    bytes.skip(skip).take(take).collect()
}

/// The digest of what a store gives back.
pub(crate) async fn digest_of(mut object: asynctask_operator::storage::Object) -> Digest {
    let mut hash = Sha256::new();
    while let Some(chunk) = object.stream.next().await {
        hash.update(chunk.expect("the stream holds"));
    }
    hex::encode(hash.finalize()).parse().expect("a digest")
}
