//! A definition as a page for the person who wants to run it.

use std::fmt::Write as _;

use serde_json::Value;

use super::render::readiness;
use super::words::{Paint, clean, clean_lines, indent, table};
use asynctask_api::TaskDefinition;
use asynctask_api::definition::{FanOutSpec, InputSpec, ItemsFrom, StepSpec, TaskDefinitionSpec};
use asynctask_api::state::RevisionState;
use asynctask_plan::revision::{by_tag_sentence, unpinned_images};

/// A revision and the runs that are on it.
#[derive(Debug)]
pub(crate) struct RevisionLine {
    /// Number within the definition.
    pub(crate) number: i64,
    /// Name.
    pub(crate) name: String,
    /// State; absent until the operator has looked.
    pub(crate) state: Option<RevisionState>,
    /// Runs that are pinned to it and not over.
    pub(crate) runs: usize,
    /// There are more than were counted.
    pub(crate) more: bool,
}

/// The whole page.
pub(crate) fn page(definition: &TaskDefinition, revisions: &[RevisionLine], paint: Paint) -> String {
    let name = clean(definition.metadata.name.as_deref().unwrap_or_default());
    let spec = &definition.spec;
    let revision = definition.status.as_ref().and_then(|s| s.revision.as_ref());
    let revision = revision.map(|r| format!(", revision {}", r.number)).unwrap_or_default();
    let mut page = format!("{}  {}\n{}{revision}\n", paint.bold(&name), clean(&spec.title), readiness(definition));
    if let Some(problem) = problem(definition) {
        page.push_str(&indent(&clean_lines(&problem).join("\n"), "  "));
    }
    let by_tag = unpinned_images(spec);
    if !by_tag.is_empty() {
        page.push_str(&indent(&format!("Images {}", clean(&by_tag_sentence(&by_tag))), "  "));
        page.push('\n');
    }
    if let Some(text) = &spec.description {
        let _ = write!(page, "\n{}", indent(&clean_lines(text).join("\n"), "  "));
    }
    section(&mut page, paint, "Parameters", parameters(spec.parameters.as_ref()), "none");
    section(&mut page, paint, "Inputs", spec.inputs.iter().map(input).collect(), "none");
    let _ = write!(page, "\n{}\n", paint.bold("Steps"));
    for step in &spec.steps {
        page.push_str(&step_lines(step));
    }
    section(&mut page, paint, "Outputs", outputs(spec), "the log only");
    section(&mut page, paint, "Revisions", revisions.iter().map(revision_row).collect(), "none yet");
    let _ = write!(page, "\n{}\n  {}\n", paint.bold("Run it"), example(&name, spec));
    page
}

fn revision_row(line: &RevisionLine) -> Vec<String> {
    let runs = match (line.runs, line.more) {
        (1, false) => "1 run".to_owned(),
        (runs, false) => format!("{runs} runs"),
        (runs, true) => format!("more than {runs} runs"),
    };
    let state = line.state.map_or("-", RevisionState::as_str);
    vec![line.number.to_string(), clean(&line.name), state.to_owned(), runs]
}

fn section(page: &mut String, paint: Paint, title: &str, rows: Vec<Vec<String>>, none: &str) {
    let body = if rows.is_empty() { format!("{none}\n") } else { table(&rows) };
    let _ = write!(page, "\n{}\n{}", paint.bold(title), indent(&body, "  "));
}

fn problem(definition: &TaskDefinition) -> Option<String> {
    let conditions = definition.status.iter().flat_map(|s| &s.conditions);
    let ready = conditions.into_iter().find(|c| c.type_ == asynctask_api::condition::READY)?;
    (ready.status != "True").then(|| ready.message.clone())
}

/// Name, type, whether it must be given, and what it is.
fn parameters(schema: Option<&Value>) -> Vec<Vec<String>> {
    let Some(schema) = schema else { return Vec::new() };
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    properties
        .map(|(name, property)| {
            let need = if required.contains(&name.as_str()) { "required" } else { "optional" };
            vec![clean(name), kind(property), need.to_owned(), about(property)]
        })
        .collect()
}

fn kind(property: &Value) -> String {
    match property.get("type") {
        Some(Value::String(one)) => clean(one),
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).map(clean).collect::<Vec<_>>().join(" or "),
        _ => "any".to_owned(),
    }
}

