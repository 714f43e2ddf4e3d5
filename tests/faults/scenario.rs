//! A scenario is data: a YAML file with what is to come of it, and the manifests to apply.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::ledger::Ledger;
use crate::site::Site;
use crate::support::{Namespace, root, run, until};

/// Its first document.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    /// AsyncTask → the state it ends in, or `Gone`.
    expect: BTreeMap<String, String>,
    /// What somebody does meanwhile, one after the other.
    #[serde(default)]
    acts: Vec<Act>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Act {
    /// AsyncTask → the state it has to be in before.
    once: BTreeMap<String, String>,
    /// What the ledger has to say before: `task step attempt`.
    #[serde(default)]
    ran: Option<String>,
    /// Arguments of kubectl.
    kubectl: String,
}

/// What is done, and what is to come of it.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    head: Head,
    manifests: String,
}

impl Scenario {
    /// Reads `scenarios/NAME.yaml`.
    pub(crate) fn read(name: &'static str, site: &Site) -> Self {
        let file = root().join("tests/faults/scenarios").join(name).with_extension("yaml");
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let text = site.fill_in(&text);
        let (head, manifests) = text.split_once("\n---\n").expect("a scenario begins with what to expect of it");
        let head = serde_yaml_ng::from_str(head).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        Self { name, head, manifests: manifests.to_owned() }
    }

    /// Applies the manifests, all at once.
    pub(crate) fn begin(&self, ns: &Namespace) {
        ns.apply(&self.manifests).ok();
    }

    /// Does what somebody does meanwhile.
    pub(crate) fn act(&self, ns: &Namespace, ledger: &Ledger) {
        for act in &self.head.acts {
            reach(ns, &act.once);
            if let Some(line) = &act.ran {
                until(&format!("{line} of {} runs", ns.name), || {
                    ledger.runs(&ns.name).contains_key(line).then_some(())
                });
            }
            let args = act.kubectl.split_whitespace();
            run(std::process::Command::new("kubectl").args(["-n", &ns.name]).args(args), None).ok();
        }
    }

    /// Waits for the end of every task.
    pub(crate) fn end(&self, ns: &Namespace) {
        reach(ns, &self.head.expect);
    }

    /// A task whose end is waited for.
    pub(crate) fn task(&self) -> &str {
        self.head.expect.keys().next().expect("a scenario has a task")
    }
}

#[track_caller]
fn reach(ns: &Namespace, states: &BTreeMap<String, String>) {
    for (task, state) in states {
        until(&format!("{task} of {} is {state}", ns.name), || {
            let object = ns.get("asynctask", task);
            let now = if object.is_null() { "Gone" } else { object["status"]["state"].as_str().unwrap_or("New") };
            (now == state).then_some(())
        });
    }
}

#[test]
fn the_definitions_of_all_scenarios_can_be_run() {
    use asynctask_operator::api::TaskDefinition;
    use asynctask_operator::plan::definition::validate;
    use serde::Deserialize;

    for file in std::fs::read_dir(root().join("tests/faults/scenarios")).unwrap() {
        let file = file.unwrap().path();
        let text = std::fs::read_to_string(&file).unwrap();
        for document in serde_yaml_ng::Deserializer::from_str(&text).skip(1) {
            let object = serde_json::Value::deserialize(document).unwrap();
            if object["kind"] == "TaskDefinition" {
                let definition: TaskDefinition = serde_json::from_value(object).unwrap();
                let valid = validate(&definition.spec).map(drop);
                assert_eq!(valid, Ok(()), "{}", file.display());
            }
        }
    }
}
