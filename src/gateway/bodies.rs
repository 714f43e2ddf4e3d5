//! How many bytes of JSON bodies are in memory, from the first one that arrives until the call is answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;

use super::audit::Trail;
use super::problem::Refusal;

/// Bytes of all callers.
const TOTAL: usize = 64 << 20;
/// Bytes of one caller: a person, or all pods of a namespace.
const PER_CALLER: usize = 16 << 20;
/// Longest time for a body to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(20);

/// Bytes by caller, and how long they may take.
#[derive(Clone, Debug)]
pub(crate) struct Bodies {
    taken: Arc<Mutex<HashMap<String, usize>>>,
    within: Duration,
}

impl Default for Bodies {
    fn default() -> Self {
        Self { taken: Arc::default(), within: ARRIVES_WITHIN }
    }
}

/// What a call holds; in its extensions.
#[derive(Clone, Debug, Default)]
struct Held(Arc<Mutex<Option<Share>>>);

/// Bytes of one call, given back when this is dropped.
#[derive(Debug)]
struct Share {
    bodies: Bodies,
    caller: String,
    bytes: usize,
}

impl Bodies {
    /// Takes so many bytes more, if there is room.
    fn grow(&self, share: &mut Share, by: usize) -> Result<(), Refusal> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = taken.values().sum();
        let own = taken.entry(share.caller.clone()).or_default();
        if total + by > TOTAL || *own + by > PER_CALLER {
            return Err(Refusal::Crowded);
        }
        *own += by;
        share.bytes += by;
        Ok(())
    }

    /// Reads a body of at most `max` bytes. The share is held until the call is answered.
    ///
    /// # Errors
    /// It is larger, slow, or breaks off; or there is no room for it now.
    pub(crate) async fn read(&self, request: Request, max: usize) -> Result<Vec<u8>, Refusal> {
        let caller = request.extensions().get::<Trail>().and_then(Trail::caller).unwrap_or_default();
        let held = request.extensions().get::<Held>().cloned().unwrap_or_default();
        let share = Share { bodies: self.clone(), caller, bytes: 0 };
        let reading = self.collect(request.into_body(), max, share);
        let (bytes, share) =
            tokio::time::timeout(self.within, reading).await.map_err(|_| Refusal::BodySlow(self.within))??;
        *held.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(share);
        Ok(bytes)
    }

    async fn collect(&self, body: Body, max: usize, mut share: Share) -> Result<(Vec<u8>, Share), Refusal> {
        let (mut bytes, mut chunks) = (Vec::new(), body.into_data_stream());
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| Refusal::BadRequest(format!("the body broke off: {error}")))?;
            if bytes.len() + chunk.len() > max {
                return Err(Refusal::BodyTooLarge { max });
            }
            self.grow(&mut share, chunk.len())?;
            bytes.extend_from_slice(&chunk);
        }
        Ok((bytes, share))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.bodies.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.caller) {
            *own -= self.bytes;
            if *own == 0 {
                taken.remove(&self.caller);
            }
        }
    }
}

/// Holds what the call reads until it is answered.
pub(crate) async fn hold(mut request: Request, next: Next) -> Response {
    let held = Held::default();
    request.extensions_mut().insert(held.clone());
    let response = next.run(request).await;
    drop(held);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(who: &str, body: Body) -> (Request, Held) {
        let (trail, held) = (Trail::default(), Held::default());
        trail.who(who);
        let mut request = Request::new(body);
        request.extensions_mut().insert(trail);
        request.extensions_mut().insert(held.clone());
        (request, held)
    }

    #[tokio::test]
    async fn a_caller_has_a_share_and_all_together_have_an_end() {
        let bodies = Bodies::default();
        let mut held = Vec::new();
        let mut taken = async |who: &str| {
            let mut taken = 0;
            loop {
                let (request, kept) = request(who, Body::from(vec![b' '; 4 << 20]));
                match bodies.read(request, 4 << 20).await {
                    Ok(_) => (taken += 1, held.push(kept)).0,
                    Err(Refusal::Crowded) => return taken,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        assert_eq!(taken("pod/a/one").await, 4);
        assert_eq!(taken("pod/a/two").await, 0, "the pods of a namespace are one caller");
        assert_eq!((taken("ada").await, taken("tom").await, taken("eve").await), (4, 4, 4));
        assert_eq!(taken("pod/b/one").await, 0);
        held.clear();
        assert!(bodies.taken.lock().expect("no panic").is_empty());
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_is_given_up() {
        let bodies = Bodies { within: Duration::from_millis(50), ..Bodies::default() };
        let begun = futures::stream::iter([Ok::<_, std::io::Error>("{")]).chain(futures::stream::pending());
        let (request, _held) = request("ada", Body::from_stream(begun));
        assert!(matches!(bodies.read(request, 100).await, Err(Refusal::BodySlow(_))));
        assert!(bodies.taken.lock().expect("no panic").is_empty());
    }
}
