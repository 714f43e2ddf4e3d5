//! A task whose outputs somebody may read, and its sealed results.

use std::sync::Arc;

use kube::{Api, ResourceExt};

use super::rights::{Near, visibility};
use crate::Gateway;
use crate::authorize::Access;
use crate::identity::Caller;
use crate::problem::Refusal;
use crate::request;
use crate::sealed::Sealed;
use crate::stores::require_open;
use asynctask_api::AsyncTask;
use asynctask_api::definition::OutputSpec;
use asynctask_api::names::subresource::{OUTPUTS, VISIBILITY};
use asynctask_api::outputs::Visibility;
use asynctask_api::task::StepStatus;
use asynctask_contract::env::LOG_OUTPUT;
use asynctask_plan::definition::ValidatedDefinition;
use asynctask_plan::fanout::{assemble_name, is_appended};
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::records::ManifestFile;

/// A task whose outputs the caller may read, as far as they are visible to them.
pub(super) struct Readable {
    pub(super) task: AsyncTask,
    pub(super) namespace: String,
    /// What the caller is to it.
    pub(super) near: Near,
    /// The caller.
    pub(super) user: String,
}

impl Readable {
    pub(super) async fn authorised(
        gateway: &Gateway,
        caller: &Caller,
        namespace: &str,
        name: &str,
    ) -> Result<Self, Refusal> {
        Self::authorised_to("get", gateway, caller, namespace, name).await
    }

    pub(super) async fn authorised_to(
        verb: &'static str,
        gateway: &Gateway,
        caller: &Caller,
        namespace: &str,
        name: &str,
    ) -> Result<Self, Refusal> {
        let (namespace, name) = (request::namespace(namespace)?, request::object(name)?);
        let access = Access::task(verb, namespace, name);
        gateway.authorizer.require(caller, access.of(OUTPUTS)).await?;
        let task = read(gateway, namespace, name).await?.ok_or(Refusal::NotFound)?;
        let mut near = Near::of(&task, &caller.person);
        let all = Access::task("bypass", namespace, name).of(VISIBILITY);
        if near != Near::Owner && gateway.authorizer.has(caller, all).await? {
            near = Near::Owner;
        }
        Ok(Self { task, namespace: namespace.to_owned(), near, user: caller.person.user.clone() })
    }

    /// The store of the run; `None` before it has one.
    pub(super) async fn store(&self, gateway: &Gateway) -> Result<Option<OpenStore>, Refusal> {
        store(gateway, &self.task).await
    }

    /// What the run consists of. Without its revision names have to do.
    pub(super) async fn definition(&self, gateway: &Gateway) -> Result<Option<Arc<ValidatedDefinition>>, Refusal> {
        let Some(pinned) = self.task.status.as_ref().and_then(|status| status.revision.as_ref()) else {
            return Ok(None);
        };
        match gateway.catalog.definition(&self.namespace, pinned).await {
            Ok(definition) => Ok(Some(definition)),
            Err(Refusal::Conflict { .. }) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// The sealed result of each step that has one.
    pub(super) async fn results<'a>(
        &'a self,
        gateway: &'a Gateway,
        open: &'a OpenStore,
    ) -> Result<Results<'a>, Refusal> {
        let mut steps = Vec::new();
        for step in steps_of(&self.task) {
            if let Some(sealed) = Sealed::of(gateway, open, &self.task, step).await? {
                steps.push((step.name.clone(), sealed));
            }
        }
        let known = steps_of(&self.task).iter().map(|step| step.name.clone()).collect();
        Ok(Results { task: &self.task, near: self.near, steps, known, definition: self.definition(gateway).await? })
    }
}

/// The task of a name.
pub(super) async fn read(gateway: &Gateway, namespace: &str, name: &str) -> Result<Option<AsyncTask>, Refusal> {
    let read = Api::<AsyncTask>::namespaced(gateway.client.clone(), namespace).get_opt(name).await;
    read.map_err(|source| Refusal::Kube { act: "read an AsyncTask", source })
}

