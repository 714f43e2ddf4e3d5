//! `outputs`: what a run gave back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::Timestamp;

use crate::change::each;
use crate::connect::Session;
use crate::download::{Outcome, to_file, to_lines, to_stdout};
use crate::error::CliError;
use crate::exit::Exit;
use crate::format::{Document, qualified};
use crate::gateway::{Gateway, GatewayError};
use crate::meter::Meter;
use crate::target::Target;
use crate::terminal::{ask, is_terminal, print, say};
use crate::verbs::list::since;
use crate::verbs::logs::Lines;
use crate::verbs::shards::sharded;
use crate::words::{clean, size, table};
use asynctask_api::AsyncTask;
use asynctask_contract::env::LOG_OUTPUT;
use asynctask_contract::people::{
    DownloadTicket, FileView, FoundOutput, FoundOutputs, GoneView, OutputList, OutputView,
};

/// List or fetch what a run gave back
#[derive(Debug, clap::Args)]
#[command(visible_alias = "output")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the files with their sizes and checksums
    Ls(LsArgs),
    /// Fetch files; each is verified by its SHA-256, and a broken download goes on where it stopped
    ///
    /// Of a step that runs in shards, each file goes into the folder OUTPUT/SHARD.
    Get(GetArgs),
    /// Delete outputs of a run that is over; it cannot be taken back
    Rm(RmArgs),
    /// Find outputs across the runs of the namespace
    Find(FindArgs),
}

#[derive(Debug, clap::Args)]
struct FindArgs {
    /// Of runs of this user
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// Of runs of this group
    #[arg(long, value_name = "GROUP")]
    team: Option<String>,
    /// Of runs of this definition
    #[arg(long, value_name = "NAME")]
    definition: Option<String>,
    /// Of this name
    #[arg(long, value_name = "NAME")]
    output_name: Option<String>,
    /// Of runs created since this date, or in the last such time (`30d`)
    #[arg(long, value_name = "DATE|TIME", value_parser = since)]
    since: Option<Timestamp>,
    /// Another format
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Document>,
}

