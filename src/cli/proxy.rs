//! Whether a call goes through a proxy: decided as kubectl does it. What the kubeconfig says of a cluster (`proxy-url`) counts without
//! exception; else `HTTPS_PROXY` does, but for what `NO_PROXY` names. Loopback addresses are never proxied.

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::config::Kubeconfig;

/// A proxy's address that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the proxy {value:?} ({source}) is no URL: write http://HOST:PORT or socks5://HOST:PORT", source = .from)]
pub(crate) struct InvalidProxy {
    value: String,
    from: &'static str,
}

/// The environment, as far as it speaks of proxies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    https_proxy: Option<String>,
    no_proxy: Option<String>,
}

impl Environment {
    /// Of this process; what is written in capitals counts before what is not.
    pub(crate) fn of_process() -> Self {
        let first = |names: [&str; 2]| {
            let set = names.into_iter().filter_map(|name| std::env::var(name).ok());
            set.map(|value| value.trim().to_owned()).find(|value| !value.is_empty())
        };
        Self { https_proxy: first(["HTTPS_PROXY", "https_proxy"]), no_proxy: first(["NO_PROXY", "no_proxy"]) }
    }

    /// The proxy of a server.
    pub(crate) fn of(&self, server: &Uri) -> Result<Option<Uri>, InvalidProxy> {
        let Some(proxy) = &self.https_proxy else { return Ok(None) };
        if server.host().is_none_or(is_loopback) {
            return Ok(None);
        }
        let matcher = Matcher::builder().all("http://proxy.invalid").no(self.no_proxy.clone().unwrap_or_default());
        match matcher.build().intercept(server) {
            None => Ok(None),
            Some(_) => parse(proxy, "HTTPS_PROXY").map(Some),
        }
    }
}

/// The proxy of the API server: as the kubeconfig says, else as the environment does.
pub(crate) fn of_cluster(
    server: &Uri,
    kubeconfig: Option<&Kubeconfig>,
    context: Option<&str>,
    environment: &Environment,
) -> Result<Option<Uri>, InvalidProxy> {
    let said = kubeconfig.and_then(|kubeconfig| {
        let context = context.or(kubeconfig.current_context.as_deref())?;
        let context = kubeconfig.contexts.iter().find(|known| known.name == context)?.context.as_ref()?;
        let cluster = kubeconfig.clusters.iter().find(|known| known.name == context.cluster)?.cluster.as_ref()?;
        cluster.proxy_url.clone().filter(|url| !url.is_empty())
    });
    match said {
        Some(url) => parse(&url, "proxy-url of the kubeconfig").map(Some),
        None => environment.of(server),
    }
}

/// Whether a host is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn parse(value: &str, from: &'static str) -> Result<Uri, InvalidProxy> {
    let with_scheme = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let uri = with_scheme.parse::<Uri>().ok().filter(|uri| uri.host().is_some());
    // Without what may be a password.
    let shown = || value.rsplit('@').next().unwrap_or_default().to_owned();
    uri.ok_or_else(|| InvalidProxy { value: shown(), from })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(https_proxy: &str, no_proxy: &str) -> Environment {
        let set = |value: &str| Some(value.to_owned()).filter(|value| !value.is_empty());
        Environment { https_proxy: set(https_proxy), no_proxy: set(no_proxy) }
    }

    #[test]
    fn a_proxy_is_asked_for_what_no_proxy_does_not_name() {
        for (server, https_proxy, no_proxy, proxied) in [
            ("https://api.example.org:6443", "http://proxy:3128", "", true),
            ("https://api.example.org:6443", "proxy:3128", "", true),
            ("https://api.example.org:6443", "", "", false),
            ("https://api.example.org:6443", "http://proxy:3128", "example.org", false),
            ("https://api.example.org:6443", "http://proxy:3128", ".example.org", false),
            ("https://10.1.2.3:6443", "http://proxy:3128", "10.0.0.0/8", false),
            ("https://10.1.2.3:6443", "http://proxy:3128", "10.1.2.3", false),
            ("https://11.1.2.3:6443", "http://proxy:3128", "10.0.0.0/8, other.org", true),
            ("https://api.example.org:6443", "http://proxy:3128", "*", false),
            ("https://127.0.0.1:6443", "http://proxy:3128", "", false),
            ("https://localhost:6443", "http://proxy:3128", "", false),
            ("https://[::1]:6443", "http://proxy:3128", "", false),
        ] {
            let server: Uri = server.parse().expect("a URI");
            let found = environment(https_proxy, no_proxy).of(&server).expect("valid");
            assert_eq!(
                found.map(|uri| uri.to_string()),
                proxied.then(|| "http://proxy:3128/".to_owned()),
                "{server} {no_proxy}"
            );
        }
        let wrong = environment("http://bob:secret@:port:", "").of(&"https://a.b".parse().expect("a URI"));
        let said = wrong.expect_err("no URL").to_string();
        assert!(said.contains("HTTPS_PROXY") && !said.contains("secret"), "{said}");
    }

    #[test]
    fn what_the_kubeconfig_says_counts_without_exception() {
        let kubeconfig = Kubeconfig::from_yaml(
            "{apiVersion: v1, kind: Config, current-context: one, contexts: [{name: one, context: {cluster: a, user: u}}, \
             {name: two, context: {cluster: b, user: u}}], clusters: [{name: a, cluster: {server: 'https://10.1.2.3', proxy-url: \
             'socks5://jump:1080'}}, {name: b, cluster: {server: 'https://10.1.2.4'}}]}",
        )
        .expect("a kubeconfig");
        let server: Uri = "https://10.1.2.3".parse().expect("a URI");
        let of = |context| {
            let found = of_cluster(&server, Some(&kubeconfig), context, &environment("http://proxy:1", "10.1.2.3"));
            found.expect("valid").map(|uri| uri.to_string())
        };
        assert_eq!(of(None), Some("socks5://jump:1080/".to_owned()));
        assert_eq!(of(Some("two")), None);
    }
}
