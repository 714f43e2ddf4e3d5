//! People behind a proxy that signs them in, such as oauth2-proxy.
//!
//! The proxy signs in as itself, with a token or a client certificate of the cluster; only then is its word about the user
//! taken. What it says is prefixed, so that no name it passes on can be one of the cluster's own.

use std::sync::Arc;

use axum::http::HeaderMap;

use super::identity::{AUTHENTICATED, Person};
use super::problem::Refusal;

/// The user the proxy has signed in.
const USER: &str = "x-forwarded-user";
/// Their groups, separated by commas.
const GROUPS: &str = "x-forwarded-groups";
/// Longest name, and most groups, that are passed on.
const NAME_MAX: usize = 253;
const GROUPS_MAX: usize = 256;
/// Names the cluster keeps for itself begin with this.
const RESERVED: &str = "system:";

/// A proxy whose word about users is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedProxy {
    user: String,
    user_prefix: String,
    group_prefix: String,
}

/// A setting that would let a proxy speak for the cluster's own users.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{setting} must be 1 to 64 visible ASCII characters that do not begin with {RESERVED:?}: without it a user of the proxy could have the name of one of the cluster"
)]
pub struct InvalidProxy {
    setting: &'static str,
}

impl TrustedProxy {
    /// `user` is who the proxy signs in as at this cluster; the prefixes come before every user and group it names.
    ///
    /// # Errors
    /// A prefix that is empty or reserved.
    pub fn new(user: String, user_prefix: String, group_prefix: String) -> Result<Self, InvalidProxy> {
        for (setting, prefix) in [("--proxy-user-prefix", &user_prefix), ("--proxy-group-prefix", &group_prefix)] {
            let visible = prefix.bytes().all(|byte| byte.is_ascii_graphic());
            if !(1..=64).contains(&prefix.len())
                || !visible
                || prefix.starts_with(RESERVED)
                || RESERVED.starts_with(prefix.as_str())
            {
                return Err(InvalidProxy { setting });
            }
        }
        Ok(Self { user, user_prefix, group_prefix })
    }

    fn person(&self, headers: &HeaderMap) -> Result<Person, Refusal> {
        let user = one(headers, USER)?.ok_or_else(|| {
            Refusal::Misnamed(format!(
                "the proxy has signed in, but named no user: it has to pass on who calls in the header {USER}"
            ))
        })?;
        let groups = one(headers, GROUPS)?.unwrap_or_default();
        let groups: Vec<&str> = groups.split(',').map(str::trim).filter(|group| !group.is_empty()).collect();
        if groups.iter().chain([&user]).any(|name| name.starts_with(RESERVED)) {
            return Err(Refusal::Misnamed(format!(
                "the proxy named a user or a group that begins with {RESERVED:?}: such names are the cluster's own, and no \
                 proxy may give them"
            )));
        }
        if groups.len() > GROUPS_MAX || groups.iter().chain([&user]).any(|name| name.len() > NAME_MAX) {
            return Err(Refusal::Misnamed(format!(
                "the proxy named more than {GROUPS_MAX} groups, or a name of more than {NAME_MAX} characters"
            )));
        }
        let groups = groups.iter().map(|group| format!("{}{group}", self.group_prefix));
        Ok(Person {
            user: format!("{}{user}", self.user_prefix),
            groups: groups.chain([AUTHENTICATED.to_owned()]).collect(),
            ..Person::default()
        })
    }
}

/// The one value of a header; twice, or unreadable, is nobody's.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let odd = || Refusal::Misnamed(format!("the proxy has to pass on {name} once, in visible ASCII characters"));
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return if headers.contains_key(name) { Err(odd()) } else { Ok(None) };
    };
    let value = value.to_str().map_err(|_| odd())?.trim();
    Ok((!value.is_empty()).then_some(value))
}

/// Who really calls: the user that the proxy names, when the proxy calls. From anybody else such headers are refused, not
/// passed over: they can only be an attempt, or a proxy that is not set up.
pub(super) fn behind(
    proxy: Option<&TrustedProxy>,
    signed_in: Arc<Person>,
    headers: &HeaderMap,
) -> Result<Arc<Person>, Refusal> {
    match proxy.filter(|proxy| proxy.user == signed_in.user) {
        Some(proxy) => proxy.person(headers).map(Arc::new),
        None if headers.contains_key(USER) || headers.contains_key(GROUPS) => Err(Refusal::Forbidden(format!(
            "the headers {USER} and {GROUPS} are taken from the trusted proxy only, and you are not signed in as it"
        ))),
        None => Ok(signed_in),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy() -> TrustedProxy {
        TrustedProxy::new("proxy".into(), "oidc:".into(), "oidc-group:".into()).expect("valid")
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a header value"));
        }
        headers
    }

    fn from(user: &str, pairs: &[(&'static str, &str)]) -> Result<Arc<Person>, Refusal> {
        let signed_in = Arc::new(Person { user: user.into(), ..Person::default() });
        behind(Some(&proxy()), signed_in, &headers(pairs))
    }

    #[test]
    fn the_proxys_word_is_taken_with_prefixes() {
        let person = from("proxy", &[(USER, "alice@example.org"), (GROUPS, "course-a, staff,")]).expect("named");
        assert_eq!(person.user, "oidc:alice@example.org");
        assert_eq!(person.groups, ["oidc-group:course-a", "oidc-group:staff", AUTHENTICATED]);
    }

    #[test]
    fn the_proxy_itself_is_nobody() {
        for pairs in [&[][..], &[(USER, "")], &[(GROUPS, "staff")], &[(USER, "a"), (USER, "b")]] {
            assert!(matches!(from("proxy", pairs), Err(Refusal::Misnamed(_))), "{pairs:?}");
        }
    }

    #[test]
    fn names_of_the_cluster_are_refused() {
        for pairs in [[(USER, "system:admin"), (GROUPS, "")], [(USER, "alice"), (GROUPS, "staff,system:masters")]] {
            assert!(matches!(from("proxy", &pairs), Err(Refusal::Misnamed(_))), "{pairs:?}");
        }
        for (users, groups) in
            [("", "g:"), ("u:", ""), ("system:", "g:"), ("u:", "system:x"), ("sys", "g:"), ("u :", "g:")]
        {
            assert!(TrustedProxy::new("proxy".into(), users.into(), groups.into()).is_err(), "{users:?} {groups:?}");
        }
    }

    #[test]
    fn from_anybody_else_the_headers_are_refused() {
        assert!(matches!(from("eve", &[(USER, "alice")]), Err(Refusal::Forbidden(_))));
        assert!(matches!(from("eve", &[(GROUPS, "staff")]), Err(Refusal::Forbidden(_))));
        assert_eq!(from("eve", &[]).expect("herself").user, "eve");
        let eve = Arc::new(Person { user: "eve".into(), ..Person::default() });
        assert!(behind(None, eve, &headers(&[(USER, "alice")])).is_err(), "also where no proxy is set up");
    }
}
