//! A stream cut into pieces of one size, verified as it passes: what every backend does that uploads in parts.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::Fuse;

use super::Incoming;
use super::digest::{Difference, Expected, Verifier};
use super::error::StoreError;

/// What is left to send. Holds one piece and one chunk of the sender's.
pub(super) struct Pieces<'a> {
    key: &'a str,
    /// May be asked again after its end, which a request's body must not be.
    bytes: Fuse<Incoming<'a>>,
    rest: Bytes,
    verifier: Verifier,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(key: &'a str, bytes: Incoming<'a>, expected: Expected) -> Self {
        Self { key, bytes: bytes.fuse(), rest: Bytes::new(), verifier: Verifier::new(expected) }
    }

    /// The next `size` bytes, or what is left; empty at the end.
    ///
    /// # Errors
    /// [`StoreError::Interrupted`] by the sender; [`StoreError::Altered`] as soon as there are more than announced.
    pub(super) async fn next(&mut self, size: u64) -> Result<Bytes, StoreError> {
        let size = usize::try_from(size).expect("invariant: a part fits the address space");
        let mut piece = BytesMut::new();
        loop {
            let fits = self.rest.len().min(size - piece.len());
            piece.extend_from_slice(&self.rest.split_to(fits));
            if piece.len() == size {
                return Ok(piece.freeze());
            }
            match self.bytes.next().await {
                None => return Ok(piece.freeze()),
                Some(Err(source)) => return Err(StoreError::Interrupted { key: self.key.to_owned(), source }),
                Some(Ok(chunk)) => {
                    let checked = self.verifier.update(&chunk);
                    checked.map_err(|difference| altered(self.key, difference))?;
                    self.rest = chunk;
                }
            }
        }
    }

    /// Whether all that was announced has passed.
    ///
    /// # Errors
    /// [`StoreError::Altered`] says how it differs.
    pub(super) fn finish(self) -> Result<(), StoreError> {
        self.verifier.finish().map_err(|difference| altered(self.key, difference))
    }

    /// All of it in one piece, verified: for what is small.
    ///
    /// # Errors
    /// As [`Pieces::next`] and [`Pieces::finish`].
    pub(super) async fn whole(mut self, expected: Expected) -> Result<Bytes, StoreError> {
        // One byte more than announced, so that a longer stream is read to where it shows.
        let whole = self.next(expected.size + 1).await?;
        self.finish()?;
        Ok(whole)
    }
}

fn altered(key: &str, difference: Difference) -> StoreError {
    StoreError::Altered { key: key.to_owned(), difference }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_is_not_asked_again_after_its_end() {
        // Panics when it is, as the body of a request does.
        let body =
            futures::stream::unfold(0..3u8, |mut left| async { Some((Ok(Bytes::from(vec![left.next()?])), left)) });
        let mut pieces = Pieces::new("key", body.boxed(), Expected::of(&[0, 1, 2]));
        assert_eq!(pieces.next(2).await.expect("a piece")[..], [0, 1]);
        assert_eq!(pieces.next(2).await.expect("the rest")[..], [2]);
        assert!(pieces.next(2).await.expect("nothing").is_empty());
        pieces.finish().expect("as announced");
    }
}
