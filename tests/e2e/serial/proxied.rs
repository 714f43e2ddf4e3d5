//! People behind a proxy, with the values that the book shows for them.

use crate::book::{is_values, yaml};
use crate::support::{Namespace, SYSTEM, Upgraded, forget_gateway, http, kubectl};

/// The values of the book that speak of this.
fn block(of: &str) -> String {
    let found = yaml().into_iter().filter(is_values).find(|block| block.text.contains(of));
    found.unwrap_or_else(|| panic!("no block of the book has {of}")).text
}

#[test]
fn the_values_of_the_book_let_people_in_who_signed_in_elsewhere() {
    let ns = Namespace::new("proxied");
    let values = std::env::temp_dir().join("proxied.yaml");
    std::fs::write(&values, format!("{}\n{}\n", block("trustedProxy"), block("cli:"))).unwrap();
    let installed = Upgraded::with(&["-f", values.to_str().unwrap()]);
    forget_gateway();
    // The names are those of the blocks.
    let oauth = Namespace::named("oauth".to_owned());
    oauth.kubectl(&["create", "serviceaccount", "proxy"]).ok();
    let token = |account| format!("Authorization: Bearer {}", oauth.kubectl(&["create", "token", account]).ok().trim());
    let proxy = token("proxy");
    ns.kubectl(&["create", "rolebinding", "alice", "--clusterrole=edit", "--user=oidc:alice@example.org"]).ok();
    ns.kubectl(&["create", "rolebinding", "staff", "--clusterrole=edit", "--group=oidc-group:staff"]).ok();

    let path = format!("/api/v1/namespaces/{}/tasks", ns.name);
    let ask = |token: &str, headers: &[&str]| {
        let headers = headers.iter().flat_map(|header| ["-H", header]);
        http("GET", &path, &["-H", token].into_iter().chain(headers).collect::<Vec<_>>())
    };
    let alice = ask(&proxy, &["X-Forwarded-User: alice@example.org"]);
    assert_eq!(alice.status, 200, "{}", alice.body);
    let bob = ask(&proxy, &["X-Forwarded-User: bob"]);
    assert_eq!(bob.status, 403, "{}", bob.body);
    let of_staff = ask(&proxy, &["X-Forwarded-User: bob", "X-Forwarded-Groups: guests,staff"]);
    assert_eq!(of_staff.status, 200, "{}", of_staff.body);
    for (headers, says) in [(&[][..], "named no user"), (&["X-Forwarded-User: system:admin"], "that begins with")] {
        let refused = ask(&proxy, headers);
        assert_eq!(refused.status, 401, "{}", refused.body);
        assert!(refused.body.contains(says), "{}", refused.body);
    }
    oauth.kubectl(&["create", "serviceaccount", "other"]).ok();
    let other = ask(&token("other"), &["X-Forwarded-User: alice@example.org"]);
    assert_eq!(other.status, 403, "only the proxy is believed: {}", other.body);

    // The command line's port-forward is for the group of the other block.
    let may = ["-n", SYSTEM, "auth", "can-i", "create", "pods", "--subresource=portforward", "--as=somebody"];
    assert_eq!(kubectl(&[&may[..], &["--as-group=oidc-group:staff"]].concat()).out.trim(), "yes");
    assert_eq!(kubectl(&may).out.trim(), "no");
    drop(installed);
    forget_gateway();
}
