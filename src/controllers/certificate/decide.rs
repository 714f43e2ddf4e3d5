//! What has to be done about the gateway's certificate: pure, one act at a time.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;

use super::authority::{Authority, Facts, Previous};

/// Key of the certificate in both Secrets.
pub(super) const CERTIFICATE: &str = "tls.crt";
/// Key of its private key in both Secrets.
pub(super) const KEY: &str = "tls.key";
/// Key of the trusted roots in a Secret that somebody else keeps, and in the ConfigMap.
pub(super) const ROOTS: &str = "ca.crt";
/// Keys of what came before, in the authority's Secret.
pub(super) const PREVIOUS: &str = "previous.crt";
pub(super) const CROSS: &str = "cross.crt";
/// Label that says who keeps an object.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value on ours.
pub(super) const US: &str = "asynctask-operator";

/// The next act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing until `wake_at`; clients trust `bundle`.
    Keep { bundle: String, wake_at: Timestamp },
    /// Nothing at all: somebody else keeps the certificate. Empty when their Secret names no roots: the public ones.
    Foreign { bundle: String },
    /// Make an authority, the successor of this one if there is one.
    MakeAuthority { why: &'static str, succeeds: Option<Authority> },
    /// Issue the gateway's certificate.
    Issue { why: &'static str, authority: Authority },
}

/// Decides on the Secrets as they are.
pub(super) fn decide(
    authority: Option<&Secret>,
    leaf: Option<&Secret>,
    names: &BTreeSet<String>,
    now: Timestamp,
) -> Decision {
    if let Some(leaf) = leaf.filter(|leaf| !is_ours(leaf)) {
        return Decision::Foreign { bundle: text(leaf, ROOTS).unwrap_or_default() };
    }
    let Some(secret) = authority else {
        return Decision::MakeAuthority { why: "there is none", succeeds: None };
    };
    let Some((authority, root)) = read_authority(secret) else {
        return Decision::MakeAuthority { why: "it cannot be read, or its key is not its own", succeeds: None };
    };
    if now >= root.not_after {
        return Decision::MakeAuthority { why: "it has expired", succeeds: None };
    }
    if now >= root.renew_at() {
        return Decision::MakeAuthority { why: "two thirds of its life are over", succeeds: Some(authority) };
    }
    let Some(facts) = leaf.and_then(read_leaf) else {
        return Decision::Issue { why: "there is none that can be read", authority };
    };
    if let Some(why) = flaw(&facts, &root, names, now) {
        return Decision::Issue { why, authority };
    }
    Decision::Keep { bundle: authority.bundle(now), wake_at: facts.renew_at().min(root.renew_at()) }
}

fn flaw(leaf: &Facts, root: &Facts, names: &BTreeSet<String>, now: Timestamp) -> Option<&'static str> {
    if leaf.issuer != root.subject {
        Some("another authority signed it")
    } else if leaf.names != *names {
        Some("it is for other names")
    } else if now >= leaf.renew_at() {
        Some("two thirds of its life are over")
    } else {
        None
    }
}

fn is_ours(secret: &Secret) -> bool {
    secret.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|who| who == US)
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

fn read_authority(secret: &Secret) -> Option<(Authority, Facts)> {
    let (root, key) = (text(secret, CERTIFICATE)?, text(secret, KEY)?);
    let facts = Facts::read(&root).filter(|facts| facts.belongs_to(&key))?;
    let previous = text(secret, PREVIOUS).zip(text(secret, CROSS)).map(|(root, cross)| Previous { root, cross });
    Some((Authority { root, key, previous }, facts))
}

