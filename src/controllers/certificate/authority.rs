//! Minting and reading certificates: pure but for the random numbers of keys.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, date_time_ymd,
};
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Life of the authority.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * DAY.as_secs());
/// Life of the gateway's certificate.
const LEAF_LIFE: Duration = Duration::from_secs(90 * DAY.as_secs());
/// Certificates begin this long before they are made, for clocks that are late.
const SKEW: Duration = Duration::from_secs(3600);

/// A certificate cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("a certificate cannot be made: {0}")]
pub(super) struct MintError(#[from] rcgen::Error);

/// The operator's own certificate authority.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Authority {
    /// Self-signed root, PEM.
    pub(super) root: String,
    /// Its key, PEM.
    pub(super) key: String,
    /// After a rotation: what came before.
    pub(super) previous: Option<Previous>,
}

/// What bridges a rotation: pods that started before it know the old root only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Previous {
    /// The old root, PEM.
    pub(super) root: String,
    /// The new authority's key, certified by the old one, PEM. Sent along with the gateway's certificate, it lets
    /// those who know only the old root verify it.
    pub(super) cross: String,
}

/// The gateway's certificate.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    /// The certificate and, after a rotation, the bridge to the old root, PEM.
    pub(super) chain: String,
    /// Its key, PEM.
    pub(super) key: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("root", &self.root).field("previous", &self.previous).finish_non_exhaustive()
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// What matters of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    /// DNS names it is good for.
    pub(super) names: BTreeSet<String>,
    /// Subject and issuer in DER. Every authority of ours has its own name, so equal means the same.
    pub(super) subject: Vec<u8>,
    pub(super) issuer: Vec<u8>,
    public_key: Vec<u8>,
}

impl Facts {
    /// Reads the first certificate of a PEM text; `None` when there is none.
    pub(super) fn read(pem: &str) -> Option<Self> {
        let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
        let certificate = pem.parse_x509().ok()?;
        Some(Self {
            not_before: Timestamp::from_second(certificate.validity().not_before.timestamp()).ok()?,
            not_after: Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?,
            names: dns_names(&certificate),
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            public_key: certificate.public_key().raw.to_vec(),
        })
    }

    /// Whether this PEM key is the one the certificate speaks of.
    pub(super) fn belongs_to(&self, key: &str) -> bool {
        KeyPair::from_pem(key).is_ok_and(|key| key.subject_public_key_info() == self.public_key)
    }

    /// Two thirds into its life: time for the next one, with a third left for things to go wrong in.
    pub(super) fn renew_at(&self) -> Timestamp {
        let life = self.not_before.until(self.not_after).unwrap_or_default();
        let seconds = life.total(k8s_openapi::jiff::Unit::Second).unwrap_or_default();
        let two_thirds = Duration::try_from_secs_f64(seconds * 2.0 / 3.0).unwrap_or_default();
        self.not_before.checked_add(two_thirds).unwrap_or(self.not_after)
    }
}

fn dns_names(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return BTreeSet::new() };
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(dns).collect()
}

impl Authority {
    /// A new authority that nothing trusts yet.
    pub(super) fn create(now: Timestamp) -> Result<Self, MintError> {
        let key = KeyPair::generate()?;
        let root = root_params(&key, now).self_signed(&key)?;
        Ok(Self { root: root.pem(), key: key.serialize_pem(), previous: None })
    }

    /// The authority that follows this one, trusted by those who trust this one.
    pub(super) fn succeed(&self, now: Timestamp) -> Result<Self, MintError> {
        let key = KeyPair::generate()?;
        let mut params = root_params(&key, now);
        let root = params.self_signed(&key)?;
        params.use_authority_key_identifier_extension = true;
        let cross = params.signed_by(&key, &self.issuer()?)?;
        let previous = Previous { root: self.root.clone(), cross: cross.pem() };
        Ok(Self { root: root.pem(), key: key.serialize_pem(), previous: Some(previous) })
    }

    /// A certificate for a TLS server of these names.
    pub(super) fn issue(&self, names: &BTreeSet<String>, now: Timestamp) -> Result<Leaf, MintError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?;
        params.distinguished_name = named("asynctask-gateway");
        live(&mut params, now, LEAF_LIFE);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let mut chain = params.signed_by(&key, &self.issuer()?)?.pem();
        chain.extend(self.living_previous(now).map(|previous| previous.cross.as_str()));
        Ok(Leaf { chain, key: key.serialize_pem() })
    }

    /// Everything a client has to trust, PEM.
    pub(super) fn bundle(&self, now: Timestamp) -> String {
        let mut bundle = self.root.clone();
        bundle.extend(self.living_previous(now).map(|previous| previous.root.as_str()));
        bundle
    }

    fn living_previous(&self, now: Timestamp) -> Option<&Previous> {
        self.previous.as_ref().filter(|previous| Facts::read(&previous.root).is_some_and(|old| now < old.not_after))
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, MintError> {
        Ok(Issuer::from_ca_cert_pem(&self.root, KeyPair::from_pem(&self.key)?)?)
    }
}

