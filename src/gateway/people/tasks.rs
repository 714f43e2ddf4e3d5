//! Tasks: list, read, create. They travel as the objects they are.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ListParams, PostParams};
use kube::core::{ApiResource, DynamicObject, ObjectMeta};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{newest, uploads};
use crate::authorize::Access;
use crate::identity::{Caller, Person};
use crate::problem::Refusal;
use crate::request::{self, Filters, Names, Payload};
use crate::{Gateway, Shared};
use asynctask_api::names::MANAGER_GATEWAY;
use asynctask_api::task::{AsyncTaskSpec, DefinitionRef, InputRef, OutputRef, RetryOf};
use asynctask_api::{AsyncTask, TaskDefinitionSpec, TaskState};
use asynctask_contract::people::{NewInput, NewTask, Problem, TaskList};
use asynctask_contract::wire::word;
use asynctask_plan::parameters;
use asynctask_runtime::client::is_status;

/// Tasks of one page where the caller names no limit, and the most they may name.
const PAGE: u32 = 100;
const PAGE_MAX: u32 = 500;
/// Header that makes creating a task safe to repeat.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Root of the names made from it; any fixed UUID does.
const NAMES: Uuid = Uuid::from_u128(0x8d0e_5b0c_2a64_4f0e_9d5b_6a7c_11f2_9e03);

/// Which tasks are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Of this owner.
    owner: Option<String>,
    /// Of this team.
    team: Option<String>,
    /// In this state: `Pending`, `InProgress`, `Complete`, …
    state: Option<String>,
    /// Of this definition.
    definition: Option<String>,
    /// In which order: by `name`, or the `newest` first; absent: by name. For the newest all tasks have to be looked at: of
    /// more than 20,000 the answer is 422, and while another such list of the namespace is made it is 503.
    #[param(inline)]
    order: Option<Order>,
    /// At most so many, up to 500; absent: 100.
    limit: Option<u32>,
    /// Where the page before ended.
    r#continue: Option<String>,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Order {
    /// By name.
    Name,
    /// Created last, listed first.
    Newest,
}

impl Wanted {
    fn params(&self) -> Result<ListParams, Refusal> {
        if let Some(state) = &self.state
            && TaskState::ALL.iter().all(|known| known.as_str() != state)
        {
            let known = TaskState::ALL.map(TaskState::as_str).join(", ");
            return Err(Refusal::BadRequest(format!("`state` must be one of {known}")));
        }
        let limit = self.limit.unwrap_or(PAGE);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(Refusal::BadRequest(format!("`limit` must be from 1 to {PAGE_MAX}")));
        }
        let Self { owner, team, state, definition, .. } = self;
        let which = Which { owner, team, state, definition };
        let mut params = ListParams::default().limit(limit).fields(&which.selector());
        params.continue_token.clone_from(&self.r#continue);
        Ok(params)
    }
}

/// Which tasks the API server is to choose.
pub(super) struct Which<'a> {
    pub(super) owner: &'a Option<String>,
    pub(super) team: &'a Option<String>,
    pub(super) state: &'a Option<String>,
    pub(super) definition: &'a Option<String>,
}

impl Which<'_> {
    /// As a field selector; empty: all.
    pub(super) fn selector(&self) -> String {
        let fields = [
            ("spec.owner", self.owner),
            ("spec.team", self.team),
            ("status.state", self.state),
            ("spec.definition.name", self.definition),
        ];
        let chosen = fields.iter().filter_map(|(field, value)| Some(format!("{field}={}", escape(value.as_deref()?))));
        chosen.collect::<Vec<_>>().join(",")
    }
}

/// A value in a field selector: what would end it is escaped.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

/// Tasks as the API server gives them: one that this release cannot read is still listed.
pub(super) fn objects(gateway: &Gateway, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(gateway.client.clone(), namespace, &ApiResource::erase::<AsyncTask>(&()))
}

fn shown(mut object: DynamicObject) -> Value {
    // Of interest to nobody who looks at a task, and half of its bytes.
    object.metadata.managed_fields = None;
    serde_json::to_value(object).expect("invariant: an object from the API server is JSON")
}