/// The sealed result of a step in the run that this one continues; `None`: it continues none, or that is gone.
pub(super) async fn taken_over<'a>(
    gateway: &'a Gateway,
    open: &'a OpenStore,
    namespace: &str,
    step: &StepStatus,
) -> Result<Option<Sealed<'a>>, Refusal> {
    let Some(adopted) = &step.adopted else { return Ok(None) };
    let source = read(gateway, namespace, &adopted.name).await?;
    match source.filter(|source| source.uid().as_ref() == Some(&adopted.uid)) {
        Some(source) => Sealed::of_step(gateway, open, &source, &step.name).await,
        None => Ok(None),
    }
}

/// The store of a run; `None` before it has one. One that was withdrawn from the run's namespace gives nothing out.
pub(super) async fn store(gateway: &Gateway, task: &AsyncTask) -> Result<Option<OpenStore>, Refusal> {
    let Some(store) = task.status.as_ref().and_then(|status| status.store.as_ref()) else { return Ok(None) };
    let open = gateway.stores.by_ref(store).await?;
    require_open(gateway, &*gateway.stores.object(&store.name).await?, &task.namespace().unwrap_or_default()).await?;
    Ok(Some(open))
}

fn steps_of(task: &AsyncTask) -> &[StepStatus] {
    task.status.as_ref().map(|status| status.steps.as_slice()).unwrap_or_default()
}

/// The sealed results of a run, as people are shown them: what a fan-out appends comes from the step that puts it
/// together, and its logs are asked for shard by shard.
pub(super) struct Results<'a> {
    task: &'a AsyncTask,
    near: Near,
    steps: Vec<(String, Sealed<'a>)>,
    known: Vec<String>,
    definition: Option<Arc<ValidatedDefinition>>,
}

impl<'a> Results<'a> {
    /// The declared outputs, as far as they are known.
    pub(super) fn declared(&self) -> &[OutputSpec] {
        self.definition.as_ref().map(|definition| definition.outputs.as_slice()).unwrap_or_default()
    }

    /// Who may see an output.
    pub(super) fn visibility(&self, output: &str) -> Visibility {
        visibility(self.task, self.definition.as_deref(), output)
    }

    /// Every output that the caller sees, with every step that gives it, in the order of the steps; of most there is one.
    pub(super) fn given(&self) -> impl Iterator<Item = (&str, &str, &Sealed<'a>)> {
        self.steps.iter().flat_map(move |(step, sealed)| {
            let outputs = sealed.outputs().into_iter().filter(move |output| self.shows(step, sealed, output));
            outputs.map(move |output| (output, step.as_str(), sealed))
        })
    }

    fn shows(&self, step: &str, sealed: &Sealed<'a>, output: &str) -> bool {
        if !self.near.sees(self.visibility(output)) {
            return false;
        }
        if !sealed.is_fan_out() {
            return true;
        }
        output != LOG_OUTPUT && !self.is_appended(step, output)
    }

    /// Whether another step puts the files of a fan-out together.
    fn is_appended(&self, step: &str, output: &str) -> bool {
        if self.definition.is_some() {
            let declared = self.declared().iter().find(|known| known.name == output);
            return declared.is_some_and(|declared| is_appended(declared, true));
        }
        // What that step has given, or all where it has given nothing yet.
        let assembling = assemble_name(step);
        match self.steps.iter().find(|(name, _)| *name == assembling) {
            Some((_, sealed)) => sealed.outputs().contains(&output),
            None => self.known.contains(&assembling),
        }
    }

    /// Files of an output as people find them: the logs of several steps have one name each.
    pub(super) fn placed(&self, output: &str, step: &str, mut files: Vec<ManifestFile>) -> Vec<ManifestFile> {
        if output == LOG_OUTPUT && self.given().filter(|(given, ..)| *given == output).count() > 1 {
            files.iter_mut().for_each(|file| file.path = format!("{LOG_OUTPUT}/{step}.txt"));
        }
        files
    }

    /// At most `limit` files of an output, from number `from` on.
    pub(super) async fn files(&self, output: &str, from: u64, limit: usize) -> Result<Vec<ManifestFile>, Refusal> {
        let (mut skip, mut found) = (from, Vec::new());
        for (_, step, sealed) in self.given().filter(|(given, _, _)| *given == output) {
            let here = sealed.volume(output).files;
            if skip >= here {
                skip -= here;
                continue;
            }
            found.extend(self.placed(output, step, sealed.files(output, skip, limit - found.len()).await?));
            skip = 0;
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }
}
