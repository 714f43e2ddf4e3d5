//! What README, book, examples and the chart's notes tell people to type is typed here, and what they show to apply is applied.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::support::{Namespace, SYSTEM, cli, helm, kubectl, kubectl_in, root, run, script, task};

/// What is done with a command of the book.
enum Typed {
    /// A person with `edit` runs it, with these words in the place of others.
    As(&'static [(&'static str, &'static str)]),
    /// An administrator does.
    Admin(&'static [(&'static str, &'static str)]),
    /// It is not run here: why.
    Not(&'static str),
}
use Typed::{Admin, As, Not};

/// The last word of a run's name, by which what it gave back is found.
const NEWEST: &str =
    "$(kubectl get asynctasks --sort-by=.metadata.creationTimestamp -o jsonpath='{.items[-1:].metadata.name}')";
const UNINSTALL: &str = "it takes everything away: serial::uninstall runs it";

/// Each command, by how it begins, in the order in which they are run. What is not in this list, and what is in it and in no page, fails the test.
const COMMANDS: &[(&str, Typed)] = &[
    (
        "helm install asynctask charts/",
        Not("tests/install.sh runs it before any test, with the images of this checkout"),
    ),
    ("until kubectl create --dry-run=server", As(&[])),
    ("kubectl apply -f definition.yaml -f task.yaml kubectl wait", As(&[("DIR", "manifests/examples/hello-report")])),
    (
        r#"eval "$(make -s cluster-env)""#,
        As(&[(r#"eval "$(make -s cluster-env)""#, ""), ("-n studio", ""), ("NAME", NEWEST), ("make demo-down", "")]),
    ),
    ("kubectl wait --for=condition=Finished", As(&[("Finished", "Finished asynctask/hello-ada")])),
    (
        "kubectl apply -f definition.yaml -f from-a-file.yaml",
        As(&[
            ("DIR", "manifests/examples/bulk-email"),
            ("OUT", "mail"),
            ("watch mail-1", "watch mail-1 || [ $? = 6 ]"),
        ]),
    ),
    ("sed -i 's/", As(&[("OUT", "mail")])),
    ("kubectl asynctask retry mail", As(&[("retry mail", "retry hello-nobody")])),
    (
        "mkdir -p /tmp/run/inputs",
        As(&[
            ("DIR", "manifests/examples/course-outline"),
            ("/tmp/run", "$OUT"),
            ("course.tar.gz", "$OUT/course.tar.gz"),
        ]),
    ),
    (
        "kubectl apply -f definition.yaml id=",
        As(&[("DIR", "manifests/examples/course-outline"), ("course.tar.gz", "$OUT/course.tar.gz")]),
    ),
    ("kubectl apply -f definition.yaml", As(&[("DIR", "manifests/examples/hello-report")])),
    ("python3 -m unittest", Not("`make test` runs it for each example")),
    ("kubectl asynctask lint FILE", As(&[("FILE…", "manifests/examples/*/definition.yaml")])),
    ("kubectl asynctask states", As(&[])),
    ("kubectl asynctask --kubeconfig FILE list", As(&[("FILE", "$KUBECONFIG")])),
    (
        "kubectl create rolebinding ada",
        Admin(&[("rolebinding ada", "rolebinding \"$(basename \"$(dirname \"$OUT\")\")\"")]),
    ),
    ("kubectl asynctask why NAME", As(&[("NAME", "hello-ada")])),
    ("kubectl asynctask history NAME", As(&[("NAME", "hello-ada")])),
    ("kubectl asynctask resume", As(&[("resume", "resume hello-held")])),
    ("kubectl asynctask retention preview", As(&[])),
    ("kubectl asynctask outputs get NAME OUTPUT", As(&[("NAME OUTPUT", "hello-ada report -o $OUT")])),
    ("kubectl asynctask keep NAME --until", As(&[("NAME", "hello-ada")])),
    ("kubectl asynctask outputs rm NAME OUTPUT", As(&[("NAME OUTPUT…", "hello-ada report --yes")])),
    ("kubectl annotate asynctask NAME asynctask.dev/interrupt", Admin(&[("NAME", "hello-ada")])),
    (
        "kubectl annotate asynctask NAME asynctask.dev/abandon-outputs",
        Admin(&[("NAME", "hello-ada"), ("STORE", "trial")]),
    ),
    (
        "kubectl patch asynctask NAME --type=merge",
        Not(
            "it is for an installation whose policies are deleted: as long as they are there the API server refuses it",
        ),
    ),
    ("kubectl get outputstores", Admin(&[])),
    ("kubectl describe job", As(&[])),
    ("kubectl describe pod", As(&[])),
    ("kubectl -n asynctask-system rollout status", Admin(&[])),
    ("podman build", Not("there is no registry here; manifests/images/build.sh builds and loads the same")),
    ("skopeo copy", Not("there is no registry here")),
    ("helm uninstall", Not(UNINSTALL)),
    ("kubectl delete crd", Not(UNINSTALL)),
];

/// A block between fences, or words between backticks.
pub(crate) struct Snippet {
    page: String,
    language: String,
    pub(crate) text: String,
}

/// The YAML blocks of all pages, whole.
pub(crate) fn yaml() -> Vec<Snippet> {
    let of = |page: &PathBuf| {
        let blocks = said(page).0.into_iter().filter(|block| block.language == "yaml");
        blocks.map(|block| Snippet { text: included(page, &block.text), ..block }).collect::<Vec<_>>()
    };
    pages().iter().flat_map(of).collect()
}

/// Whether a block has nothing but keys of the chart at its top.
pub(crate) fn is_values(block: &Snippet) -> bool {
    static KEYS: LazyLock<Value> = LazyLock::new(|| {
        let values = root().join("charts/asynctask-operator/values.yaml");
        serde_yaml_ng::from_str(&std::fs::read_to_string(values).unwrap()).unwrap()
    });
    let top: Result<Value, _> = serde_yaml_ng::from_str(&block.text);
    top.is_ok_and(|top| top.as_object().is_some_and(|top| top.keys().all(|key| KEYS.get(key).is_some())))
}

fn pages() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                walk(&entry, found);
            } else if entry.extension().is_some_and(|extension| extension == "md") {
                found.push(entry);
            }
        }
    }
    let mut found = vec![root().join("README.md")];
    walk(&root().join("docs/src"), &mut found);
    walk(&root().join("manifests/examples"), &mut found);
    found.sort();
    found
}

/// All blocks of a page, and all words between backticks outside of them.
fn said(page: &Path) -> (Vec<Snippet>, Vec<Snippet>) {
    let text = std::fs::read_to_string(page).unwrap();
    let name = page.strip_prefix(root()).unwrap().display().to_string();
    let (mut blocks, mut prose, mut open) = (Vec::new(), String::new(), None::<Snippet>);
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), open.take()) {
            (Some(language), None) => {
                open = Some(Snippet { page: name.clone(), language: language.trim().into(), text: String::new() });
            }
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(mut block)) => {
                block.text.push_str(&format!("{line}\n"));
                open = Some(block);
            }
            (None, None) => prose.push_str(&format!("{line}\n")),
        }
    }
    let inline = prose.split('`').skip(1).step_by(2);
    let inline =
        inline.map(|text| Snippet { page: name.clone(), language: String::new(), text: words(text) }).collect();
    (blocks, inline)
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether it is something to type, as a whole.
fn is_command(text: &str) -> bool {
    let mut words = text.split(' ');
    let (program, more) = (words.next().unwrap_or_default(), words.next());
    ["kubectl", "helm", "skopeo", "python3", "podman", "curl"].contains(&program)
        && more.is_some_and(|word| !["asynctask", "install", "upgrade"].contains(&word) || words.next().is_some())
}

