//! Reading requests: names from paths, JSON within its limit, and no surprise in between.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::Shared;
use super::problem::Refusal;
use asynctask_contract::media_type::is_media_type;

/// Largest JSON body, in bytes, where nothing else is said.
pub(crate) const SMALL: usize = 256 << 10;
/// Largest JSON body that lists files or parts: 1,000 files or 10,000 parts fit.
pub(crate) const LIST: usize = 4 << 20;
/// Longest time a handler may take that does not move a file's bytes.
const HANDLER_TIME: Duration = Duration::from_secs(60);

/// Names in a path. One that cannot be read names nothing.
pub(crate) struct Names<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Shared> for Names<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, gateway: &Shared) -> Result<Self, Refusal> {
        let Path(names) = Path::from_request_parts(parts, gateway).await.map_err(|_| Refusal::NotFound)?;
        Ok(Self(names))
    }
}

/// The query of a URL.
pub(crate) struct Filters<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Shared> for Filters<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, gateway: &Shared) -> Result<Self, Refusal> {
        match Query::from_request_parts(parts, gateway).await {
            Ok(Query(filters)) => Ok(Self(filters)),
            Err(error) => Err(Refusal::BadRequest(format!("the query cannot be read: {}", error.body_text()))),
        }
    }
}

/// A JSON body of at most `MAX` bytes.
pub(crate) struct Payload<T, const MAX: usize = SMALL>(pub(crate) T);

impl<T: DeserializeOwned, const MAX: usize> FromRequest<Shared> for Payload<T, MAX> {
    type Rejection = Refusal;

    async fn from_request(request: Request, gateway: &Shared) -> Result<Self, Refusal> {
        if !is_json(request.headers()) {
            return Err(Refusal::NotJson);
        }
        // An announced length is refused before a byte is read.
        if content_length(request.headers()).is_some_and(|length| length > MAX as u64) {
            return Err(Refusal::BodyTooLarge { max: MAX });
        }
        let bytes = gateway.bodies.read(request, MAX).await?;
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Self).map_err(|error| Refusal::BadRequest(format!("the body is not what this call takes: {error}")))
    }
}

/// A JSON body that may be left out, and then stands for the default.
pub(crate) struct MaybePayload<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<Shared> for MaybePayload<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, gateway: &Shared) -> Result<Self, Refusal> {
        if !request.headers().contains_key(CONTENT_TYPE) && content_length(request.headers()).unwrap_or(0) == 0 {
            return Ok(Self(T::default()));
        }
        Payload::<T>::from_request(request, gateway).await.map(|Payload(body)| Self(body))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    essence.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A name of a namespace that may go into a path of the API server; anything else names nothing.
pub(crate) fn namespace(name: &str) -> Result<&str, Refusal> {
    (name.len() <= 63 && is_label(name)).then_some(name).ok_or(Refusal::NotFound)
}

/// A name of an object that may go into a path of the API server; anything else names nothing.
pub(crate) fn object(name: &str) -> Result<&str, Refusal> {
    (name.len() <= 253 && name.split('.').all(is_label)).then_some(name).ok_or(Refusal::NotFound)
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') && text.bytes().all(inner)
}

/// A media type that may become a header.
pub(crate) fn media_type(text: &str) -> Result<&str, Refusal> {
    if is_media_type(text) {
        Ok(text)
    } else {
        Err(Refusal::invalid("InvalidMediaType", "mediaType must look like application/json, at most 127 characters"))
    }
}

/// Gives up on handlers that take too long. Routes that move a file's bytes end in `content`; they end when no byte
/// has moved for a while instead.
pub(crate) async fn in_time(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<axum::extract::MatchedPath>();
    if route.is_some_and(|route| route.as_str().ends_with("/content")) {
        return next.run(request).await;
    }
    match tokio::time::timeout(HANDLER_TIME, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::Slow.into_response(),
    }
}

/// A browser that is led here by another site is refused: a client certificate goes along without being asked for.
/// Programs send neither header; of browsers old ones send the second alone.
pub(crate) async fn same_site(request: Request<Body>, next: Next) -> Response {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let site = request.headers().get("sec-fetch-site").map(|value| value.as_bytes().to_vec());
    let foreign = match site.as_deref() {
        Some(site) => site != b"same-origin" && site != b"none",
        None => is_of_another_origin(&request),
    };
    if !safe && foreign {
        let why = "calls that change something are not taken from other sites' pages";
        return Refusal::Forbidden(why.into()).into_response();
    }
    next.run(request).await
}

fn is_of_another_origin(request: &Request<Body>) -> bool {
    let headers = request.headers();
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    // HTTP/2 has it in the URI.
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    let without_port = |authority: &str| {
        [":443", ":80"].iter().find_map(|port| authority.strip_suffix(port)).unwrap_or(authority).to_owned()
    };
    origin.is_none() || origin.map(without_port) != host.map(without_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_the_api_server_would_take_go_into_its_paths() {
        for good in ["a", "a-1", "studio"] {
            assert!(namespace(good).is_ok() && object(good).is_ok(), "{good}");
        }
        assert!(object("a.b-c.d").is_ok());
        assert!(namespace("a.b").is_err());
        for bad in ["", "..", ".", "a/b", "../secrets", "A", "a?x=1", "a#", "-a", "a-", "a..b", "é", "a b", "a%2fb"] {
            assert!(namespace(bad).is_err(), "{bad:?}");
            assert!(object(bad).is_err(), "{bad:?}");
        }
        assert!(namespace(&"a".repeat(64)).is_err() && object(&"a".repeat(254)).is_err());
    }

    #[test]
    fn a_media_type_cannot_carry_a_header_of_its_own() {
        for good in ["text/csv", "application/vnd.api+json", "text/plain; charset=utf-8"] {
            assert!(media_type(good).is_ok(), "{good}");
        }
        for bad in ["", "text", "text/", "/csv", "a/b/c", "text/csv\r\nx: y", "text/csv; a=\n", "te xt/csv", "é/x"] {
            assert!(media_type(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn json_is_told_by_its_media_type() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, value.parse().expect("a header value"));
            is_json(&headers)
        };
        assert!(with("application/json") && with("Application/JSON; charset=utf-8"));
        assert!(!with("text/plain") && !with("application/x-www-form-urlencoded"));
    }
}