#[derive(Debug, clap::Args)]
struct RmArgs {
    /// Name of the run
    name: String,
    /// Names of the outputs
    #[arg(required = true, value_name = "OUTPUT")]
    outputs: Vec<String>,
    /// Do not ask; without a terminal nobody is asked
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
struct LsArgs {
    /// Name of the run
    name: String,
    /// Another format
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Document>,
}

#[derive(Debug, clap::Args)]
struct GetArgs {
    /// Name of the run
    name: String,
    /// Name of an output; default: all but the log and those that are for one use
    output: Option<String>,
    /// File or folder to write to, - for stdout; default: the current folder
    #[arg(short = 'o', long = "to", value_name = "FILE|FOLDER")]
    to: Option<PathBuf>,
    /// Only the file of this number, from 1, as `ls` shows it
    #[arg(long, value_name = "N", requires = "output", value_parser = clap::value_parser!(u32).range(1..))]
    file: Option<u32>,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

/// A choice that names nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputsError {
    /// The gateway does not tell.
    #[error("cannot list the outputs of AsyncTask {task:?}: {source}")]
    List {
        /// Task.
        task: String,
        /// Why.
        source: GatewayError,
    },
    /// No such output.
    #[error("AsyncTask {task:?} has no output {output:?}{known}")]
    Output {
        /// Task.
        task: String,
        /// What was asked for.
        output: String,
        /// What there is.
        known: String,
    },
    /// No such file.
    #[error("output {output:?} has {files} files: --file takes 1 to {files}")]
    File {
        /// Output.
        output: String,
        /// How many.
        files: usize,
    },
    /// It is no longer there.
    #[error("output {output:?} {said}: run the task again")]
    Gone {
        /// Output.
        output: String,
        /// What became of it.
        said: String,
    },
    /// Nothing at all.
    #[error("AsyncTask {0:?} has given nothing back (yet): `kubectl asynctask status` tells how far it is")]
    Nothing(String),
}

/// Lists or fetches.
pub(crate) async fn run(session: &Session, args: Args) -> Result<Exit, CliError> {
    let gateway = session.gateway().await?;
    match args.verb {
        Verb::Ls(args) => {
            let list = list(&gateway, &session.namespace, &args.name).await?;
            match args.output {
                Some(document) => print(&document.text(&list))?,
                None if list.outputs.is_empty() => return Err(OutputsError::Nothing(args.name).into()),
                None => print(&page(&list))?,
            }
        }
        Verb::Get(args) => {
            let said = Said::read(session, &args.name).await;
            get(&gateway, &session.namespace, &args, &said).await?;
        }
        Verb::Find(args) => find(&gateway, &session.namespace, &args).await?,
        Verb::Rm(args) => return remove(&gateway, &session.namespace, &args).await,
    }
    Ok(Exit::Ok)
}

async fn find(gateway: &Gateway, namespace: &str, args: &FindArgs) -> Result<(), CliError> {
    let mut url = gateway.path(namespace, &["outputs"]);
    let since = args.since.map(|since| since.to_string());
    let asked = [
        ("owner", &args.owner),
        ("team", &args.team),
        ("definition", &args.definition),
        ("output", &args.output_name),
        ("since", &since),
    ];
    for (name, value) in asked {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    let (mut outputs, mut next) = (Vec::new(), None::<String>);
    loop {
        let mut page = url.clone();
        if let Some(next) = &next {
            page.query_pairs_mut().append_pair("continue", next);
        }
        let found: FoundOutputs = gateway.get(page).await?;
        outputs.extend(found.outputs);
        next = found.next;
        if next.is_none() {
            break;
        }
    }
    match args.output {
        Some(document) => print(&document.text(&outputs))?,
        None if outputs.is_empty() => say(&format!("No outputs that you may see are found in {namespace}")),
        None => print(&found_page(&outputs))?,
    }
    Ok(())
}

fn found_page(outputs: &[FoundOutput]) -> String {
    let head = ["RUN", "OUTPUT", "FILES", "SIZE", "DEFINITION", "OWNER", "TEAM", "CREATED", "KEPT UNTIL"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for found in outputs {
        let text = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), clean);
        rows.push(vec![
            clean(&found.task),
            clean(&found.output),
            found.files.to_string(),
            size(found.size),
            clean(&found.definition),
            text(&found.owner),
            text(&found.team),
            text(&found.created_at),
            text(&found.expires_at),
        ]);
    }
    table(&rows)
}

async fn remove(gateway: &Gateway, namespace: &str, args: &RmArgs) -> Result<Exit, CliError> {
    let question = format!("Delete {} of AsyncTask {:?}?", args.outputs.join(", "), args.name);
    if !args.yes && !ask(&question).await {
        say("Nothing was changed");
        return Ok(Exit::NothingToDo);
    }
    each(&args.outputs, async |output: &str| {
        gateway.delete(gateway.path(namespace, &["tasks", &args.name, "outputs", output])).await?;
        print(&format!("output {} of {} deleted\n", clean(output), qualified(&args.name)))?;
        Ok(Exit::Ok)
    })
    .await
}

/// Asks the gateway for the outputs of a run.
pub(crate) async fn list(gateway: &Gateway, namespace: &str, name: &str) -> Result<OutputList, CliError> {
    let found = gateway.get(gateway.path(namespace, &["tasks", name, "outputs"])).await;
    Ok(found.map_err(|source| OutputsError::List { task: name.to_owned(), source })?)
}

/// What the run itself says beside the gateway's list: nothing when it may not be read or is gone.
#[derive(Debug, Default)]
struct Said {
    /// Steps that run in shards.
    sharded: Vec<String>,
}

impl Said {
    async fn read(session: &Session, name: &str) -> Self {
        session.tasks().get(name).await.map(|task| Self::of(&task)).unwrap_or_default()
    }

    fn of(task: &AsyncTask) -> Self {
        Self { sharded: sharded(task).into_iter().map(str::to_owned).collect() }
    }

