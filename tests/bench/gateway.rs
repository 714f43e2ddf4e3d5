//! The gateway on one core: how many downloads it decides and signs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use asynctask_operator::storage::Layout;
use asynctask_operator::storage::s3::{Keys, S3Options, S3Store};
use serde_json::json;

use crate::figures::{Figures, Row, percentile};
use crate::process::{cpu, peak};
use crate::seaweedfs::{Seaweed, SeaweedOptions};
use crate::site::{Site, pin};
use crate::sizes::{host, number};
use crate::stand_in::{PREFIX, StandIn, Voice};
use crate::support::{Namespace, SYSTEM, get, kubectl_in, until};
use crate::work::{clear, create_all, define, of, task, task_is_over, until_all};

const STORE: &str = "bench-s3";
/// Connections that ask at the same time.
const TOGETHER: usize = 8;
/// Of somebody who may read outputs.
const ROLE: &str = "asynctask-outputs";

/// Measures with a core for the gateway, and one for all else.
pub(crate) fn measure(site: &Site, figures: &mut Figures) {
    let seaweed = Seaweed::start(&SeaweedOptions { bind_ip: host(), ..SeaweedOptions::default() });
    let options = options(&seaweed);
    declare(&options);
    let ns = Namespace::new("downloads");
    let outputs = json!([{"name": "report", "step": "work", "path": "report.txt", "visibility": "Namespace"}]);
    define(&ns, "one", json!({}), json!({"store": STORE, "outputs": outputs}));
    let store = Arc::new(S3Store::new(options).unwrap());
    let voice = Voice::Store { store, layout: Layout::new(PREFIX).unwrap(), output: Some("report") };
    let hand = StandIn::begin(site, &ns.name, voice);
    site.runtime.block_on(async {
        create_all(&of(site, &ns), [task("t", "one")]).await;
        until_all(of(site, &ns), 1, task_is_over).await;
    });
    drop(hand);
    let url = site.url(&format!("/api/v1/namespaces/{}/tasks/t/outputs/report/files/0/download", ns.name));
    let token = reader(&ns);

    let (gateway, us) = (site.gateway_pid(), std::process::id());
    pin(gateway, "0");
    pin(us, "1");
    let seconds = number("BENCH_GATEWAY_SECONDS", 20) as u64;
    // Once to warm up connections and caches.
    site.runtime.block_on(ask(site, &url, &token, Duration::from_secs(2)));
    let before = cpu(gateway);
    let times = site.runtime.block_on(ask(site, &url, &token, Duration::from_secs(seconds)));
    let spent = cpu(gateway) - before;
    pin(gateway, "0-1");
    pin(us, "0-1");

    let decided = times.len() as f64;
    let rate = decided / seconds as f64;
    figures.add(
        Row::new("downloads", "signed download decisions per second, gateway kept on one core", "/ s", vec![rate])
            .at_least(1000.0),
    );
    figures
        .add(Row::new("downloads-p99", "their p99, 8 at a time", "ms", vec![percentile(&times, 0.99)]).at_most(20.0));
    figures
        .add(Row::new("downloads-cpu", "decisions per second of its CPU", "", vec![decided / spent]).at_least(1000.0));
    figures.add(Row::new("gateway-peak", "most memory of the gateway so far", "MiB", vec![peak(gateway)]).steady());
    clear(site, ns);
}

fn options(seaweed: &Seaweed) -> S3Options {
    S3Options {
        endpoint: Some(seaweed.endpoint.clone()),
        public_endpoint: None,
        region: "bench".to_owned(),
        bucket: seaweed.bucket.clone(),
        path_style: true,
        keys: Some(Keys::new(&*seaweed.access_key, &*seaweed.secret_key)),
        ca_bundle: None,
        encryption: None,
        signs: true,
    }
}

fn declare(options: &S3Options) {
    let keys = options.keys.as_ref().expect("the store has keys");
    let documents = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": STORE, "namespace": SYSTEM},
         "stringData": {"accessKeyId": keys.access_key_id, "secretAccessKey": keys.secret_access_key}},
        {"apiVersion": "asynctask.dev/v1alpha1", "kind": "OutputStore", "metadata": {"name": STORE},
         "spec": {"s3": {"endpoint": options.endpoint, "bucket": options.bucket, "pathStyle": true,
                  "credentialsSecret": {"name": STORE}}}},
    ]});
    kubectl_in(&["apply"], &documents.to_string()).ok();
    until("the S3 store is Ready", || {
        let status = get(&["outputstore", STORE])["status"].clone();
        status["conditions"].as_array()?.iter().any(|c| c["type"] == "Ready" && c["status"] == "True").then_some(())
    });
}

/// A token of somebody who may download here.
fn reader(ns: &Namespace) -> String {
    let account = format!("--serviceaccount={}:reader", ns.name);
    ns.kubectl(&["create", "serviceaccount", "reader"]).ok();
    ns.kubectl(&["create", "role", ROLE, "--verb=get", "--resource=asynctasks.asynctask.dev/outputs"]).ok();
    ns.kubectl(&["create", "rolebinding", "reader", &format!("--role={ROLE}"), &account]).ok();
    ns.kubectl(&["create", "token", "reader"]).ok().trim().to_owned()
}

/// Milliseconds of each answer.
async fn ask(site: &Site<'_>, url: &str, token: &str, time: Duration) -> Vec<f64> {
    let until = Instant::now() + time;
    let asked = (0..TOGETHER).map(|_| {
        let (http, url, token) = (site.http(), url.to_owned(), token.to_owned());
        tokio::spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < until {
                let began = Instant::now();
                let answer = http.get(&url).bearer_auth(&token).send().await.unwrap();
                assert_eq!(answer.status(), 303, "{:?}", answer.text().await);
                times.push(began.elapsed().as_secs_f64() * 1000.0);
            }
            times
        })
    });
    futures::future::join_all(asked).await.into_iter().flat_map(Result::unwrap).collect()
}
