//! `run`: from a definition and its parameters to a submitted run.

use std::io::Read;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kube::api::PostParams;
use serde_json::{Map, Value};

use crate::change::MANAGER;
use crate::cluster::ClusterError;
use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::following::{Following, finish};
use crate::format::qualified;
use crate::inputs::{self, InputArg, InputFile};
use crate::parameters;
use crate::render;
use crate::submit::{Wanted, generated_name};
use crate::terminal::say;
use crate::uploads;
use asynctask_api::{AsyncTask, TaskDefinition, quantity};
use asynctask_plan::parameters::violations;

/// Largest parameter file; the parameters themselves may have 64 KiB.
const MAX_FILE: u64 = 1 << 20;

/// Submit a run of a definition
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Examples:
  kubectl asynctask run hello-report -p name=Ada
  kubectl asynctask run course-outline --input archive=course.tar.gz --watch
  kubectl asynctask run bulk-email-again --input recipients=output:mail-1/failures
  kubectl asynctask run grades -f params.yaml -p dry_run=true --name grades-w48 --wait --timeout 30m

{}", Exit::help()))]
pub(crate) struct Args {
    /// Name of the TaskDefinition
    definition: String,
    /// A parameter, read as the type the definition declares; lists and objects as JSON
    #[arg(short, long = "parameter", value_name = "NAME=VALUE", value_parser = parameters::split)]
    parameter: Vec<(String, String)>,
    /// Parameters from a YAML or JSON file, - for stdin; -p wins over it
    #[arg(short = 'f', long = "parameters", value_name = "FILE")]
    file: Option<PathBuf>,
    /// An input: a file, whose media type is guessed from its name unless ;type=MEDIA/TYPE follows, or
    /// output:TASK/OUTPUT, what another run gave back
    #[arg(long, value_name = "NAME=FILE", value_parser = inputs::split)]
    input: Vec<InputArg>,
    /// Name of the run; with it the command may be repeated: a run of that name that asks for the same is taken up
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Group the run belongs to: one of yours
    #[arg(long, value_name = "GROUP")]
    team: Option<String>,
    /// Not to start before this time (2026-12-01T08:00:00Z), or before so much time has passed (90m)
    #[arg(long, value_name = "TIME", value_parser = start)]
    start_after: Option<Timestamp>,
    /// Hold the run until `resume`
    #[arg(long)]
    suspend: bool,
    /// PriorityClass: one of those the definition names
    #[arg(long, value_name = "CLASS")]
    priority: Option<String>,
    #[command(flatten)]
    following: Following,
}

/// A time, or a duration from now on.
fn start(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let bad = || format!("{text:?} is no time: write for example 2026-12-01T08:00:00Z, or 90m from now on");
    let wait = quantity::duration(text).map_err(|_| bad())?;
    Timestamp::now().checked_add(wait).map_err(|_| bad())
}

/// A run that is not submitted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// No such definition.
    #[error(
        "namespace {namespace:?} has no TaskDefinition {name:?}: `kubectl asynctask definitions -n {namespace}` lists \
         what can be run"
    )]
    Definition {
        /// Name.
        name: String,
        /// Where.
        namespace: String,
    },
    /// The parameter file cannot be read.
    #[error("cannot read the parameters from {}: {source}", file.display())]
    Read {
        /// File.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The parameters violate the schema.
    #[error(
        "the parameters do not fit the definition:\n  {}\n`kubectl asynctask definitions {}` shows what it takes",
        .0.join("\n  "), .1
    )]
    Parameters(Vec<String>, String),
    /// The definition does not name the PriorityClass.
    #[error(
        "PriorityClass {class:?} is not one that TaskDefinition {definition:?} lets its runs choose: {}",
        if .known.is_empty() { "it names none".to_owned() } else { format!("choose {}", .known.join(" or ")) }
    )]
    Priority {
        /// What was asked for.
        class: String,
        /// Definition.
        definition: String,
        /// What it names.
        known: Vec<String>,
    },
    /// Another run has the name.
    #[error(
        "AsyncTask {name:?} exists and differs in {field}: a run stays what it was asked to be. Choose another --name"
    )]
    Exists {
        /// Name.
        name: String,
        /// What differs.
        field: &'static str,
    },
}

impl RunError {
    /// The code for the shell.
    pub(crate) const fn exit(&self) -> Exit {
        match self {
            Self::Read { .. } | Self::Parameters(..) | Self::Priority { .. } => Exit::Usage,
            Self::Definition { .. } | Self::Exists { .. } => Exit::Error,
        }
    }
}

