//! SHA-256 digests in the three spellings we meet: raw, lower-case hex (ours) and base64 (S3's headers).

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The SHA-256 of some bytes. Reads and shows itself as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// A text that should have been a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256 digest: expected 64 lower-case hex digits")]
pub struct InvalidDigest;

impl Digest {
    /// Digest of bytes in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// As S3 spells it in `x-amz-checksum-sha256`.
    #[must_use]
    pub fn to_base64(self) -> String {
        STANDARD.encode(self.0)
    }

    /// Reads the value of `x-amz-checksum-sha256`. `None` for anything else: the digest of digests that a store
    /// reports for a multipart object (`…-7`) says nothing about the whole.
    #[must_use]
    pub fn from_base64(text: &str) -> Option<Self> {
        STANDARD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let bytes = hex::decode(text).map_err(|_| InvalidDigest)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| InvalidDigest)?;
        if lower { Ok(Self(bytes)) } else { Err(InvalidDigest) }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a writer announces before the bytes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Bytes.
    pub size: u64,
    /// Digest of all of them.
    pub sha256: Digest,
}

impl Expected {
    /// Of bytes in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { size: bytes.len() as u64, sha256: Digest::of(bytes) }
    }

    /// Of bytes that stream past; `None`: there are more than `max`.
    ///
    /// # Errors
    /// The stream's own.
    pub async fn of_stream<E>(
        mut bytes: impl Stream<Item = Result<Bytes, E>> + Unpin,
        max: u64,
    ) -> Result<Option<Self>, E> {
        let (mut size, mut hash) = (0, Sha256::new());
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk?;
            size += chunk.len() as u64;
            if size > max {
                return Ok(None);
            }
            hash.update(&chunk);
        }
        Ok(Some(Self { size, sha256: Digest(hash.finalize().into()) }))
    }
}

/// Compares what streams past with what was announced; used by every backend, so "altered" means one thing.
pub(crate) struct Verifier {
    expected: Expected,
    seen: u64,
    hash: Sha256,
}

/// How a stream differs from its announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// More bytes than announced; reading stopped there.
    #[error("longer than the announced {announced} bytes")]
    Longer {
        /// Bytes announced.
        announced: u64,
    },
    /// Fewer bytes than announced.
    #[error("ends after {seen} of {announced} bytes")]
    Shorter {
        /// Bytes announced.
        announced: u64,
        /// Bytes that came.
        seen: u64,
    },
    /// The length is right, the content is not.
    #[error("content has SHA-256 {found}, announced was {announced}")]
    Content {
        /// Digest announced.
        announced: Digest,
        /// Digest of what came.
        found: Digest,
    },
    /// The store compared and refused; it does not say more.
    #[error("the store found another checksum or length than announced")]
    RefusedByStore,
}

impl Verifier {
    pub(crate) fn new(expected: Expected) -> Self {
        Self { expected, seen: 0, hash: Sha256::new() }
    }

    /// Takes the next chunk; refuses as soon as there is more than announced.
    pub(crate) fn update(&mut self, chunk: &[u8]) -> Result<(), Difference> {
        self.seen += chunk.len() as u64;
        if self.seen > self.expected.size {
            return Err(Difference::Longer { announced: self.expected.size });
        }
        self.hash.update(chunk);
        Ok(())
    }

    /// Judges the whole.
    pub(crate) fn finish(self) -> Result<(), Difference> {
        let announced = self.expected.size;
        if self.seen < announced {
            return Err(Difference::Shorter { announced, seen: self.seen });
        }
        let found = Digest(self.hash.finalize().into());
        if found != self.expected.sha256 {
            return Err(Difference::Content { announced: self.expected.sha256, found });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spellings_agree() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(digest.to_base64(), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(Digest::from_base64(&digest.to_base64()), Some(digest));
        let json = serde_json::to_string(&digest).expect("a digest is a string");
        assert_eq!(serde_json::from_str::<Digest>(&json).ok(), Some(digest));
    }

    #[test]
    fn only_64_lower_case_hex_digits_are_a_digest() {
        let good = Digest::of(b"x").to_string();
        for bad in ["", "abc", &good.to_uppercase(), &good[1..], &format!("{good}0"), &good.replace('2', "g")] {
            assert_eq!(bad.parse::<Digest>(), Err(InvalidDigest), "{bad}");
        }
    }

    #[test]
    fn a_digest_of_digests_is_not_taken_for_one() {
        assert_eq!(Digest::from_base64(&format!("{}-7", Digest::of(b"").to_base64())), None);
    }

    #[test]
    fn a_stream_is_judged_by_length_and_content() {
        let judge = |announced: &[u8], sent: &[u8]| {
            let mut verifier = Verifier::new(Expected::of(announced));
            sent.chunks(2).try_for_each(|chunk| verifier.update(chunk))?;
            verifier.finish()
        };
        assert_eq!(judge(b"abcd", b"abcd"), Ok(()));
        assert_eq!(judge(b"", b""), Ok(()));
        assert_eq!(judge(b"abcd", b"abc"), Err(Difference::Shorter { announced: 4, seen: 3 }));
        assert_eq!(judge(b"abcd", b"abcde"), Err(Difference::Longer { announced: 4 }));
        assert!(matches!(judge(b"abcd", b"abcx"), Err(Difference::Content { .. })));
    }
}
