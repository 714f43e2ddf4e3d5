//! `lint`: what the API server and the operator would say of a definition, without either.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::terminal::{PrintError, print};
use crate::words::clean;
use crate::yaml;
use asynctask_api::names::GROUP;
use asynctask_api::{TaskDefinitionSpec, crd};
use asynctask_plan::definition::validate;
use asynctask_plan::parameters;
use asynctask_plan::revision::{by_tag_sentence, unpinned_images};

/// The one kind that is checked.
const KIND: &str = "TaskDefinition";

/// Check TaskDefinitions in files, without a cluster: exit code 1 when one would be refused
///
/// What only a cluster knows is not checked: whether it admits the pods, and whether stores and accounts exist.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Files with YAML or JSON documents; `-` is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Prints one line for each object, or one for each violation.
pub(crate) fn run(args: &Args) -> Result<Exit, PrintError> {
    let mut report = Report::default();
    for file in &args.files {
        match read(file) {
            Ok(text) => report.file(&file.display().to_string(), &text),
            Err(error) => report.wrong(&format!("{}: cannot be read: {error}", file.display())),
        }
    }
    print(&report.text)?;
    Ok(if report.failed { Exit::Error } else { Exit::Ok })
}

fn read(file: &Path) -> std::io::Result<String> {
    if file != Path::new("-") {
        return std::fs::read_to_string(file);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// What is printed.
#[derive(Debug, Default)]
struct Report {
    text: String,
    failed: bool,
}

impl Report {
    fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "{}", clean(line));
    }

    fn wrong(&mut self, line: &str) {
        self.failed = true;
        self.line(line);
    }

    fn file(&mut self, file: &str, text: &str) {
        let (documents, error) = yaml::documents(text);
        for object in documents.iter().filter(|object| !object.is_null()) {
            self.object(file, object);
        }
        // What follows in the file cannot be told from what is broken.
        if let Some(error) = error {
            self.wrong(&format!("{file}: not YAML or JSON: {error}"));
        }
    }

    fn object(&mut self, file: &str, object: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
        if let ("List", Some(items)) = (kind.as_str(), object["items"].as_array()) {
            return items.iter().for_each(|item| self.object(file, item));
        }
        let subject = format!("{file}: {kind} {name}");
        if kind != KIND {
            return self.line(&format!("{subject}: skipped, only TaskDefinitions are checked"));
        }
        let violations = violations(object);
        for violation in &violations {
            self.wrong(&format!("{subject}: {violation}"));
        }
        if violations.is_empty() {
            self.line(&format!("{subject}: ok"));
            let spec = TaskDefinitionSpec::deserialize(&object["spec"]).ok();
            let by_tag = spec.map(|spec| unpinned_images(&spec)).unwrap_or_default();
            if !by_tag.is_empty() {
                self.line(&format!("{subject}: note: {}", by_tag_sentence(&by_tag)));
            }
        }
    }
}

fn violations(object: &Value) -> Vec<String> {
    let version = format!("{GROUP}/v1alpha1");
    let mut found = Vec::new();
    if object["apiVersion"] != version.as_str() {
        found.push(format!("apiVersion: is {}, write {version}", object["apiVersion"]));
    }
    if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        found.push("metadata.name: is missing: give the definition a name".to_owned());
    }
    let Some(spec) = object.get("spec") else {
        found.push("spec: is missing".to_owned());
        return found;
    };
    let by_schema = parameters::against(&schema(), spec).expect("invariant: the schema of our own kind is one");
    found.extend(by_schema.into_iter().map(|violation| format!("spec{violation}")));
    match TaskDefinitionSpec::deserialize(spec) {
        Ok(spec) => {
            let invalid = validate(&spec).err();
            found.extend(invalid.into_iter().flat_map(|error| error.violations).map(|violation| violation.sentence));
        }
        // The schema has said it with its place.
        Err(_) if !found.is_empty() => {}
        Err(error) => found.push(format!("spec: {error}")),
    }
    found
}

/// The schema of `spec` as the API server has it, but strict: what it would drop in silence is a mistake here.
fn schema() -> Value {
    let crds = crd::all().into_iter().map(|(_, crd)| crd);
    let definition = crds.filter(|crd| crd.spec.names.kind == KIND).map(|crd| json!(crd));
    let mut schema = definition
        .map(|crd| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone())
        .next()
        .expect("invariant: the kind has a CRD");
    forbid_unknown(&mut schema);
    schema
}

fn forbid_unknown(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.values_mut().for_each(forbid_unknown);
            let is_open = members.contains_key("x-kubernetes-preserve-unknown-fields");
            if members.get("properties").is_some_and(|properties| properties.is_object()) && !is_open {
                members.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(forbid_unknown),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::Report;
    use crate::golden;

    fn linted(text: &str) -> (String, bool) {
        let mut report = Report::default();
        report.file("f.yaml", text);
        (report.text, report.failed)
    }

    #[test]
    fn the_examples_are_ok_and_other_kinds_are_skipped() {
        let hello = include_str!("../../../manifests/examples/hello-report/definition.yaml");
        let outline = include_str!("../../../manifests/examples/course-outline/definition.yaml");
        let text = format!("{hello}\n---\n{outline}\n---\n---\nkind: ConfigMap\nmetadata: {{name: c}}\n");
        let (report, failed) = linted(&text);
        assert!(!failed, "{report}");
        let (notes, lines): (Vec<&str>, Vec<&str>) = report.lines().partition(|line| line.contains(": note: "));
        let ends: Vec<&str> = lines.iter().filter_map(|line| line.rsplit_once(": ")).map(|(_, end)| end).collect();
        assert_eq!(ends, ["ok", "ok", "skipped, only TaskDefinitions are checked"]);
        assert!(notes.len() == 2 && notes[0].contains("named by a tag"), "{notes:?}");
    }

    #[test]
    fn every_violation_is_a_line_of_its_own() {
        let (report, failed) = linted(include_str!("../golden/lint.yaml"));
        assert!(failed);
        golden::check("lint.txt", &report);
    }

    /// Every TaskDefinition that people may copy.
    #[test]
    fn every_sample_of_the_repository_is_ok() {
        let mut samples = Vec::new();
        let mut folders = vec![golden::root().join("manifests/examples"), golden::root().join("docs/src/samples")];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path());
            let (inner, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
            folders.extend(inner);
            samples.extend(files.into_iter().filter(|file| file.extension().is_some_and(|end| end == "yaml")));
        }
        for sample in &samples {
            let (report, failed) = linted(&std::fs::read_to_string(sample).expect("readable"));
            assert!(!failed, "{}: {report}", sample.display());
        }
        assert!(samples.iter().filter(|sample| sample.ends_with("definition.yaml")).count() >= 3, "{samples:?}");
    }

    #[test]
    fn what_is_wrong_with_a_fan_out_names_its_field() {
        let (report, failed) = linted(include_str!("../golden/lint_fan_out.yaml"));
        assert!(failed);
        golden::check("lint_fan_out.txt", &report);
    }

    #[test]
    fn a_list_is_looked_into_and_what_is_no_yaml_is_said_so() {
        let (report, failed) = linted(r#"{"kind": "List", "items": [{"kind": "TaskDefinition"}]}"#);
        assert!(failed && report.contains("f.yaml: TaskDefinition ?: spec: is missing"), "{report}");
        let (report, failed) = linted("a: [");
        assert!(failed && report.starts_with("f.yaml: not YAML or JSON: "), "{report}");
    }
}