fn read_leaf(secret: &Secret) -> Option<Facts> {
    let (chain, key) = (text(secret, CERTIFICATE)?, text(secret, KEY)?);
    Facts::read(&chain).filter(|facts| facts.belongs_to(&key))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use k8s_openapi::ByteString;
    use k8s_openapi::api::core::v1::Secret;
    use k8s_openapi::jiff::Timestamp;

    use super::{CERTIFICATE, CROSS, Decision, KEY, MANAGED_BY, PREVIOUS, ROOTS, US, decide};
    use crate::certificate::authority::{Authority, Facts, Leaf};

    fn at(day: u32) -> Timestamp {
        Timestamp::from_second(1_800_000_000).expect("in range") + Duration::from_secs(24 * 3600) * day
    }

    fn names(service: &str) -> BTreeSet<String> {
        [service.to_owned()].into()
    }

    fn secret<const N: usize>(data: [(&str, &str); N]) -> Secret {
        let data = data.map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec())));
        let mut secret = Secret { data: Some(data.into()), ..Secret::default() };
        secret.metadata.labels = Some(BTreeMap::from([(MANAGED_BY.to_owned(), US.to_owned())]));
        secret
    }

    fn authority() -> (Authority, Secret) {
        let authority = Authority::create(at(0)).expect("authority");
        let held = secret([(CERTIFICATE, &authority.root), (KEY, &authority.key)]);
        (authority, held)
    }

    fn held(leaf: &Leaf) -> Secret {
        secret([(CERTIFICATE, &leaf.chain), (KEY, &leaf.key)])
    }

    fn why(decision: &Decision) -> &str {
        match decision {
            Decision::MakeAuthority { why, .. } | Decision::Issue { why, .. } => why,
            Decision::Keep { .. } => "keep",
            Decision::Foreign { .. } => "foreign",
        }
    }

    #[test]
    fn what_is_missing_is_made_one_after_the_other_and_then_kept_until_renewal() {
        assert!(matches!(decide(None, None, &names("gw"), at(0)), Decision::MakeAuthority { succeeds: None, .. }));
        let (authority, secret) = authority();
        let issue = decide(Some(&secret), None, &names("gw"), at(0));
        assert!(matches!(&issue, Decision::Issue { authority: by, .. } if *by == authority), "{issue:?}");
        let leaf = authority.issue(&names("gw"), at(0)).expect("leaf");
        let keep = decide(Some(&secret), Some(&held(&leaf)), &names("gw"), at(1));
        let wake_at = Facts::read(&leaf.chain).expect("leaf").renew_at();
        assert_eq!(keep, Decision::Keep { bundle: authority.root, wake_at });
    }

    #[test]
    fn a_leaf_with_a_flaw_is_issued_again() {
        let (authority, secret) = authority();
        let leaf = authority.issue(&names("gw"), at(0)).expect("leaf");
        let other = Authority::create(at(0)).expect("authority").issue(&names("gw"), at(0)).expect("leaf");
        let swapped = Leaf { chain: leaf.chain.clone(), key: other.key.clone() };
        let unreadable = Leaf { chain: "nonsense".to_owned(), key: leaf.key.clone() };
        for (leaf, wanted, day, expected) in [
            (&leaf, "gw", 61, "two thirds of its life are over"),
            (&leaf, "gw", 120, "two thirds of its life are over"),
            (&leaf, "gateway", 1, "it is for other names"),
            (&other, "gw", 1, "another authority signed it"),
            (&swapped, "gw", 1, "there is none that can be read"),
            (&unreadable, "gw", 1, "there is none that can be read"),
        ] {
            let decision = decide(Some(&secret), Some(&held(leaf)), &names(wanted), at(day));
            assert_eq!(why(&decision), expected, "{wanted} on day {day}");
        }
    }

    #[test]
    fn an_ageing_authority_gets_a_successor_that_its_friends_trust() {
        let (old, held_old) = authority();
        let leaf = old.issue(&names("gw"), at(2400)).expect("leaf");
        let rotate = decide(Some(&held_old), Some(&held(&leaf)), &names("gw"), at(2440));
        let Decision::MakeAuthority { succeeds: Some(before), .. } = rotate else { panic!("{rotate:?}") };
        let new = before.succeed(at(2440)).expect("successor");
        let previous = new.previous.as_ref().expect("rotated");
        let held_new = secret([
            (CERTIFICATE, new.root.as_str()),
            (KEY, &new.key),
            (PREVIOUS, &previous.root),
            (CROSS, &previous.cross),
        ]);
        let again = decide(Some(&held_new), Some(&held(&leaf)), &names("gw"), at(2440));
        assert_eq!(why(&again), "another authority signed it");
        let leaf = new.issue(&names("gw"), at(2440)).expect("leaf");
        let keep = decide(Some(&held_new), Some(&held(&leaf)), &names("gw"), at(2441));
        assert!(matches!(&keep, Decision::Keep { bundle, .. } if *bundle == format!("{}{}", new.root, old.root)));
    }

    #[test]
    fn an_expired_or_broken_authority_starts_afresh() {
        let (authority, secret) = authority();
        assert_eq!(why(&decide(Some(&secret), None, &names("gw"), at(3651))), "it has expired");
        let mut broken = secret;
        broken.data.as_mut().expect("data").insert(KEY.to_owned(), ByteString(b"nonsense".to_vec()));
        let decision = decide(Some(&broken), None, &names("gw"), at(1));
        assert!(matches!(decision, Decision::MakeAuthority { succeeds: None, .. }), "{decision:?}");
        drop(authority);
    }

    #[test]
    fn a_certificate_that_somebody_else_keeps_is_left_alone() {
        let mut foreign = secret([(CERTIFICATE, "theirs"), (KEY, "theirs"), (ROOTS, "their root")]);
        foreign.metadata.labels = None;
        let decision = decide(None, Some(&foreign), &names("gw"), at(0));
        assert_eq!(decision, Decision::Foreign { bundle: "their root".to_owned() });
        foreign.data.as_mut().expect("data").remove(ROOTS);
        let decision = decide(None, Some(&foreign), &names("gw"), at(0));
        assert_eq!(decision, Decision::Foreign { bundle: String::new() });
    }
}
