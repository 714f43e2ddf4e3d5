//! `/api/v1`: what programs of people may do. Each route: who are you → may you (SubjectAccessReview) → act → one
//! audit line. A task somebody may not see and one that does not exist are answered alike.
//!
//! The router and the OpenAPI document are made from the same list, so no route is in one of them only.

use axum::Json;
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Value, json};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;

mod broker;
mod cancel;
mod found;
mod history;
mod logs;
pub(crate) mod newest;
mod outputs;
mod past;
mod readable;
mod retry;
mod rights;
mod segments;
mod shards;
mod tasks;
mod uploads;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "AsyncTask gateway",
        description = "Tasks, their outputs and uploads. Sign in with a token of the cluster (`Authorization: Bearer …`) \
                       or with a client certificate that the cluster's client CA has signed; rights are RBAC on \
                       `asynctasks` and its virtual subresources `outputs`, `uploads`, `cancel`, `retry` and `history` (API group asynctask.dev). \
                       Whatever fails is answered as application/problem+json (RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((
        url = "https://asynctask-gateway.asynctask-system.svc",
        description = "Inside of the cluster; its certificates are signed by those of ConfigMap asynctask-gateway-ca"
    )),
    security(("token" = []))
)]
struct Document;

/// Path of the document itself; free for all: it says nothing about any cluster.
pub(crate) const DOCUMENT: &str = "/openapi.json";

/// The routes, and the document that describes them.
pub(crate) fn api() -> (axum::Router<Shared>, OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(<Document as utoipa::OpenApi>::openapi())
        .routes(routes!(tasks::list, tasks::create))
        .routes(routes!(tasks::read))
        .routes(routes!(cancel::cancel))
        .routes(routes!(retry::retry))
        .routes(routes!(shards::list))
        .routes(routes!(history::history))
        .routes(routes!(past::list))
        .routes(routes!(found::find))
        .routes(routes!(outputs::list))
        .routes(routes!(outputs::remove))
        .routes(routes!(outputs::download, outputs::ticket))
        .routes(routes!(segments::list))
        .routes(routes!(segments::download, segments::ticket))
        .routes(routes!(uploads::begin))
        .routes(routes!(uploads::read))
        .routes(routes!(uploads::receive))
        .routes(routes!(uploads::parts))
        .routes(routes!(uploads::complete))
        .split_for_parts();
    let token = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    document.components.get_or_insert_with(Components::new).add_security_scheme("token", token);
    (router, document)
}

/// The document with the schema of an AsyncTask, which is the one that the API server has.
pub(crate) fn document() -> Value {
    let mut document = serde_json::to_value(api().1).expect("invariant: the document is plain JSON");
    document["components"]["schemas"]["AsyncTask"] = task_schema();
    document
}

fn task_schema() -> Value {
    let crds = asynctask_api::crd::all();
    let crd = crds.iter().find(|(_, crd)| crd.spec.names.kind == "AsyncTask").map(|(_, crd)| json!(crd));
    let mut schema = crd.map_or(Value::Null, |crd| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone());
    of_openapi(&mut schema);
    // A later release may have more words for what became of a run.
    open_words(&mut schema["properties"]["status"]);
    // What cannot be read is listed by its name alone.
    schema.as_object_mut().map(|schema| schema.remove("required"));
    let text = json!({"type": "string"});
    for (field, said) in [("apiVersion", &text), ("kind", &text), ("metadata", &json!({"type": "object"}))] {
        schema["properties"][field] = said.clone();
    }
    schema
}

fn open_words(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.remove("enum");
            members.values_mut().for_each(open_words);
        }
        Value::Array(members) => members.iter_mut().for_each(open_words),
        _ => {}
    }
}

/// From the dialect of a CRD to that of the document.
fn of_openapi(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            let any = members.get("x-kubernetes-int-or-string") == Some(&json!(true));
            let nullable = members.remove("nullable") == Some(json!(true));
            members.retain(|name, _| !name.starts_with("x-kubernetes-"));
            if any {
                members.insert("type".to_owned(), json!(["integer", "string"]));
            }
            if let Some(one) = members.get("type").filter(|one| nullable && one.is_string()).cloned() {
                members.insert("type".to_owned(), json!([one, "null"]));
            }
            members.values_mut().for_each(of_openapi);
        }
        Value::Array(members) => members.iter_mut().for_each(of_openapi),
        _ => {}
    }
}

/// The routes and the document itself.
pub(crate) fn router() -> axum::Router<Shared> {
    let (router, document) = (api().0, document());
    router.route(DOCUMENT, get(|| async move { Json(document).into_response() }))
}
