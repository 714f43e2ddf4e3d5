//! The listener itself: a certificate renewed while it serves, a user who comes with a client certificate.

use std::sync::Arc;

use axum::http::StatusCode;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fake::World;
use crate::connections::Limited;
use crate::{server, tls};
use asynctask_runtime::health::Readiness;
use asynctask_runtime::metrics::Metrics;

const NAME: &str = "asynctask-gateway.asynctask-system.svc";
const LIST: &str = "/api/v1/namespaces/studio/tasks";

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key.
    fn sign(&self, names: &[&str], user: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, user);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.issuer).expect("signed").pem(), key.serialize_pem())
    }
}

fn secret(authority: &Authority) -> Secret {
    let (certificate, key) = authority.sign(&[NAME], "gateway", ExtendedKeyUsagePurpose::ServerAuth);
    let data = [("tls.crt", certificate), ("tls.key", key)];
    let data = data.into_iter().map(|(name, pem)| (name.to_owned(), ByteString(pem.into_bytes()))).collect();
    Secret { data: Some(data), ..Secret::default() }
}

fn client(address: std::net::SocketAddr, trusted: &Authority, identity: Option<(String, String)>) -> reqwest::Client {
    let roots = reqwest::Certificate::from_pem_bundle(trusted.pem.as_bytes()).expect("PEM");
    let mut builder = reqwest::Client::builder().no_proxy().tls_certs_only(roots).resolve(NAME, address);
    if let Some((certificate, key)) = identity {
        let pem = format!("{certificate}{key}");
        builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).expect("PEM"));
    }
    builder.build().expect("a client")
}

#[tokio::test]
async fn certificates_are_renewed_while_serving_and_known_users_come_in_by_theirs() {
    asynctask_runtime::client::install_crypto_provider();
    let (world, old, new, people) = (World::new(), Authority::new(), Authority::new(), Authority::new());
    let configured = |authority: &Authority| {
        Some(Arc::new(tls::configuration(&secret(authority), Some(&people.pem), NAME).expect("usable").0))
    };
    let (send, receive) = watch::channel(None);
    let (readiness, stop) = (Readiness::new(), CancellationToken::new());
    // A free port: bound, told, released. Of an address that nobody else uses, so that no connection gets it meanwhile.
    let free = std::net::TcpListener::bind("127.77.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let (limited, router) = (Limited::new(&Metrics::new("gateway")), world.router.clone());
    let serving = tokio::spawn(server::serve(free, router, limited, receive, readiness.clone(), stop.clone()));
    while readiness.report().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!readiness.is_ready(), "nothing is served without a certificate");
    send.send_replace(configured(&old));
    while !readiness.is_ready() {
        tokio::task::yield_now().await;
    }
    let url = format!("https://{NAME}:{}{LIST}", free.port());
    let alice = people.sign(&[], "alice", ExtendedKeyUsagePurpose::ClientAuth);
    let known = client(free, &old, Some(alice.clone())).get(&url).send().await.expect("an answer");
    assert_eq!(known.status(), StatusCode::OK, "alice may list");
    let nobody = client(free, &old, None).get(&url).send().await.expect("an answer");
    assert_eq!(nobody.status(), StatusCode::UNAUTHORIZED);
    let stranger = old.sign(&[], "alice", ExtendedKeyUsagePurpose::ClientAuth);
    assert!(client(free, &old, Some(stranger)).get(&url).send().await.is_err(), "signed by somebody else");

    send.send_replace(configured(&new));
    // Taking it up is another task's turn: it is there as soon as a handshake succeeds with the new authority.
    let renewed = loop {
        if let Ok(answer) = client(free, &new, Some(alice.clone())).get(&url).send().await {
            break answer;
        }
    };
    assert_eq!(renewed.status(), StatusCode::OK);
    stop.cancel();
    serving.await.expect("no panic").expect("ended as asked");
    assert!(readiness.report().contains("ending"));
}