/// List tasks
///
/// Needs the right to `list` `asynctasks` in the namespace.
#[utoipa::path(
    get, path = "/api/v1/namespaces/{namespace}/tasks", tag = "tasks", operation_id = "listTasks",
    params(("namespace" = String, Path, description = "Namespace"), Wanted),
    responses((status = 200, body = TaskList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    State(gateway): State<Shared>,
    caller: Caller,
    Names(namespace): Names<String>,
    Filters(wanted): Filters<Wanted>,
) -> Result<Json<TaskList>, Refusal> {
    let namespace = request::namespace(&namespace)?;
    gateway.authorizer.require(&caller, Access::namespace("list", namespace)).await?;
    let (params, tasks) = (wanted.params()?, objects(&gateway, namespace));
    if wanted.order == Some(Order::Newest) {
        let selector = params.field_selector.unwrap_or_default();
        let limit = wanted.limit.unwrap_or(PAGE);
        let (items, next) =
            newest::page(&gateway, namespace, &tasks, &selector, limit, wanted.r#continue.as_deref()).await?;
        return Ok(Json(TaskList { items: items.into_iter().map(shown).collect(), next }));
    }
    let listed = tasks.list(&params).await.map_err(|source| match source {
        source if is_status(&source, 410) => Refusal::Expired,
        source if is_status(&source, 400) => Refusal::BadRequest("`continue` is not one this list gave".into()),
        source => Refusal::Kube { act: "list AsyncTasks", source },
    })?;
    let next = listed.metadata.continue_.filter(|next| !next.is_empty());
    let mut items: Vec<Value> = listed.items.into_iter().map(shown).collect();
    for item in &mut items {
        identify(item);
    }
    Ok(Json(TaskList { items, next }))
}

/// Objects of a list come without their type; out of the list they need it.
fn identify(item: &mut Value) {
    let kind = ApiResource::erase::<AsyncTask>(&());
    item["apiVersion"] = kind.api_version.into();
    item["kind"] = kind.kind.into();
}

/// Read a task
///
/// Needs the right to `get` `asynctasks`.
#[utoipa::path(
    get, path = "/api/v1/namespaces/{namespace}/tasks/{name}", tag = "tasks", operation_id = "getTask",
    params(("namespace" = String, Path, description = "Namespace"), ("name" = String, Path, description = "Task")),
    responses(
        (status = 200, description = "The AsyncTask object", body = ref("#/components/schemas/AsyncTask")),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn read(
    State(gateway): State<Shared>,
    caller: Caller,
    Names((namespace, name)): Names<(String, String)>,
) -> Result<Response, Refusal> {
    let (namespace, name) = (request::namespace(&namespace)?, request::object(&name)?);
    gateway.authorizer.require(&caller, Access::task("get", namespace, name)).await?;
    let read = objects(&gateway, namespace).get_opt(name).await;
    let read = read.map_err(|source| Refusal::Kube { act: "read an AsyncTask", source })?;
    Ok(([(CACHE_CONTROL, "no-cache")], Json(shown(read.ok_or(Refusal::NotFound)?))).into_response())
}

/// Create a task
///
/// Needs the right to `create` `asynctasks` in the namespace. The user who asks becomes the owner. Give a `name` or
/// the header `Idempotency-Key`: asking again with the same one, for the same, gives the same task and runs it once.
#[utoipa::path(
    post, path = "/api/v1/namespaces/{namespace}/tasks", tag = "tasks", operation_id = "createTask",
    params(
        ("namespace" = String, Path, description = "Namespace"),
        ("Idempotency-Key" = Option<String>, Header, description = "Any text of 1 to 255 visible ASCII characters, new for each new run")
    ),
    request_body = NewTask,
    responses(
        (status = 201, description = "Created: the AsyncTask object", body = ref("#/components/schemas/AsyncTask")),
        (status = 200, description = "Created before, by the same request: the AsyncTask object", body = ref("#/components/schemas/AsyncTask")),
        (status = 409, description = "The name or key was used for another run", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Parameters or inputs are not what the definition takes; `violations` lists each", body = Problem, content_type = "application/problem+json"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn create(
    State(gateway): State<Shared>,
    caller: Caller,
    Names(namespace): Names<String>,
    headers: HeaderMap,
    Payload(asked): Payload<NewTask>,
) -> Result<Response, Refusal> {
    let namespace = request::namespace(&namespace)?;
    gateway.authorizer.require(&caller, Access::namespace("create", namespace)).await?;
    let person = &caller.person;
    require_member(person, asked.team.as_deref())?;
    let name = named(asked.name.as_deref(), &asked.definition, person, namespace, &headers)?;
    let revision = gateway.catalog.current(namespace, &asked.definition, asked.revision.as_deref()).await?;
    require_valid(&revision.spec.content, &asked)?;
    if let Err(refusal) = require_uploads(&gateway, namespace, person, &asked).await {
        // Whoever asks a second time is told what there is, also when its uploads are gone by now.
        let made = objects(&gateway, namespace).get_metadata_opt(&name).await;
        if made.map_err(|source| Refusal::Kube { act: "look for the AsyncTask", source })?.is_none() {
            return Err(refusal);
        }
    }
    let start_after = asked.start_after.as_deref().map(time).transpose()?;
    let task = AsyncTask {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() },
        spec: spec(asked, start_after, &person.user),
        status: None,
    };
    submit(&gateway, namespace, task).await
}

fn spec(asked: NewTask, start_after: Option<Time>, owner: &str) -> AsyncTaskSpec {
    let inputs: BTreeMap<_, _> = asked
        .inputs
        .into_iter()
        .map(|(name, NewInput { upload, output })| {
            let output = output.map(|output| OutputRef { task: output.task, name: output.name });
            (name, InputRef { upload, output })
        })
        .collect();
    AsyncTaskSpec {
        definition: DefinitionRef { name: asked.definition, revision: asked.revision },
        parameters: asked.parameters,
        inputs,
        owner: Some(owner.to_owned()),
        team: asked.team,
        start_after,
        suspend: None,
        cancel: None,
        keep_until: None,
        retry_of: asked.retry_of.map(|name| RetryOf { name }),
        once: None,
        priority_class_name: asked.priority_class_name,
    }
}

fn time(text: &str) -> Result<Time, Refusal> {
    let wrong =
        |_| Refusal::invalid("InvalidTime", "`startAfter` must be an RFC 3339 time such as 2027-01-31T22:00:00Z");
    text.parse().map(Time).map_err(wrong)
}

/// Groups of a person that a refusal names.
const GROUPS: usize = 10;

pub(super) fn require_member(person: &Person, team: Option<&str>) -> Result<(), Refusal> {
    match team {
        Some(team) if !person.groups.iter().any(|group| group == team) => {
            let groups: Vec<String> = person.groups.iter().take(GROUPS).map(|group| format!("{group:?}")).collect();
            let more = if person.groups.len() > GROUPS { " and more" } else { "" };
            let own = match groups.as_slice() {
                [] => "you are in none".to_owned(),
                groups => format!("you are in {}{more}", groups.join(", ")),
            };
            Err(Refusal::Forbidden(format!("`team` must be one of your own groups, as they are named here: {own}")))
        }
        _ => Ok(()),
    }
}

/// The task's name: given, or made from the key so that the same user asking again means the same task.
pub(super) fn named(
    name: Option<&str>,
    of: &str,
    person: &Person,
    namespace: &str,
    headers: &HeaderMap,
) -> Result<String, Refusal> {
    if let Some(name) = name {
        let checked = request::object(name).map(str::to_owned);
        return checked.map_err(|_| {
            Refusal::invalid("InvalidName", "`name` must be a DNS name: lower-case letters, digits, - and . only")
        });
    }
    let id = match headers.get(IDEMPOTENCY_KEY) {
        None => Uuid::new_v4(),
        Some(key) => {
            let text = key.to_str().ok().filter(|text| (1..=255).contains(&text.len()));
            let text = text.ok_or_else(|| {
                Refusal::BadRequest("Idempotency-Key must be 1 to 255 visible ASCII characters".into())
            })?;
            // Lengths in front: no two lists of parts read alike.
            let parts = [namespace, &person.user, of, text];
            let parts: String = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
            Uuid::new_v5(&NAMES, parts.as_bytes())
        }
    };
    let readable: String = of.chars().take(30).collect();
    Ok(format!("{}-{}", readable.trim_end_matches(['-', '.']), id.simple()))
}

/// The uploads that the run names are there, complete, and of whoever asks, for this very input: else it would be made, fail, and use its
/// key up.
async fn require_uploads(gateway: &Gateway, namespace: &str, person: &Person, asked: &NewTask) -> Result<(), Refusal> {
    let mut violations = Vec::new();
    for (name, input) in &asked.inputs {
        let Some(id) = &input.upload else { continue };
        let fits = match uploads::record(gateway, namespace, id).await {
            Ok(record) => {
                let own = record.uploader == person.user && record.namespace == namespace;
                own && record.definition == asked.definition && record.input == *name && record.complete
            }
            Err(Refusal::NotFound) => false,
            Err(refusal) => return Err(refusal),
        };
        if !fits {
            violations.push(format!(
                "/inputs/{name}: {id:?} is no finished upload of yours for this input of this definition: upload the file, \
                 complete the upload, then ask again"
            ));
        }
    }
    if violations.is_empty() {
        return Ok(());
    }
    let message = "the inputs cannot be read: see violations; nothing was created, and the key is not used up".into();
    Err(Refusal::Invalid { word: word::INPUT_MISSING, message, violations })
}

fn require_valid(definition: &TaskDefinitionSpec, asked: &NewTask) -> Result<(), Refusal> {
    let none = Value::Object(serde_json::Map::new());
    let mut violations =
        parameters::violations(definition.parameters.as_ref(), asked.parameters.as_ref().unwrap_or(&none));
    let mut word = "InvalidParameters";
    for name in asked.inputs.keys().filter(|name| definition.inputs.iter().all(|known| known.name != **name)) {
        let known: Vec<&str> = definition.inputs.iter().map(|input| input.name.as_str()).collect();
        let shown: String = name.chars().take(63).collect();
        violations.push(format!("/inputs/{shown}: the definition has no such input, it has {known:?}"));
        word = "InvalidInputs";
    }
    for input in definition.inputs.iter().filter(|input| input.required && !asked.inputs.contains_key(&input.name)) {
        violations.push(format!("/inputs/{}: is required: upload the file and give the upload's id", input.name));
        word = "InvalidInputs";
    }
    if let Some(class) = asked.priority_class_name.as_ref().filter(|class| !definition.priority_classes.contains(class))
    {
        let (shown, known): (String, _) = (class.chars().take(63).collect(), &definition.priority_classes);
        violations.push(format!("/priorityClassName: {shown} is none of those the definition allows: {known:?}"));
        word = "InvalidInputs";
    }
    if violations.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{} of this run are not what the definition takes: correct them",
        match word {
            "InvalidInputs" => "parameters or inputs",
            _ => "parameters",
        }
    );
    Err(Refusal::Invalid { word, message, violations })
}

pub(super) async fn submit(gateway: &Gateway, namespace: &str, task: AsyncTask) -> Result<Response, Refusal> {
    let tasks = Api::<AsyncTask>::namespaced(gateway.client.clone(), namespace);
    let params = PostParams { field_manager: Some(MANAGER_GATEWAY.to_owned()), ..PostParams::default() };
    match tasks.create(&params, &task).await {
        Ok(created) => answer(StatusCode::CREATED, namespace, created),
        Err(source) if is_status(&source, 409) => {
            let name = task.name_any();
            let existing = tasks.get_opt(&name).await;
            let existing = existing.map_err(|source| Refusal::Kube { act: "read an AsyncTask", source })?;
            match existing {
                Some(existing) if is_same(&existing.spec, &task.spec) => answer(StatusCode::OK, namespace, existing),
                Some(_) => Err(Refusal::Conflict {
                    word: "NameTaken",
                    message: "this name or Idempotency-Key was used for another run: choose a new one".into(),
                }),
                None => Err(Refusal::NotYet("a task of this name was just removed: send it again".into())),
            }
        }
        Err(source) => Err(refused(source)),
    }
}

/// Whether an existing task is the run that is asked for. Whether it was cancelled or held since then says nothing about
/// that.
fn is_same(existing: &AsyncTaskSpec, asked: &AsyncTaskSpec) -> bool {
    let but_parameters = |spec: &AsyncTaskSpec| AsyncTaskSpec {
        parameters: None,
        suspend: None,
        cancel: None,
        keep_until: None,
        ..spec.clone()
    };
    let (known, wanted) = (existing.parameters.as_ref(), asked.parameters.as_ref());
    let same = parameters::same(known.unwrap_or(&Value::Null), wanted.unwrap_or(&Value::Null));
    same && but_parameters(existing) == but_parameters(asked)
}

/// What the API server says about the content is said on, in its words: they are about what the caller sent.
fn refused(source: kube::Error) -> Refusal {
    match &source {
        kube::Error::Api(status) if status.code == 422 || status.code == 400 => {
            Refusal::invalid("InvalidTask", status.message.clone())
        }
        kube::Error::Api(status) if status.code == 403 && status.message.contains("exceeded quota") => {
            Refusal::Forbidden(status.message.clone())
        }
        _ => Refusal::Kube { act: "create an AsyncTask", source },
    }
}

fn answer(status: StatusCode, namespace: &str, mut task: AsyncTask) -> Result<Response, Refusal> {
    task.metadata.managed_fields = None;
    let location = format!("/api/v1/namespaces/{namespace}/tasks/{}", task.name_any());
    let location = HeaderValue::from_str(&location).map_err(|error| Refusal::Defect(error.to_string()))?;
    Ok((status, [(LOCATION, location)], Json(task)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(extra: Value) -> NewTask {
        let mut body = json!({"definition": "course-import"});
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        serde_json::from_value(body).expect("a new task")
    }

    fn alice() -> Person {
        Person { user: "alice".into(), groups: vec!["team-a".into()], ..Person::default() }
    }

    fn name(asked: &NewTask, person: &Person, namespace: &str, headers: &HeaderMap) -> Result<String, Refusal> {
        named(asked.name.as_deref(), &asked.definition, person, namespace, headers)
    }

    fn keyed(key: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(IDEMPOTENCY_KEY, key.parse().expect("a header value"));
        headers
    }

    #[test]
    fn the_same_key_of_the_same_user_is_the_same_name() {
        let name =
            |person: &Person, ns: &str, key: &str| name(&asked(json!({})), person, ns, &keyed(key)).expect("a name");
        let first = name(&alice(), "studio", "k1");
        assert_eq!(first, name(&alice(), "studio", "k1"));
        assert!(first.starts_with("course-import-") && first.len() <= 63, "{first}");
        assert!(request::object(&first).is_ok());
        let bob = Person { user: "bob".into(), ..alice() };
        for other in [name(&bob, "studio", "k1"), name(&alice(), "lms", "k1"), name(&alice(), "studio", "k2")] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn without_key_and_name_each_call_is_a_new_run() {
        let one = |headers: &HeaderMap| name(&asked(json!({})), &alice(), "studio", headers).expect("a name");
        assert_ne!(one(&HeaderMap::new()), one(&HeaderMap::new()));
        assert!(name(&asked(json!({})), &alice(), "studio", &keyed(&"k".repeat(256))).is_err());
    }

    #[test]
    fn a_given_name_must_be_one() {
        for bad in ["", "A", "../x", "a/b", "-a"] {
            let refused = name(&asked(json!({"name": bad})), &alice(), "studio", &HeaderMap::new());
            assert!(matches!(refused, Err(Refusal::Invalid { .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_team_is_one_of_the_users_groups() {
        assert!(require_member(&alice(), None).is_ok());
        assert!(require_member(&alice(), Some("team-a")).is_ok());
        assert!(matches!(require_member(&alice(), Some("team-b")), Err(Refusal::Forbidden(_))));
    }

    #[test]
    fn all_violations_are_told_at_once() {
        let definition: TaskDefinitionSpec = serde_json::from_value(json!({
            "title": "x", "steps": [], "inputs": [{"name": "archive", "required": true}],
            "parameters": {"type": "object", "required": ["course"], "properties": {"limit": {"maximum": 5}}},
        }))
        .expect("a definition");
        let wrong = asked(json!({"parameters": {"limit": 9}, "inputs": {"extra": {"upload": "u"}}}));
        let Err(Refusal::Invalid { violations, .. }) = require_valid(&definition, &wrong) else {
            panic!("accepted");
        };
        assert_eq!(violations.len(), 4, "{violations:?}");
        let right = asked(json!({"parameters": {"course": "x"}, "inputs": {"archive": {"upload": "u"}}}));
        assert!(require_valid(&definition, &right).is_ok());
    }

    #[test]
    fn a_field_selector_holds_only_what_was_asked() {
        let query =
            |text: &str| serde_json::from_value::<Wanted>(serde_json::from_str(text).expect("JSON")).expect("a query");
        let wanted = query(r#"{"owner": "a,status.state=Failed", "team": "course-v1:edX+DemoX+2026"}"#);
        let fields = wanted.params().expect("valid").field_selector.expect("set");
        assert_eq!(fields, r"spec.owner=a\,status.state\=Failed,spec.team=course-v1:edX+DemoX+2026");
        assert!(query(r#"{"state": "Done"}"#).params().is_err());
        assert!(query(r#"{"limit": 0}"#).params().is_err() && query(r#"{"limit": 501}"#).params().is_err());
    }
}