    /// Where a file goes: the shards of two steps may have files of one name, and so may two outputs that stand `apart`.
    fn path(&self, output: &OutputView, file: &FileView, apart: &BTreeSet<&str>) -> String {
        let own_folder = self.sharded.contains(&output.step) || apart.contains(output.name.as_str());
        if own_folder { format!("{}/{}", output.name, file.path) } else { file.path.clone() }
    }
}

/// Names of the outputs that would get in each other's way in one folder: a file of the one is a file or a folder of the
/// other. Nobody knows this of files that are not listed.
fn apart<'a>(chosen: &[Chosen<'a>]) -> BTreeSet<&'a str> {
    let mut outputs: Vec<&OutputView> = chosen.iter().map(|(output, ..)| *output).collect();
    outputs.dedup_by_key(|output| output.name.as_str());
    if outputs.len() < 2 {
        return BTreeSet::new();
    }
    // Not every file system tells a from A.
    let lower = |file: &FileView| file.path.to_lowercase();
    let mut files: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for output in &outputs {
        for file in &output.files {
            files.entry(lower(file)).or_default().insert(&output.name);
        }
    }
    let mut apart: BTreeSet<&str> = BTreeSet::new();
    for output in &outputs {
        for file in &output.files {
            let path = lower(file);
            let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
            let met = std::iter::once(path.as_str()).chain(parents).filter_map(|path| files.get(path)).flatten();
            let others: Vec<&str> = met.copied().filter(|other| *other != output.name).collect();
            if !others.is_empty() {
                apart.extend(others.into_iter().chain([output.name.as_str()]));
            }
        }
        if count(output) > output.files.len() {
            apart.insert(&output.name);
        }
    }
    apart
}

/// Files of an output: many thousands are not listed. A gateway that does not count lists them all.
fn count(output: &OutputView) -> usize {
    usize::try_from(output.count).unwrap_or(usize::MAX).max(output.files.len())
}

fn page(list: &OutputList) -> String {
    let mut rows = vec![["OUTPUT", "N", "FILE", "SIZE", "TYPE", "SHA-256"].map(str::to_owned).to_vec()];
    for output in &list.outputs {
        if let Some(said) = standing(output) {
            rows.push(vec![clean(&output.name), "-".to_owned(), clean(&said)]);
        }
        for (n, file) in output.files.iter().enumerate() {
            rows.push(vec![
                clean(&output.name),
                (n + 1).to_string(),
                clean(&file.path),
                size(file.size),
                file.media_type.as_deref().map_or_else(|| "-".to_owned(), clean),
                clean(&file.sha256),
            ]);
        }
        let more = count(output) - output.files.len();
        if more > 0 {
            rows.push(vec![clean(&output.name), "…".to_owned(), format!("and {more} more, which `get` fetches too")]);
        }
    }
    table(&rows)
}

/// What is to know of an output beside its files.
fn standing(output: &OutputView) -> Option<String> {
    if let Some(GoneView { at, why, by }) = &output.gone {
        let by = by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        return Some(match why.as_str() {
            "Expired" => format!("was kept until {at}"),
            "Used" => format!("was fetched{by}"),
            _ => format!("was deleted{by} at {at}"),
        });
    }
    let kept = output.expires_at.as_ref().map(|at| format!("kept until {at}"));
    match (&output.claimed_by, output.use_once) {
        (Some(by), _) => Some(format!("for one use, claimed by {by}, {}", kept.unwrap_or_default())),
        (None, true) => Some("for one use: whoever gets it first has it".to_owned()),
        (None, false) => kept,
    }
}

/// One file to fetch: its output, its place in it, and itself where it was listed.
type Chosen<'a> = (&'a OutputView, usize, Option<&'a FileView>);

async fn get(gateway: &Gateway, namespace: &str, args: &GetArgs, said: &Said) -> Result<(), CliError> {
    let list = list(gateway, namespace, &args.name).await?;
    let chosen = choose(&list, args)?;
    let target = Target::new(args.to.as_deref(), chosen.len())?;
    let alone = chosen.len() == 1;
    let apart = apart(&chosen);
    for (output, n, listed) in chosen {
        let number = n.to_string();
        let link =
            gateway.path(namespace, &["tasks", &args.name, "outputs", &output.name, "files", &number, "download"]);
        let unlisted = match listed {
            Some(_) => None,
            None => Some(gateway.ask::<DownloadTicket>(link.clone()).await?.file),
        };
        let Some(file) = listed.or(unlisted.as_ref()) else { continue };
        let Some(place) = target.place(&said.path(output, file, &apart), alone)? else {
            stdout(gateway, link, file).await?;
            continue;
        };
        let meter = Meter::new(&place.display().to_string(), file.size);
        match to_file(gateway, link, file, &place, args.force, &meter).await {
            Ok(Outcome::Written) => {
                meter.end(&format!("{}, SHA-256 verified ({})", size(file.size), clean(&file.sha256)))
            }
            Ok(Outcome::Unchanged) => meter.end("is there already, SHA-256 verified"),
            Err(error) => {
                meter.vanish();
                return Err(error.into());
            }
        }
    }
    Ok(())
}