/// Title and description, then the limits a person would want to know.
fn about(property: &Value) -> String {
    let text = |key: &str| property.get(key).and_then(Value::as_str).map(clean);
    let mut parts: Vec<String> = [text("title"), text("description")].into_iter().flatten().collect();
    if let Some(values) = property.get("enum").and_then(Value::as_array) {
        let values: Vec<String> = values.iter().map(bare).collect();
        parts.push(format!("one of {}", values.join(", ")));
    }
    for (key, word) in [
        ("default", "default"),
        ("minimum", "at least"),
        ("maximum", "at most"),
        ("minLength", "characters: at least"),
        ("maxLength", "characters: at most"),
        ("pattern", "matches"),
    ] {
        parts.extend(property.get(key).map(|value| format!("{word} {}", bare(value))));
    }
    parts.join("; ")
}

fn bare(value: &Value) -> String {
    value.as_str().map_or_else(|| clean(&value.to_string()), clean)
}

fn input(input: &InputSpec) -> Vec<String> {
    let need = if input.required { "required" } else { "optional" };
    let types = if input.media_types.is_empty() { "any type".to_owned() } else { input.media_types.join(" or ") };
    let limit = input.max_size.as_deref().unwrap_or(super::inputs::DEFAULT_MAX_SIZE);
    let title = input.title.as_deref().map(clean).unwrap_or_default();
    vec![input.name.clone(), need.to_owned(), format!("{}, at most {limit}", clean(&types)), title]
}

fn step_lines(step: &StepSpec) -> String {
    let title = step.title.as_deref().map(clean).unwrap_or_default();
    let timeout = step.timeout.as_deref().unwrap_or("1h");
    let shards = step.fan_out.as_ref().map(|fan_out| format!(", {}", shards(fan_out))).unwrap_or_default();
    let mut text = format!("  {}  {title} (at most {timeout}{shards})\n", step.name);
    for (n, stage) in step.stages.iter().enumerate() {
        let _ = writeln!(text, "      {}. {}", n + 1, clean(stage));
    }
    text
}

/// `in shards of 100 items of plan`
fn shards(fan_out: &FanOutSpec) -> String {
    let per_shard = fan_out.items_per_shard.unwrap_or(asynctask_plan::fanout::ITEMS_PER_SHARD);
    let items = |from: &ItemsFrom| from.step.as_ref().or(from.input.as_ref()).map(|from| clean(from));
    match (&fan_out.items_from, fan_out.shards, &fan_out.shards_from) {
        (Some(from), _, _) => format!("in shards of {per_shard} items of {}", items(from).unwrap_or_default()),
        (None, Some(shards), _) => format!("in {shards} shards"),
        (None, None, Some(from)) => format!("in as many shards as {} says", clean(&from.parameter)),
        (None, None, None) => "in shards".to_owned(),
    }
}

fn outputs(spec: &TaskDefinitionSpec) -> Vec<Vec<String>> {
    let row = |o: &asynctask_api::definition::OutputSpec| {
        let title = o.title.as_deref().map(clean).unwrap_or_default();
        vec![o.name.clone(), o.media_type.as_deref().map_or_else(|| "any type".to_owned(), clean), title]
    };
    spec.outputs.iter().map(row).collect()
}

/// A command line with everything that must be given.
fn example(name: &str, spec: &TaskDefinitionSpec) -> String {
    let mut line = format!("kubectl asynctask run {name}");
    for row in parameters(spec.parameters.as_ref()).iter().filter(|row| row[2] == "required") {
        let _ = write!(line, " -p {}=…", row[0]);
    }
    for input in spec.inputs.iter().filter(|i| i.required) {
        let _ = write!(line, " --input {}=FILE", input.name);
    }
    line + " --watch"
}

#[cfg(test)]
mod tests {
    use super::{RevisionLine, page};
    use crate::words::Paint;
    use asynctask_api::state::RevisionState;

    #[test]
    fn the_page_says_all_a_person_needs_to_run_it() {
        let definition = serde_yaml_ng::from_str(include_str!("golden/definition.yaml")).expect("a definition");
        let line = |number, state, runs, more| RevisionLine { number, name: format!("r-{number}"), state, runs, more };
        let revisions = [
            line(3, Some(RevisionState::Current), 500, true),
            line(2, Some(RevisionState::Draining), 1, false),
            line(1, Some(RevisionState::Retired), 0, false),
        ];
        crate::golden::check("definition.txt", &page(&definition, &revisions, Paint { on: false }));
    }
}