/// What the chart's notes say after an installation.
fn notes() -> Vec<Snippet> {
    let notes = helm(&["get", "notes", "asynctask", "-n", SYSTEM]).ok();
    let commands = notes.lines().filter_map(|line| line.strip_prefix("  kubectl "));
    let of = |command: &str| Snippet {
        page: "NOTES.txt".into(),
        language: String::new(),
        text: format!("kubectl {command}"),
    };
    let found: Vec<Snippet> = commands.map(of).collect();
    assert!(!found.is_empty(), "{notes}");
    found
}

/// Runs it as somebody with this kubeconfig, in the folder that `DIR` names. What it said, if it failed.
fn typed(said: &Snippet, kubeconfig: &Path, replace: &[(&str, &str)], scratch: &Path) -> Option<String> {
    let named = |name: &str| replace.iter().find(|(word, _)| *word == name).map(|(_, value)| *value);
    let out = scratch.join(named("OUT").unwrap_or("out"));
    std::fs::create_dir_all(&out).unwrap();
    let dir = match (named("DIR"), named("OUT")) {
        (None, Some(_)) => out.clone(),
        // What a person fetches goes beside the files of the example, not into the checkout.
        (Some(dir), Some(_)) => {
            let copied =
                run(Command::new("cp").arg("-R").arg(format!("{}/.", root().join(dir).display())).arg(&out), None);
            copied.ok();
            out.clone()
        }
        (dir, None) => root().join(dir.unwrap_or(".")),
    };
    let words = replace.iter().filter(|(word, _)| !["DIR", "OUT"].contains(word));
    let text = words.fold(said.text.clone(), |text, (word, by)| text.replace(word, by));
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &text]).current_dir(dir).env("KUBECONFIG", kubeconfig).env("OUT", &out);
    let done = run(&mut shell, None);
    let told = || format!("{} says:\n{text}\nstdout: {}\nstderr: {}", said.page, done.out, done.err);
    (done.code != 0).then(told)
}

