//! How many connections there may be: in all, and from one address.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum_server::accept::Accept;
use prometheus_client::metrics::counter::Counter;
use tokio::net::TcpStream;
use tower::Service;

use asynctask_runtime::metrics::Metrics;

/// Connections at a time; each costs some 40 KiB.
const TOTAL: usize = 2048;
/// Of one address: a proxy in front of us, or a node that all clients outside the cluster seem to come from, has many.
const PER_ADDRESS: usize = 512;

/// Lets connections in while there is room.
#[derive(Clone, Debug)]
pub(crate) struct Limited {
    there: Arc<Mutex<HashMap<IpAddr, usize>>>,
    refused: Counter,
}

impl Limited {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let refused = Counter::default();
        let help = "Connections closed at once because there were too many, in all or from one address";
        metrics.register("connections_refused", help, refused.clone());
        Self { there: Arc::default(), refused }
    }

    fn enter(&self, address: IpAddr) -> Option<ConnectionPermit> {
        let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = there.values().sum();
        let own = there.get(&address).copied().unwrap_or_default();
        if total >= TOTAL || own >= PER_ADDRESS {
            self.refused.inc();
            return None;
        }
        there.insert(address, own + 1);
        Some(ConnectionPermit { there: Arc::clone(&self.there), address })
    }
}

/// One connection, given back when this is dropped.
#[derive(Debug)]
struct ConnectionPermit {
    there: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = there.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                there.remove(&self.address);
            }
        }
    }
}

/// What answers the calls of a connection, and its permit.
#[derive(Clone, Debug)]
pub(crate) struct Permitted<S> {
    service: S,
    _permit: Arc<ConnectionPermit>,
}

impl<R, S: Service<R>> Service<R> for Permitted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.service.call(request)
    }
}

impl<S> Accept<TcpStream, S> for Limited {
    type Stream = TcpStream;
    type Service = Permitted<S>;
    type Future = Ready<io::Result<(TcpStream, Permitted<S>)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let permit = stream.peer_addr().map(|peer| self.enter(peer.ip()));
        ready(permit.and_then(|permit| match permit {
            Some(permit) => Ok((stream, Permitted { service, _permit: Arc::new(permit) })),
            None => Err(io::Error::other("there are too many connections")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_room_for_others_and_all_together_have_an_end() {
        let limited = Limited::new(&Metrics::new("gateway"));
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let of_one: Vec<ConnectionPermit> = std::iter::from_fn(|| limited.enter(address(1))).collect();
        assert_eq!(of_one.len(), PER_ADDRESS);
        let others: Vec<ConnectionPermit> =
            (2..=20).flat_map(|n| std::iter::from_fn(|| limited.enter(address(n))).collect::<Vec<_>>()).collect();
        assert_eq!(of_one.len() + others.len(), TOTAL);
        assert!(limited.refused.get() > 0);
        drop(of_one);
        assert!(limited.enter(address(9)).is_some());
        drop(others);
        assert!(limited.there.lock().expect("no panic").is_empty());
    }
}