fn root_params(key: &KeyPair, now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    // The name carries the key's digest: two roots of ours never share a name.
    let id = hex::encode(&Sha256::digest(key.subject_public_key_info())[..8]);
    params.distinguished_name = named(&format!("asynctask-gateway-ca {id}"));
    live(&mut params, now, AUTHORITY_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Sets when a certificate begins and ends. rcgen counts in a calendar type of its own.
fn live(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let epoch = date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(now.as_second().try_into().unwrap_or_default());
    params.not_before = epoch + now.saturating_sub(SKEW);
    params.not_after = epoch + now + life;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    use k8s_openapi::jiff::Timestamp;
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::crypto::ring::default_provider;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

    use super::{Authority, DAY, Facts, Leaf};

    const NAME: &str = "asynctask-gateway.asynctask-system.svc";

    fn at(day: u64) -> Timestamp {
        Timestamp::from_second(1_800_000_000).expect("in range") + DAY * u32::try_from(day).expect("small")
    }

    fn names() -> BTreeSet<String> {
        [NAME.to_owned(), "localhost".to_owned()].into()
    }

    fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(|c| c.expect("certificate")).collect()
    }

    /// What a TLS client that trusts `bundle` makes of `leaf`.
    fn trusts(bundle: &str, leaf: &Leaf, name: &str, now: Timestamp) -> bool {
        let mut roots = RootCertStore::empty();
        for root in certificates(bundle) {
            roots.add(root).expect("root");
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
        let chain = certificates(&leaf.chain);
        let name = ServerName::try_from(name.to_owned()).expect("name");
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().try_into().expect("positive")));
        verifier.build().expect("verifier").verify_server_cert(&chain[0], &chain[1..], &name, &[], time).is_ok()
    }

    #[test]
    fn a_client_that_trusts_the_authority_trusts_the_leaf_by_its_names_only() {
        let authority = Authority::create(at(0)).expect("authority");
        let leaf = authority.issue(&names(), at(0)).expect("leaf");
        assert!(trusts(&authority.bundle(at(0)), &leaf, NAME, at(1)));
        assert!(!trusts(&authority.bundle(at(0)), &leaf, "elsewhere.example", at(1)));
        assert!(!trusts(&authority.bundle(at(0)), &leaf, NAME, at(91)), "it must end");
        let stranger = Authority::create(at(0)).expect("authority");
        assert!(!trusts(&stranger.bundle(at(0)), &leaf, NAME, at(1)));
    }

    #[test]
    fn after_a_rotation_pods_of_before_and_after_both_trust_the_gateway() {
        let old = Authority::create(at(0)).expect("authority");
        let new = old.succeed(at(2500)).expect("successor");
        let leaf = new.issue(&names(), at(2500)).expect("leaf");
        assert!(trusts(&old.bundle(at(0)), &leaf, NAME, at(2501)), "a pod of before");
        assert!(trusts(&new.root, &leaf, NAME, at(2501)), "one that trusts the new root alone");
        assert_eq!(certificates(&new.bundle(at(2501))).len(), 2);
        assert_eq!(certificates(&new.bundle(at(3651))).len(), 1, "an expired root is dropped");
        assert_eq!(certificates(&new.issue(&names(), at(3651)).expect("leaf").chain).len(), 1);
    }

    #[test]
    fn facts_are_read_from_the_pem() {
        let authority = Authority::create(at(0)).expect("authority");
        let leaf = authority.issue(&names(), at(0)).expect("leaf");
        let root = Facts::read(&authority.root).expect("root");
        let facts = Facts::read(&leaf.chain).expect("leaf");
        assert_eq!(facts.names, names());
        assert_eq!(facts.issuer, root.subject);
        assert!(facts.belongs_to(&leaf.key) && !facts.belongs_to(&authority.key) && !facts.belongs_to("nonsense"));
        assert!(facts.renew_at() > at(59) && facts.renew_at() < at(61), "{}", facts.renew_at());
        assert_eq!(Facts::read("nonsense"), None);
    }

    #[test]
    fn keys_do_not_show_in_debug() {
        let authority = Authority::create(at(0)).expect("authority");
        let leaf = authority.issue(&names(), at(0)).expect("leaf");
        assert!(!format!("{authority:?}{leaf:?}").contains("PRIVATE"));
    }
}
