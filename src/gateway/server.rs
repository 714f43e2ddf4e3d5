//! The TLS listener: bounded headers, bounded waits, and an end that lets transfers finish.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsConfig, bind_rustls};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connections::Limited;
use asynctask_runtime::health::Readiness;

/// How long calls in flight may take once the process is to end.
pub const DRAIN: Duration = Duration::from_secs(20);
/// Largest head of a request, in bytes: a token, a certificate's worth of headers, no more.
const HEAD: usize = 64 << 10;
/// Longest time for the head of a request to arrive, also between two requests of a connection.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// What readiness calls it.
const NEED: &str = "listener";

/// The gateway cannot serve.
#[derive(Debug, thiserror::Error)]
#[error("the gateway cannot serve on {address}: {source}")]
pub(crate) struct ServeError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Serves from the first certificate on until `stop`, then drains.
pub(crate) async fn serve(
    address: SocketAddr,
    router: Router,
    limited: Limited,
    mut configured: watch::Receiver<Option<Arc<ServerConfig>>>,
    readiness: Readiness,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    readiness.missing(NEED, "waits for the certificate");
    let first = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        first = configured.wait_for(Option::is_some) => match first {
            Ok(first) => first.clone().expect("invariant: waited for it"),
            // Its keeper has ended, so the process is ending.
            Err(_) => return Ok(()),
        },
    };
    let tls = RustlsConfig::from_config(first);
    let handle = Handle::new();
    let server = bind_rustls(address, tls.clone()).map(|acceptor| acceptor.acceptor(limited));
    let mut server = server.handle(handle.clone()).http1_only();
    server.http_builder().http1().max_buf_size(HEAD).header_read_timeout(HEAD_TIME);
    let mut serving = std::pin::pin!(server.first_request_timeout(HEAD_TIME).serve(router.into_make_service()));
    let mut listening = std::pin::pin!(handle.listening());
    let (mut announced, mut stopping) = (false, false);
    loop {
        tokio::select! {
            ended = &mut serving => return ended.map_err(|source| ServeError { address, source }),
            Some(address) = &mut listening, if !announced => {
                announced = true;
                readiness.met(NEED, address.to_string());
                tracing::info!(%address, "serving");
            }
            Ok(()) = configured.changed() => {
                if let Some(renewed) = configured.borrow_and_update().clone() {
                    tls.reload_from_config(renewed);
                }
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                readiness.missing(NEED, "ending");
                handle.graceful_shutdown(Some(DRAIN));
            }
        }
    }
}
