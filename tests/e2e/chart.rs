//! The chart in the hands of others: as a dependency, rendered by a pipeline, with the values that the book shows.

use std::path::PathBuf;

use serde_json::Value;

use crate::book::{is_values, yaml};
use crate::support::{Said, helm, root};

fn chart() -> PathBuf {
    root().join("charts/asynctask-operator")
}

fn render(more: &[&str]) -> Said {
    let chart = chart();
    helm(&[&["template", "asynctask", chart.to_str().unwrap(), "-n", "asynctask-system"], more].concat())
}

fn objects(said: Said) -> Vec<Value> {
    let text = said.ok();
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    let objects = documents.map(|document| serde::Deserialize::deserialize(document).unwrap());
    objects.filter(|object: &Value| !object.is_null()).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn rendered_without_a_cluster_nothing_is_left_out_in_silence() {
    assert_eq!(of_kind(&objects(render(&["--kube-version", "1.37.0"])), "MutatingAdmissionPolicy").len(), 4);
    assert!(!of_kind(&objects(render(&[])), "MutatingAdmissionPolicy").is_empty());
    let old = render(&["--kube-version", "1.35.0"]).refused();
    assert!(
        old.contains("rendered without a cluster for Kubernetes v1.35.0") && old.contains("--kube-version"),
        "{old}"
    );
    let known = ["--kube-version", "1.35.0", "--api-versions", "asynctask.dev/no-mutating-admission-policies"];
    assert!(of_kind(&objects(render(&known)), "MutatingAdmissionPolicy").is_empty());
}

#[test]
fn another_chart_switches_it_on_and_off() {
    let dir = std::env::temp_dir().join("umbrella");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(
        dir.join("Chart.yaml"),
        format!(
            "apiVersion: v2\nname: platform\nversion: 0.1.0\ndependencies:\n- {{name: asynctask-operator, version: 0.1.0, repository: \
             \"file://{}\", condition: asynctask-operator.enabled}}\n",
            chart().display()
        ),
    )
    .unwrap();
    let values = "global: {imageRegistry: registry.example.org}\nasynctask-operator: {enabled: true, limits: {maxRunning: 50}}\n";
    std::fs::write(dir.join("values.yaml"), values).unwrap();
    let dir = dir.to_str().unwrap();
    helm(&["dependency", "build", dir]).ok();
    let template =
        |more: &[&str]| objects(helm(&[&["template", "platform", dir, "--kube-version", "1.37.0"], more].concat()));
    assert!(template(&[]).len() > 10);
    assert_eq!(template(&["--set", "asynctask-operator.enabled=false"]), Vec::<Value>::new());
}

#[test]
fn every_values_block_of_the_book_renders_to_arguments_that_are_texts() {
    let blocks: Vec<String> = yaml().into_iter().filter(is_values).map(|block| block.text).collect();
    assert!(blocks.len() >= 2, "the book has lost its values: {blocks:?}");
    for (number, block) in blocks.iter().enumerate() {
        let file = std::env::temp_dir().join(format!("book-values-{number}.yaml"));
        std::fs::write(&file, block).unwrap();
        let all = objects(render(&["--kube-version", "1.37.0", "-f", file.to_str().unwrap()]));
        for workload in of_kind(&all, "Deployment") {
            for argument in workload["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap() {
                assert!(argument.is_string(), "{block}\n{argument}");
            }
        }
    }
    let large = [
        "--set",
        "gateway.requestsPerSecond=1000000",
        "--set",
        "gateway.maxRunSize=1099511627776",
        "--kube-version",
        "1.37.0",
    ];
    let all = objects(render(&large));
    let text = serde_json::to_string(&of_kind(&all, "Deployment")).unwrap();
    assert!(text.contains("--requests-per-second=1000000") && text.contains("--max-run-size=1099511627776"), "{text}");
}
