//! Objects as JSON or YAML, for programs.

use clap::ValueEnum;
use kube::ResourceExt;
use serde::Serialize;

/// `-o` of verbs that show one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Document {
    /// The object as JSON
    Json,
    /// The object as YAML
    Yaml,
}

/// `-o` of `run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RunFormat {
    /// The AsyncTask as JSON
    Json,
    /// The AsyncTask as YAML
    Yaml,
    /// Kind and name only
    Name,
}

/// `-o` of `list`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// More columns
    Wide,
    /// The AsyncTasks as JSON
    Json,
    /// The AsyncTasks as YAML
    Yaml,
    /// Kind and name only
    Name,
}

impl Document {
    /// The text, with a line end.
    pub(crate) fn text<T: Serialize>(self, object: &T) -> String {
        match self {
            Self::Json => serde_json::to_string_pretty(object).expect("invariant: our objects are JSON") + "\n",
            Self::Yaml => serde_yaml_ng::to_string(object).expect("invariant: our objects are YAML"),
        }
    }
}

/// What nobody reads is left out, as kubectl does.
pub(crate) fn tidy<K: ResourceExt>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

/// `asynctask.asynctask.dev/<name>`, which kubectl takes as an argument.
pub(crate) fn qualified(name: &str) -> String {
    format!("asynctask.{}/{name}", asynctask_api::names::GROUP)
}