/// Submits, and follows when asked to.
pub(crate) async fn run(session: &Session, args: Args) -> Result<Exit, CliError> {
    let definition = definition(session, &args.definition).await?;
    let parameters = parameters_of(&definition, &args).await?;
    let given = inputs::check(&definition.spec.inputs, &args.input)?;
    let inputs = uploads::checksums(&given.files).await?;
    let wanted = Wanted {
        definition: args.definition.clone(),
        parameters,
        team: args.team.clone(),
        priority: priority(&definition, &args)?,
        inputs,
        outputs: given.outputs,
        start_after: args.start_after,
        suspend: args.suspend,
    };
    let task = match taken_up(session, &wanted, args.name.as_deref()).await? {
        Some(existing) => existing,
        None => submit(session, &wanted, &given.files, args.name.as_deref(), &definition).await?,
    };
    finish(session, &args.following, task).await
}

pub(super) async fn definition(session: &Session, name: &str) -> Result<TaskDefinition, CliError> {
    let act = format!("read TaskDefinition {name:?}");
    let found = session.definitions().get_opt(name).await.map_err(ClusterError::on(act))?;
    let unknown = || RunError::Definition { name: name.to_owned(), namespace: session.namespace.clone() };
    Ok(found.ok_or_else(unknown)?)
}

/// Parameters of file and command line, valid against the schema.
async fn parameters_of(definition: &TaskDefinition, args: &Args) -> Result<Map<String, Value>, CliError> {
    let from_file = match &args.file {
        Some(file) => parameters::read(&file.display().to_string(), &content(file).await?)?,
        None => Map::new(),
    };
    let schema = definition.spec.parameters.as_ref();
    let all = parameters::assemble(schema, from_file, &args.parameter)?;
    let problems = violations(schema, &Value::Object(all.clone()));
    if problems.is_empty() { Ok(all) } else { Err(RunError::Parameters(problems, args.definition.clone()).into()) }
}

/// The class, if the definition names it: any other is refused once the run is submitted.
fn priority(definition: &TaskDefinition, args: &Args) -> Result<Option<String>, RunError> {
    let known = &definition.spec.priority_classes;
    match &args.priority {
        Some(class) if !known.contains(class) => {
            Err(RunError::Priority { class: class.clone(), definition: args.definition.clone(), known: known.clone() })
        }
        class => Ok(class.clone()),
    }
}

async fn content(file: &Path) -> Result<String, RunError> {
    let failed = |source| RunError::Read { file: file.to_owned(), source };
    let path = file.to_owned();
    let read = move || {
        let mut text = String::new();
        match path.as_os_str() == "-" {
            true => std::io::stdin().take(MAX_FILE).read_to_string(&mut text)?,
            false => std::fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?,
        };
        Ok(text)
    };
    // A stdin nobody writes to must not keep ^C away.
    tokio::task::spawn_blocking(read).await.map_err(|e| failed(std::io::Error::other(e)))?.map_err(failed)
}

/// The run of that name, if it exists and asks for the same.
async fn taken_up(session: &Session, wanted: &Wanted, name: Option<&str>) -> Result<Option<AsyncTask>, CliError> {
    let Some(name) = name else { return Ok(None) };
    let found =
        session.tasks().get_opt(name).await.map_err(ClusterError::on(format!("look for AsyncTask {name:?}")))?;
    let Some(existing) = found else { return Ok(None) };
    match wanted.difference(&existing) {
        Some(field) => Err(RunError::Exists { name: name.to_owned(), field }.into()),
        None => {
            say(&format!("{} exists and asks for the same: taken up, nothing new is started", qualified(name)));
            Ok(Some(existing))
        }
    }
}

async fn submit(
    session: &Session,
    wanted: &Wanted,
    files: &[InputFile],
    name: Option<&str>,
    definition: &TaskDefinition,
) -> Result<AsyncTask, CliError> {
    let uploads = uploads::send(session, &wanted.definition, files, &wanted.inputs).await?;
    let ready = render::readiness(definition);
    if ready != "Ready" {
        say(&format!("TaskDefinition {:?} is {ready}; the run waits until it is ready", wanted.definition));
    }
    let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    loop {
        let random = uuid::Uuid::new_v4().as_u128();
        let chosen = name.map_or_else(|| generated_name(&wanted.definition, random), str::to_owned);
        let task = wanted.task(&chosen, &session.namespace, uploads.clone());
        let error = match session.tasks().create(&parameters, &task).await {
            Ok(task) => return Ok(task),
            Err(source) => ClusterError::new(format!("create AsyncTask {chosen:?}"), source),
        };
        if error.status().is_none_or(|s| s.code != 409) {
            return Err(error.into());
        }
        // The name is taken: by somebody quicker when it was asked for, by chance when it was not.
        if let Some(existing) = taken_up(session, wanted, name).await? {
            return Ok(existing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::start;
    use jiff::Timestamp;

    #[test]
    fn a_start_is_a_time_or_a_wait() {
        assert_eq!(start("2026-12-01T08:00:00Z"), Ok("2026-12-01T08:00:00Z".parse().expect("a time")));
        let hour = start("1h").expect("a wait").duration_since(Timestamp::now()).as_secs();
        assert!((3590..=3600).contains(&hour), "{hour}");
        assert!(start("tomorrow").expect_err("refused").contains("or 90m from now on"));
    }
}
