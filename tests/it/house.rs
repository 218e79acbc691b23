//! The layers of the house: who may import whom, and which module may name which library.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Every module with those of ours that it may import. `app` may import all of them, and nobody imports `app`.
const LAYERS: [(&str, &[&str]); 10] = [
    ("domain", &[]),
    ("in_flight", &[]),
    ("store", &["domain", "in_flight", "telemetry"]),
    ("cache", &["domain", "in_flight", "telemetry"]),
    ("archive", &["store", "cache", "domain", "in_flight", "telemetry"]),
    (
        "service",
        &["archive", "store", "cache", "domain", "in_flight", "telemetry"],
    ),
    ("api", &["service", "archive", "domain", "in_flight", "telemetry"]),
    ("commands", &["service", "archive", "domain", "telemetry"]),
    ("config", &["cache", "domain", "telemetry"]),
    ("telemetry", &["domain"]),
];

/// Libraries that only the module that wraps them may name.
const WRAPPED: [(&str, &[&str]); 17] = [
    ("arrow_array", &["src/archive/segment/"]),
    ("arrow_schema", &["src/archive/segment/"]),
    ("aws_sdk_s3", &["src/archive/objects/s3"]),
    ("mongodb", &["src/store/mongo/"]),
    ("opentelemetry", &["src/telemetry/"]),
    ("opentelemetry_appender_tracing", &["src/telemetry/"]),
    ("opentelemetry_otlp", &["src/telemetry/"]),
    ("opentelemetry_prometheus", &["src/telemetry/"]),
    ("opentelemetry_sdk", &["src/telemetry/"]),
    ("prometheus", &["src/telemetry/"]),
    ("tracing_opentelemetry", &["src/telemetry/"]),
    ("parquet", &["src/archive/segment/"]),
    ("poem", &["src/api/", "src/app/"]),
    ("poem_openapi", &["src/api/", "src/app/"]),
    ("redis", &["src/cache/"]),
    ("rusqlite", &["src/store/sqlite/"]),
    ("indicatif", &["src/commands/progress.rs"]),
];

#[test]
fn every_module_imports_only_from_the_layers_below_it() {
    for (path, text) in sources() {
        let module = module_of(&path);
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            assert!(
                ["app", "main", "lib"].contains(&module.as_str()),
                "{module}: which layer is {path}?"
            );
            continue;
        };
        for import in imports(&text) {
            assert!(
                import == module || allowed.contains(&import.as_str()),
                "{path} imports crate::{import}; {module} may import {allowed:?}"
            );
        }
    }
}

#[test]
fn every_wrapped_library_is_named_only_where_it_is_wrapped() {
    for (path, text) in sources() {
        for (library, homes) in WRAPPED {
            let at_home = homes.iter().any(|home| path.starts_with(home));
            let named = code(&text).contains(&format!("{library}::"));
            assert!(
                at_home || !named,
                "{path} names {library}, which belongs to {homes:?}"
            );
        }
    }
}

#[test]
fn the_rules_notice_what_they_forbid() {
    assert_eq!(
        imports("use crate::{\n    api::x,\n    domain::{Error, Kind},\n};"),
        ["api", "domain"]
    );
    assert_eq!(imports("fn f() { crate::store::x() }"), ["store"]);
    assert_eq!(
        imports("use crate::{domain::Error, service::Service};"),
        ["domain", "service"]
    );
    assert_eq!(module_of("src/store/sqlite/mod.rs"), "store");
    assert!(!code("/// poem::x\n//! poem::y\n").contains("poem::"));
}

#[test]
fn no_file_of_the_house_is_longer_than_it_should_be() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= 520, "{path} has {lines} lines: split it by subject");
    }
}

/// Every source file, with its path from the root of the repository.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                let from_root = path.strip_prefix(root).expect("within the root");
                found.push((from_root.display().to_string(), text));
            }
        }
    }
    assert!(found.len() > 20, "the source files are where they are looked for");
    // The conformance suites are compiled into this test binary, not into the library.
    let suites = ["src/store/conformance", "src/archive/objects/conformance"];
    found.retain(|(path, _)| !suites.iter().any(|suite| path.starts_with(suite)));
    found
}

fn module_of(path: &str) -> String {
    let inside = path.trim_start_matches("src/");
    inside.split(['/', '.']).next().unwrap_or_default().to_owned()
}

/// The text without its comments.
fn code(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules of ours that a file names, through `use crate::…` or a path.
fn imports(text: &str) -> Vec<String> {
    let code = code(text);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(top_level_names(group)),
            None => found.extend(name(rest)),
        }
    }
    found
}

/// The first name of each item of a `{…}` group, given what follows the brace.
fn top_level_names(group: &str) -> Vec<String> {
    let (mut depth, mut items, mut item) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(std::mem::take(&mut item)),
            c => item.push(c),
        }
    }
    items.push(item);
    items.iter().filter_map(|item| name(item.trim_start())).collect()
}

fn name(text: &str) -> Option<String> {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}