#[test]
fn every_command_is_run_or_it_is_said_why_not() {
    let ns = Namespace::new("typed");
    let scratch = std::env::temp_dir().join(&ns.name);
    std::fs::create_dir_all(scratch.join("out")).unwrap();
    let archives = root().join("tests/e2e/archives.py");
    run(Command::new("python3").arg(archives).arg("course").arg(scratch.join("out/course.tar.gz")), None).ok();
    ns.example("hello-report", None);
    let hello = |name: &str, spec: &str| task(name, "hello-report").replace("spec: {", &format!("spec: {{{spec}, "));
    ns.apply(&hello("hello-held", "suspend: true, parameters: {name: Ada}")).ok();
    ns.apply(&hello("hello-nobody", "parameters: {name: nobody}")).ok();
    assert_eq!(ns.finished("hello-nobody")["state"], "Failed");

    let mut all = notes();
    let mut make = BTreeSet::new();
    for page in pages() {
        let (blocks, inline) = said(&page);
        all.extend(
            blocks
                .into_iter()
                .filter(|block| ["", "sh"].contains(&block.language.as_str()) || block.text.starts_with("kubectl ")),
        );
        make.extend(inline.iter().filter(|said| said.text.starts_with("make ")).map(|said| said.text.clone()));
        all.extend(inline.into_iter().filter(|said| is_command(&said.text)));
    }
    let place = |said: &Snippet| COMMANDS.iter().position(|(begins, _)| words(&said.text).starts_with(begins));
    for said in &all {
        assert!(place(said).is_some(), "{} says `{}`: run it here, or say why it is not", said.page, said.text);
    }
    for (number, (begins, _)) in COMMANDS.iter().enumerate() {
        assert!(
            all.iter().any(|said| place(said) == Some(number)),
            "no page says `{begins}` any more: take it out of the list"
        );
    }
    assert!(make.len() >= 10, "{make:?}");
    // Not `make -n`: lines that call make again are run all the same.
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let rules =
        makefile.lines().filter(|line| !line.starts_with(['\t', '#', '.'])).filter_map(|line| line.split_once(':'));
    let targets: BTreeSet<&str> = rules.flat_map(|(names, _)| names.split_whitespace()).collect();
    for command in make {
        let target = command.split(' ').nth(1).unwrap();
        assert!(targets.contains(target), "the book says `{command}`, and the Makefile has no such target");
    }

    let person = ns.person("ada", Some("edit"));
    let admin = ns.person("root", None);
    let account = format!("--serviceaccount={}:root", ns.name);
    kubectl(&["create", "clusterrolebinding", &ns.name, "--clusterrole=cluster-admin", &account]).ok();
    let (mut done, mut failed) = (BTreeSet::new(), Vec::new());
    all.sort_by_key(place);
    for said in &all {
        let (_, how) = &COMMANDS[place(said).unwrap()];
        // The same in several pages is run once.
        if !done.insert(words(&said.text)) {
            continue;
        }
        match how {
            As(replace) => failed.extend(typed(said, person.kubeconfig(), replace, &scratch)),
            Admin(replace) => failed.extend(typed(said, admin.kubeconfig(), replace, &scratch)),
            Not(why) => println!("not run: {}: {why}", words(&said.text)),
        }
    }
    kubectl(&["delete", "clusterrolebinding", &ns.name]).ok();
    std::fs::remove_dir_all(&scratch).unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn every_yaml_block_is_taken_by_the_api_server() {
    let ns = Namespace::new("blocks");
    let mut seen = [0; 3];
    for block in yaml() {
        let kind = if block.text.contains("apiVersion:") {
            kubectl_in(&["-n", &ns.name, "apply", "--dry-run=server"], &block.text).ok();
            0
        } else if is_values(&block) {
            installs(&block.text);
            1
        } else {
            ns.define("book", &within_a_definition(&block.text));
            2
        };
        seen[kind] += 1;
    }
    assert!(seen.iter().all(|seen| *seen > 0), "objects, values and parts of a definition: {seen:?}");
    let stores = root().join("manifests/examples");
    kubectl(&["-n", &ns.name, "apply", "--dry-run=server", "-R", "-f", stores.to_str().unwrap()]).ok();
}

/// What mdBook puts in the place of `{{#include FILE}}`.
fn included(page: &Path, text: &str) -> String {
    let file = text.trim().strip_prefix("{{#include ").and_then(|rest| rest.strip_suffix("}}"));
    file.map_or_else(
        || text.to_owned(),
        |file| std::fs::read_to_string(page.parent().unwrap().join(file.trim())).unwrap(),
    )
}

/// The API server takes the chart with these values.
fn installs(values: &str) {
    let file = std::env::temp_dir().join("book-values.yaml");
    std::fs::write(&file, values).unwrap();
    let (chart, file) = (root().join("charts/asynctask-operator"), file.display().to_string());
    let chart = chart.display().to_string();
    let upgrade =
        ["upgrade", "asynctask", &chart, "-n", SYSTEM, "--reuse-values", "--dry-run=server", "-o", "json", "-f", &file];
    let release: Value = serde_json::from_str(&helm(&upgrade).ok()).unwrap();
    kubectl_in(&["apply", "--dry-run=server"], release["manifest"].as_str().unwrap()).ok();
}

/// A part of `spec` in a definition that has what it speaks of.
fn within_a_definition(part: &str) -> String {
    let mut whole: Value = serde_yaml_ng::from_str(&script("book", "true", "")).unwrap();
    let part: Value = serde_yaml_ng::from_str(part).unwrap();
    let safe = whole["spec"]["steps"][0]["template"]["spec"].clone();
    for (key, value) in part.as_object().unwrap() {
        whole["spec"][key] = value.clone();
    }
    let step = part["outputs"][0]["step"].as_str().unwrap_or("work").to_owned();
    match part["steps"].as_array() {
        // Written for a cluster that asks for less than our namespaces do.
        Some(steps) => {
            for (number, _) in steps.iter().enumerate() {
                let spec = &mut whole["spec"]["steps"][number]["template"]["spec"];
                spec["securityContext"] = safe["securityContext"].clone();
                spec["containers"][0]["securityContext"] = safe["containers"][0]["securityContext"].clone();
            }
        }
        None => whole["spec"]["steps"][0]["name"] = json!(step),
    }
    whole["spec"]["parameters"] = json!({"type": "object", "properties": {"courseEnd": {"type": "string", "format": "date-time"}}, "required": ["courseEnd"]});
    whole.to_string()
}

#[test]
fn every_verb_of_the_command_line_page_answers_and_each_is_there() {
    let page = std::fs::read_to_string(root().join("docs/src/command-line.md")).unwrap();
    let help = cli(&["--help"]).ok();
    let listed = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let listed: BTreeSet<&str> = listed
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let told: Vec<(&str, &str)> =
        rows.filter_map(|row| row.split_once("` | ")).take_while(|(verb, _)| !verb.contains("HTTPS_PROXY")).collect();
    let verbs: BTreeSet<&str> = told.iter().map(|(verb, _)| verb.split_whitespace().next().unwrap()).collect();
    assert_eq!(verbs, listed, "the table of the page and `--help` name the same verbs");
    for (verb, about) in told {
        let path: Vec<&str> = verb
            .split_whitespace()
            .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || "\\|".contains(c)))
            .collect();
        let mut ways = vec![Vec::new()];
        for word in path {
            let words: Vec<&str> = word.split("\\|").collect();
            ways = ways.iter().flat_map(|way| words.iter().map(|word| [way.clone(), vec![*word]].concat())).collect();
        }
        let help: String = ways.iter().map(|way| cli(&[way.as_slice(), &["--help"]].concat()).ok()).collect();
        for flag in
            about.split('`').skip(1).step_by(2).flat_map(str::split_whitespace).filter(|word| word.starts_with("--"))
        {
            assert!(help.contains(flag), "`{verb}` has no {flag}, of which the page speaks");
        }
    }
}
