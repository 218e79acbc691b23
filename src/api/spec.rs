//! The OpenAPI document.

use std::collections::HashMap;

use poem::{endpoint::BoxEndpoint, http::Method};
use poem_openapi::{
    LicenseObject, OpenApi, OpenApiService, ServerObject,
    registry::{MetaApi, Registry},
};
use serde_json::{Value, json};

use super::{
    admin::AdminApi,
    operations::catalogue,
    problem::Code,
    routes::{ConversationApi, HealthApi},
    shape,
};

pub type Apis = (ConversationApi, AdminApi, HealthApi);

const DESCRIPTION: &str = "The system of record for AI conversations. Open a **session**, append **events**, read \
them back, end the session. Every write is safe to repeat, and an acknowledged write is durable and visible to \
every read that follows.\n\nFailures are `application/problem+json` (RFC 9457), everywhere: match `code`, show \
`detail`. Pages are walked with `cursor`; cursors are opaque. A field without a value is left out, in answers and in \
requests: `null` is refused, except in a merge patch, where it removes. Send `X-Request-Id` to find a request in the log.";

/// The operations without anything behind them: all that the document needs.
struct Described;

impl OpenApi for Described {
    fn meta() -> Vec<MetaApi> {
        Apis::meta()
    }

    fn register(registry: &mut Registry) {
        Apis::register(registry);
    }

    fn add_routes(self, _routes: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {}
}

fn described() -> OpenApiService<Described, ()> {
    OpenApiService::new(Described, "Colloquy", env!("CARGO_PKG_VERSION"))
        .description(DESCRIPTION)
        .license(LicenseObject::new("MIT OR Apache-2.0"))
        .server(ServerObject::new("/").description("This server"))
}

/// The document as JSON: what poem-openapi makes, and what it has no words for.
pub fn document() -> String {
    let generated = described().spec();
    // poem-openapi wrote the document itself, so reading it back can't fail; if it did, we would still have it.
    let Ok(mut document) = serde_json::from_str::<Value>(&generated) else {
        return generated;
    };
    order_tags(&mut document);
    close_request_objects(&mut document);
    add_problem_examples(&mut document);
    let mut text = serde_json::to_string_pretty(&document).unwrap_or(generated);
    text.push('\n');
    text
}

/// The Swagger UI page, on our document instead of poem-openapi's.
pub fn swagger_page(document: &str) -> String {
    let service = described();
    service
        .swagger_ui_html()
        .replace(&service.spec(), document)
        // The empty icon keeps browsers from asking for /favicon.ico.
        .replace(
            "<title>Swagger UI</title>",
            "<title>Colloquy API</title><link rel=\"icon\" href=\"data:,\">",
        )
        .replacen(
            "\n<html charset=\"UTF-8\">",
            "<!DOCTYPE html>\n<html lang=\"en\">",
            1,
        )
}

/// Puts the tags, which poem-openapi sorts by name, in the order in which a reader should meet them.
fn order_tags(document: &mut Value) {
    const ORDER: [&str; 4] = ["Sessions", "Events", "Archive", "Health"];
    if let Some(tags) = document["tags"].as_array_mut() {
        tags.sort_by_key(|tag| ORDER.iter().position(|name| tag["name"] == *name));
    }
}

/// Says of every object that can be sent that unknown fields are refused, which poem-openapi can't say.
fn close_request_objects(document: &mut Value) {
    let mut names = Vec::new();
    if let Some(paths) = document["paths"].as_object() {
        let operations = paths
            .values()
            .filter_map(Value::as_object)
            .flat_map(|path| path.values());
        for operation in operations {
            references(&operation["requestBody"], &mut names);
        }
    }
    while let Some(name) = names.pop() {
        let schema = &mut document["components"]["schemas"][&name];
        if schema["additionalProperties"].is_null() {
            schema["additionalProperties"] = json!(false);
            references(&schema["properties"], &mut names);
        }
    }
}

fn references(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(path)) = object.get("$ref") {
                names.extend(path.rsplit('/').next().map(str::to_owned));
            }
            object.values().for_each(|value| references(value, names));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, names)),
        _ => {}
    }
}

/// Gives every problem of every operation an example under its own code.
fn add_problem_examples(document: &mut Value) {
    let catalogue = catalogue();
    let Some(paths) = document["paths"].as_object_mut() else {
        return;
    };
    let operations = paths
        .values_mut()
        .filter_map(Value::as_object_mut)
        .flat_map(|path| path.values_mut());
    for operation in operations {
        let id = operation["operationId"].as_str().unwrap_or_default();
        let codes = catalogue
            .iter()
            .find(|(name, _)| *name == id)
            .map_or(&[][..], |(_, codes)| codes);
        for group in codes.chunk_by(|a, b| a.status() == b.status()) {
            let media = &mut operation["responses"][group[0].status().to_string()]["content"];
            media[super::problem::CONTENT_TYPE]["examples"] = group.iter().map(example).collect();
        }
    }
}

fn example(code: &Code) -> (String, Value) {
    let example = json!({"summary": code.title(), "value": shape::problem_example(*code)});
    (code.as_str().to_owned(), example)
}