/// Writes a file to stdout; a bar beside it would only be in its way on a terminal.
pub(crate) async fn stdout(gateway: &Gateway, link: reqwest::Url, file: &FileView) -> Result<(), CliError> {
    let meter = if is_terminal() { Meter::hidden() } else { Meter::quiet(&file.path, file.size) };
    let done = to_stdout(gateway, link, file, &meter).await;
    meter.vanish();
    Ok(done?)
}

/// The same with something before each line.
pub(crate) async fn lines(
    gateway: &Gateway,
    link: reqwest::Url,
    file: &FileView,
    lines: &mut Lines,
) -> Result<(), CliError> {
    Ok(to_lines(gateway, link, file, &Meter::hidden(), lines).await?)
}

fn choose<'a>(list: &'a OutputList, args: &GetArgs) -> Result<Vec<Chosen<'a>>, OutputsError> {
    let files_of = |output: &'a OutputView| {
        let files = if output.gone.is_some() { 0 } else { count(output) };
        (0..files).map(move |n| (output, n, output.files.get(n)))
    };
    let Some(name) = &args.output else {
        let declared = list.outputs.iter().filter(|o| o.name != LOG_OUTPUT && !o.use_once);
        let all: Vec<_> = declared.flat_map(files_of).collect();
        return if all.is_empty() { Err(OutputsError::Nothing(args.name.clone())) } else { Ok(all) };
    };
    let output = list.outputs.iter().find(|o| o.name == *name).ok_or_else(|| {
        let known: Vec<_> = list.outputs.iter().map(|o| clean(&o.name)).collect();
        let known = if known.is_empty() { " (yet)".to_owned() } else { format!("; it has {}", known.join(", ")) };
        OutputsError::Output { task: args.name.clone(), output: name.clone(), known }
    })?;
    let mut files: Vec<_> = files_of(output).collect();
    if let Some(said) = standing(output).filter(|_| output.gone.is_some()) {
        return Err(OutputsError::Gone { output: name.clone(), said });
    }
    if let Some(number) = args.file {
        let at = number as usize - 1;
        if at >= files.len() {
            return Err(OutputsError::File { output: name.clone(), files: files.len() });
        }
        files = vec![files[at]];
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{GetArgs, OutputsError, Said, choose, page};
    use asynctask_contract::people::{FileView, GoneView, OutputList, OutputView};

    fn file(path: &str) -> FileView {
        FileView { path: path.into(), size: 2048, sha256: "ab".repeat(32), media_type: None, number: None, step: None }
    }

    fn outputs() -> OutputList {
        let output = |name: &str, files: &[&str]| OutputView {
            name: name.into(),
            title: String::new(),
            step: "s".into(),
            size: 0,
            count: if name == "reports" { 3 } else { 0 },
            files: files.iter().map(|f| file(f)).collect(),
            more: false,
            visibility: "Owner".into(),
            expires_at: None,
            use_once: false,
            claimed_by: None,
            gone: None,
        };
        OutputList { outputs: vec![output("reports", &["r/a", "r/b"]), output("log", &["log"])] }
    }

    fn args(output: Option<&str>, file: Option<u32>) -> GetArgs {
        GetArgs { name: "t".into(), output: output.map(str::to_owned), to: None, file, force: false }
    }

    fn paths(args: &GetArgs) -> Result<Vec<String>, OutputsError> {
        let shown = |n: usize, file: Option<&FileView>| format!("{n} {}", file.map_or("?", |file| &file.path));
        let outputs = outputs();
        let chosen = choose(&outputs, args);
        chosen.map(|chosen| chosen.into_iter().map(|(_, n, file)| shown(n, file)).collect())
    }

    #[test]
    fn all_outputs_one_output_or_one_file_are_chosen() {
        assert_eq!(
            paths(&args(None, None)).expect("chosen"),
            ["0 r/a", "1 r/b", "2 ?"],
            "the log only when it is named"
        );
        assert_eq!(paths(&args(Some("log"), None)).expect("chosen"), ["0 log"]);
        assert_eq!(paths(&args(Some("reports"), Some(2))).expect("chosen"), ["1 r/b"]);
        assert!(matches!(paths(&args(Some("reports"), Some(4))), Err(OutputsError::File { files: 3, .. })));
        let unknown = paths(&args(Some("x"), None)).expect_err("unknown").to_string();
        assert_eq!(unknown, "AsyncTask \"t\" has no output \"x\"; it has reports, log");
    }

    #[test]
    fn the_list_shows_each_file_with_its_number_and_checksum() {
        let text = page(&outputs());
        assert!(text.lines().nth(2).is_some_and(|l| l.starts_with("reports  2  r/b")), "{text}");
        assert!(text.contains(&"ab".repeat(32)), "{text}");
        assert!(text.lines().nth(3).is_some_and(|l| l.starts_with("reports  …  and 1 more")), "{text}");
    }

    #[test]
    fn what_became_of_an_output_is_told_beside_it() {
        let mut list = outputs();
        list.outputs[0].gone =
            Some(GoneView { at: "2027-01-01T00:00:00Z".into(), why: "Deleted".into(), by: Some("tom".into()) });
        let text = page(&list);
        assert!(text.contains("reports  -  was deleted by tom at 2027-01-01T00:00:00Z"), "{text}");
        let gone = choose(&list, &args(Some("reports"), None)).expect_err("gone").to_string();
        assert!(gone.contains("was deleted by tom"), "{gone}");
        let mut list = outputs();
        list.outputs[0].use_once = true;
        assert!(matches!(choose(&list, &args(None, None)), Err(OutputsError::Nothing(_))), "only by its name");
        assert!(choose(&list, &args(Some("reports"), None)).is_ok());
    }

    #[test]
    fn files_of_shards_have_a_folder_of_their_output() {
        let list = outputs();
        let file = file("17/out.csv");
        let said = Said { sharded: vec!["s".into()] };
        assert_eq!(said.path(&list.outputs[0], &file, &BTreeSet::new()), "reports/17/out.csv");
        assert_eq!(Said::default().path(&list.outputs[0], &file, &BTreeSet::new()), "17/out.csv");
    }

    #[test]
    fn two_outputs_with_one_path_have_folders_of_their_own() {
        let named = |name: &str, files: &[&str]| OutputView {
            name: name.into(),
            count: 0,
            files: files.iter().map(|path| file(path)).collect(),
            ..outputs().outputs[0].clone()
        };
        for (one, other, expected) in [
            (&["report.txt"][..], &["report.txt"][..], &["a", "b"][..]),
            (&["Report.txt"], &["report.txt"], &["a", "b"]),
            (&["x", "pages"], &["pages/1"], &["a", "b"]),
            (&["report.txt"], &["reports.txt", "more/report.txt"], &[]),
        ] {
            let list = OutputList { outputs: vec![named("a", one), named("b", other), named("c", &["c"])] };
            let chosen = choose(&list, &args(None, None)).expect("chosen");
            assert_eq!(super::apart(&chosen), expected.iter().copied().collect(), "{one:?} {other:?}");
        }
        let list = OutputList { outputs: vec![named("a", &["report.txt"]), named("b", &["report.txt"])] };
        let chosen = choose(&list, &args(Some("a"), None)).expect("chosen");
        assert!(super::apart(&chosen).is_empty(), "the other one is not fetched");
    }

    #[test]
    fn the_run_itself_says_what_runs_in_shards() {
        let task = serde_yaml_ng::from_str(include_str!("../golden/shards_partial.yaml")).expect("an AsyncTask");
        assert_eq!(Said::of(&task).sharded, ["send"]);
    }
}
