//! What the backends across a network share: how long they wait, whom they trust, what an address may be.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

use super::error::StoreError;

/// A store in the same network answers a SYN at once; a dead address should be known soon.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the request's first byte to the answer's: must leave time to send a part of 16 MiB on a slow link.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Of each call, the first included. Slower retries are the caller's, by [`StoreError::retry_class`].
pub(super) const ATTEMPTS: u32 = 3;
/// Before the second attempt at most; doubled before the third.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(200);

pub(super) fn misconfigured(detail: String) -> StoreError {
    StoreError::Misconfigured { detail }
}

/// Certificates to trust, each as PEM: the public roots come with the binary, so an image without a CA store works and
/// every node trusts the same; the bundle is beside them.
///
/// # Errors
/// [`StoreError::Misconfigured`] names the certificate that is none: an HTTP client would panic on it, long after.
pub(super) fn trusted(bundle: Option<&str>) -> Result<Vec<String>, StoreError> {
    let own = bundle.map(parse_bundle).transpose()?.unwrap_or_default();
    Ok(TLS_SERVER_ROOT_CERTS.iter().chain(&own).map(to_pem).collect())
}

/// A client for requests that were signed: it follows nobody elsewhere, and sends no more than it is told.
///
/// # Errors
/// As [`trusted`].
pub(super) fn http_client(ca_bundle: Option<&str>) -> Result<reqwest::Client, StoreError> {
    require_provider();
    let roots = trusted(ca_bundle)?.join("");
    let unusable = |_| misconfigured("the certificates to trust cannot be used".to_owned());
    let roots = reqwest::Certificate::from_pem_bundle(roots.as_bytes()).map_err(unusable)?;
    let client = reqwest::Client::builder()
        .tls_certs_only(roots)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(ANSWER_TIMEOUT);
    client.build().map_err(unusable)
}

/// HTTP clients take the process's own; fails when there is one already, which is as good.
pub(super) fn require_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn parse_bundle(bundle: &str) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let mut roots = RootCertStore::empty();
    let mut certificates = Vec::new();
    for (number, found) in CertificateDer::pem_slice_iter(bundle.as_bytes()).enumerate() {
        let unusable = |why: String| misconfigured(format!("certificate {} of the CA bundle: {why}", number + 1));
        let certificate = found.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate.clone()).map_err(|error| unusable(error.to_string()))?;
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(misconfigured("the CA bundle holds no PEM certificate".to_owned()));
    }
    Ok(certificates)
}

fn to_pem(certificate: &CertificateDer<'_>) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(certificate))
}

/// Endpoints are shown in messages, so they may hold nothing but an address.
pub(super) fn check_endpoint(endpoint: &str) -> Result<(), StoreError> {
    let address = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    let plain = |address: &str| {
        let address = address.strip_suffix('/').unwrap_or(address);
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (address, None),
        };
        let host_ok = !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'[' | b']' | b':' | b'_'));
        host_ok && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
    };
    match address {
        Some(address) if plain(address) => Ok(()),
        _ => Err(misconfigured("the endpoint must be http(s)://host[:port], without user, path or query".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::check_endpoint;

    #[test]
    fn endpoints_are_addresses_and_nothing_else() {
        for good in
            ["http://h", "https://s3.example.org", "http://10.0.0.1:8333/", "http://[::1]:9000", "http://[fd00::1]"]
        {
            assert!(check_endpoint(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "h:1",
            "ftp://h",
            "https://",
            "https://u:p@h",
            "http://h/x",
            "http://h?x=1",
            "http://h:0",
            "http://h:x",
        ] {
            let error = check_endpoint(bad).expect_err(bad);
            assert_eq!(error.reason(), "InvalidConfiguration");
            assert!(bad.len() < 5 || !error.to_string().contains(bad), "a refused endpoint may hold a password");
        }
    }
}
