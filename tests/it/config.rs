//! Configuration: the four sources, their order, and the one error that lists everything.

use std::{collections::BTreeSet, ffi::OsString, fs, path::PathBuf};

use colloquy::{
    config::{Config, ConfigErrors, DEFAULTS, Redacted, Sources, StoreUrl},
    telemetry::LogFormat,
};
use tempfile::TempDir;

/// A file in a directory that lives as long as the first of the two.
fn file(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("colloquy.toml");
    fs::write(&path, text).unwrap();
    (directory, path)
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    let pair = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
    pairs.iter().map(pair).collect()
}

fn flags(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pair = |(key, value): &(&str, &str)| (String::from(*key), String::from(*value));
    pairs.iter().map(pair).collect()
}

fn from_environment(pairs: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Config::load(Sources {
        environment: environment(pairs),
        ..Sources::default()
    })
}

fn from_file(text: &str) -> Result<Config, ConfigErrors> {
    let (_directory, path) = file(text);
    Config::load(Sources {
        file: Some(path),
        ..Sources::default()
    })
}

/// The only line of the error.
fn mistake(loaded: Result<Config, ConfigErrors>) -> String {
    let errors = loaded.expect_err("the configuration should have been refused");
    assert_eq!(errors.lines().len(), 1, "{errors}");
    errors.lines()[0].clone()
}

#[test]
fn the_defaults_are_a_configuration() {
    let config = Config::load(Sources::default()).unwrap();
    assert_eq!(config.listen.as_str(), "127.0.0.1:8080");
    assert_eq!(
        config.store,
        StoreUrl::Sqlite(PathBuf::from("colloquy-data/colloquy.db"))
    );
    assert_eq!(config.log_format, LogFormat::Human);
    assert_eq!(config.log_filter.to_string(), "aws_config=warn,poem=warn,info");
    assert_eq!(config.body_bytes_max, 4 * 1024 * 1024);
    assert_eq!(config.tombstone_days, 30);
}

#[test]
fn the_default_file_and_the_fields_of_the_configuration_are_the_same_keys() {
    let table: toml::Table = DEFAULTS.parse().unwrap();
    let written: BTreeSet<&str> = table.keys().map(String::as_str).collect();
    let fields: BTreeSet<&str> = Config::KEYS.iter().copied().collect();
    assert_eq!(written, fields);
}

/// Each key of the default file with the comment above it.
fn comments() -> Vec<(String, String)> {
    let mut comment = String::new();
    let mut found = Vec::new();
    for line in DEFAULTS.lines() {
        if let Some(more) = line.strip_prefix("# ") {
            comment = comment + more + " ";
        } else if let Some((key, _)) = line.split_once(" = ") {
            found.push((key.to_owned(), std::mem::take(&mut comment)));
        } else {
            comment.clear();
        }
    }
    found
}

#[test]
fn every_key_of_the_default_file_has_a_comment() {
    let comments = comments();
    assert_eq!(comments.len(), Config::KEYS.len());
    for (key, comment) in comments {
        assert!(comment.len() > 20, "{key}: {comment:?}");
    }
}

#[test]
fn the_comment_of_a_number_says_the_limits_that_hold() {
    let table: toml::Table = DEFAULTS.parse().unwrap();
    for (key, comment) in comments() {
        if !table[&key].is_integer() {
            continue;
        }
        let variable = format!("COLLOQUY_{}", key.to_uppercase());
        let refused = mistake(from_environment(&[(&variable, "-1")]));
        let (_, limits) = refused.split_once("whole number from ").unwrap();
        let (limits, _) = limits.split_once(',').unwrap();
        let said = format!("From {limits}.");
        assert!(comment.contains(&said), "{key}: {said} {comment}");
    }
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_defaults() {
    let (_directory, path) = file("listen = \"file:1\"\nstore = \"sqlite:file.db\"\nsqlite_readers = 1\n");
    let config = Config::load(Sources {
        file: Some(path),
        environment: environment(&[
            ("COLLOQUY_LISTEN", "environment:2"),
            ("COLLOQUY_STORE", "sqlite:environment.db"),
            ("HOME", "/root"),
        ]),
        flags: flags(&[("listen", "early:3"), ("listen", "flag:4")]),
    })
    .unwrap();
    assert_eq!(config.listen.as_str(), "flag:4");
    assert_eq!(config.store.to_string(), "sqlite:environment.db");
    assert_eq!(config.sqlite_readers, 1);
    assert_eq!(config.append_flush_slots, 2);
}

#[test]
fn one_error_lists_everything_that_is_wrong_and_where_it_came_from() {
    let (_directory, path) = file("listen = 8080\nlog_formats = \"json\"\n\nsqlite_readers = 65\n");
    let errors = Config::load(Sources {
        file: Some(path.clone()),
        environment: environment(&[
            ("COLLOQUY_STORE", "postgres://db"),
            ("COLLOQUY_TOMBSTONE_DAY", "7"),
            ("COLLOQUY_APPEND_FLUSH_SLOTS", "two"),
        ]),
        flags: flags(&[("log_format", "xml"), ("listen", "localhost:0")]),
    })
    .unwrap_err();
    let path = path.display();
    let expected = [
        format!("listen ({path} line 1) must be a string, not 8080"),
        format!("log_formats ({path} line 2) is not a key of the configuration; did you mean log_format?"),
        format!("sqlite_readers ({path} line 4) must be a whole number from 1 to 64, not 65"),
        "COLLOQUY_APPEND_FLUSH_SLOTS must be a whole number from 1 to 64, not \"two\"".into(),
        "COLLOQUY_STORE must be sqlite:PATH, mongodb://… or mongodb+srv://…, not \"postgres:***\"".into(),
        "COLLOQUY_TOMBSTONE_DAY is not a key of the configuration; did you mean COLLOQUY_TOMBSTONE_DAYS?"
            .into(),
        "--log-format must be human or json, not \"xml\"".into(),
    ];
    assert_eq!(errors.lines(), expected);
    assert_eq!(errors.to_string().lines().count(), 1 + expected.len());
}

#[test]
fn a_wrong_value_is_reported_even_when_a_stronger_source_replaces_it() {
    let loaded = Config::load(Sources {
        environment: environment(&[("COLLOQUY_LISTEN", "nowhere")]),
        flags: flags(&[("listen", "127.0.0.1:0")]),
        ..Sources::default()
    });
    assert!(mistake(loaded).starts_with("COLLOQUY_LISTEN must be HOST:PORT"));
}

#[test]
fn a_file_that_is_not_there_or_not_toml_is_named_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.toml");
    let loaded = Config::load(Sources {
        file: Some(missing.clone()),
        ..Sources::default()
    });
    let said = mistake(loaded);
    assert!(
        said.starts_with(&format!("{} can't be read: ", missing.display())),
        "{said}"
    );

    let said = mistake(from_file("# one\nlisten = \"a:1\"\nsqlite_readers = = 4\n"));
    assert!(said.contains("colloquy.toml line 3 is not TOML: "), "{said}");
    let said = mistake(from_file("listen = \"a:1\"\nlisten = \"a:2\"\n"));
    assert!(said.contains("colloquy.toml line 2 is not TOML: "), "{said}");
}

#[test]
fn an_unknown_key_is_refused_with_a_suggestion_only_when_one_is_near() {
    for (variable, meant) in [
        ("COLLOQUY_STORAGE", "COLLOQUY_STORE"),
        ("COLLOQUY_listen", "COLLOQUY_LISTEN"),
        ("COLLOQUY_LOGFORMAT", "COLLOQUY_LOG_FORMAT"),
        ("COLLOQUY_BODY_MAX_BYTES", "COLLOQUY_BODY_BYTES_MAX"),
    ] {
        let said = mistake(from_environment(&[(variable, "x")]));
        assert_eq!(
            said,
            format!("{variable} is not a key of the configuration; did you mean {meant}?")
        );
    }
    let said = mistake(Config::load(Sources {
        flags: flags(&[("log_formats", "json")]),
        ..Sources::default()
    }));
    assert!(said.ends_with("did you mean --log-format?"), "{said}");
    let said = mistake(from_environment(&[("COLLOQUY_FROBNICATE", "x")]));
    assert_eq!(said, "COLLOQUY_FROBNICATE is not a key of the configuration");
    let said = mistake(from_file("[server]\nport = 1\n"));
    assert!(said.contains("server (") && !said.contains("mean"), "{said}");
}

#[test]
fn variables_that_kubernetes_and_the_tests_set_are_passed_over() {
    from_environment(&[
        ("COLLOQUY_SERVICE_HOST", "10.0.0.11"),
        ("COLLOQUY_SERVICE_PORT", "8080"),
        ("COLLOQUY_SERVICE_PORT_HTTP", "8080"),
        ("COLLOQUY_PORT", "tcp://10.0.0.11:8080"),
        ("COLLOQUY_PORT_8080_TCP", "tcp://10.0.0.11:8080"),
        ("COLLOQUY_PORT_8080_TCP_ADDR", "10.0.0.11"),
        ("COLLOQUY_PORT_8080_TCP_PORT", "8080"),
        ("COLLOQUY_PORT_8080_TCP_PROTO", "tcp"),
        ("COLLOQUY_TEST_MONGODB", "mongodb://localhost"),
        ("COLLOQUY_URL", "http://localhost:8080"),
        ("COLLOQUYX", "1"),
        ("LISTEN", "nowhere"),
    ])
    .unwrap();
    for near in ["COLLOQUY_PORTS", "COLLOQUY_SERVICE", "COLLOQUY_SERVICE_PORTAL"] {
        mistake(from_environment(&[(near, "1")]));
    }
}

#[test]
fn no_key_hides_behind_a_variable_that_is_passed_over() {
    for key in Config::KEYS {
        let variable = format!("COLLOQUY_{}", key.to_uppercase());
        let said = mistake(from_environment(&[(&variable, "?")]));
        assert!(said.starts_with(&variable), "{said}");
    }
}

#[cfg(unix)]
#[test]
fn a_value_that_is_not_utf8_is_a_mistake_and_not_a_panic() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let loaded = Config::load(Sources {
        environment: vec![
            (bytes(b"COLLOQUY_LISTEN"), bytes(b"\xff:1")),
            (bytes(b"OTHER\xff"), bytes(b"\xff")),
        ],
        ..Sources::default()
    });
    assert_eq!(mistake(loaded), "COLLOQUY_LISTEN is not UTF-8");
}

#[test]
fn a_secret_in_a_value_is_never_shown() {
    for url in [
        "mongodb://app:hunter2@db/colloquy",
        "mongodb://app:hunter2@db-1:27017,db-2/?authSource=admin",
        "mongodb://app:hunter2",
        "rediss://:hunter2@cache:6380/0",
        "mongodb:app:hunter2@db",
        "app:hunter2@db",
        "redis:hunter2",
        "redis://cache?password=hunter2",
    ] {
        for key in Config::KEYS {
            let variable = format!("COLLOQUY_{}", key.to_uppercase());
            let loaded = from_environment(&[(&variable, url), ("COLLOQUY_SECRET", url)]);
            let errors = loaded.unwrap_err();
            assert!(!format!("{errors} {errors:?}").contains("hunter2"), "{errors}");
            // What may be a store is one, and is shown no more than what is none.
            let shown = match from_file(&format!("{key} = \"{url}\"")) {
                Ok(config) => format!("{} {config:?}", config.store),
                Err(errors) => format!("{errors} {errors:?}"),
            };
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        for text in [
            format!("store = {url}"),
            format!("store = \"{url}\n"),
            url.to_owned(),
        ] {
            let errors = from_file(&text).unwrap_err();
            assert!(!format!("{errors} {errors:?}").contains("hunter2"), "{errors}");
        }
    }
}

#[test]
fn a_url_is_shown_without_its_user_and_parameters() {
    for (url, shown) in [
        ("mongodb://app:pw@db-1,db-2/x", "mongodb://***@db-1,db-2/x"),
        (
            "mongodb+srv://app:p@ss/w?rd@db/x?tls=true",
            "mongodb+srv://***@db/x?***",
        ),
        ("redis://:pw@cache:6379/0", "redis://***@cache:6379/0"),
        ("redis://cache:6379/0?token=pw", "redis://cache:6379/0?***"),
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("app:pw@db", "***@db"),
    ] {
        assert_eq!(Redacted(url).to_string(), shown);
        assert_eq!(format!("{:?}", Redacted(url)), shown);
    }
}

#[test]
fn a_store_is_a_sqlite_file_relative_or_absolute() {
    for (url, path) in [
        ("sqlite:data/c.db", "data/c.db"),
        ("sqlite:/var/lib/c.db", "/var/lib/c.db"),
        ("sqlite:///var/lib/c.db", "/var/lib/c.db"),
        ("sqlite:a b%20c.db", "a b%20c.db"),
    ] {
        let store: StoreUrl = url.parse().unwrap();
        assert_eq!(store, StoreUrl::Sqlite(PathBuf::from(path)), "{url}");
        assert_eq!(store.to_string().parse(), Ok(store));
    }
    for bad in [
        "",
        "c.db",
        "sqlite",
        "sqlite:",
        "sqlite:///",
        "sqlite:data/",
        "sqlite:data/..",
        "sqlite://data/c.db",
        "sqlite::memory:",
        "sqlite:file:c.db",
        "sqlite:c.db?mode=memory",
        "sqlite:c\0.db",
    ] {
        assert!(bad.parse::<StoreUrl>().is_err(), "{bad}");
    }
    let said = mistake(from_environment(&[("COLLOQUY_STORE", "c.db")]));
    assert!(said.contains("sqlite:PATH"), "{said}");
}

#[test]
fn a_store_is_a_mongodb_url_shown_without_its_secrets() {
    for (url, shown) in [
        ("mongodb://localhost", "mongodb://localhost"),
        (
            "mongodb://[::1]:27017,[::2]/calls",
            "mongodb://[::1]:27017,[::2]/calls",
        ),
        (
            "mongodb://a:1,b:2/calls?replicaSet=r",
            "mongodb://a:1,b:2/calls?***",
        ),
        ("mongodb+srv://app:hunter2@db/calls", "mongodb+srv://***@db/calls"),
    ] {
        let store: StoreUrl = url.parse().unwrap();
        assert_eq!(store, StoreUrl::Mongo(String::from(url)));
        assert_eq!(store.to_string(), shown);
        assert_eq!(format!("{store:?}"), format!("StoreUrl({shown})"));
    }
    for bad in [
        "mongodb:localhost",
        "mongodb://",
        "mongodb:///calls",
        "mongodb://localhost:port/calls",
        "mongodb://a:1,/calls",
        "mongodb://a\nb",
        "mongo://localhost",
    ] {
        assert!(bad.parse::<StoreUrl>().is_err(), "{bad}");
    }
}

#[test]
fn an_address_to_listen_on_is_a_host_and_a_port() {
    for good in [
        "127.0.0.1:0",
        "0.0.0.0:65535",
        "[::]:80",
        "[::1]:80",
        "localhost:80",
        "a-b.c_d:1",
    ] {
        from_environment(&[("COLLOQUY_LISTEN", good)]).unwrap();
    }
    for bad in [
        "",
        "localhost",
        ":80",
        "80",
        "::1:80",
        "[::1]",
        "[x]:80",
        "a:65536",
        "a:+1",
        "a:",
        "1.2.3:80",
        "127.0.0.256:80",
        "http://a:80",
        "a b:80",
        "a:80 ",
    ] {
        let said = mistake(from_environment(&[("COLLOQUY_LISTEN", bad)]));
        assert!(said.contains("[::1]:8080"), "{said}");
    }
}

#[test]
fn a_number_is_whole_and_within_its_limits() {
    let readers = |text: &str| from_environment(&[("COLLOQUY_SQLITE_READERS", text)]);
    assert_eq!(readers("1").unwrap().sqlite_readers, 1);
    assert_eq!(readers("64").unwrap().sqlite_readers, 64);
    for bad in ["0", "65", "-1", "4.0", "4k", "", " 4", "99999999999999999999"] {
        mistake(readers(bad));
    }
    for bad in ["\"4\"", "4.0", "-4", "true", "[4]", "{ a = 4 }"] {
        mistake(from_file(&format!("sqlite_readers = {bad}")));
    }
}

#[test]
fn a_log_filter_that_cannot_be_read_is_a_mistake() {
    from_environment(&[("COLLOQUY_LOG_FILTER", "warn,colloquy::store=trace")]).unwrap();
    for bad in ["", "colloquy=loud"] {
        let said = mistake(from_environment(&[("COLLOQUY_LOG_FILTER", bad)]));
        assert!(
            said.starts_with("COLLOQUY_LOG_FILTER must be a level or"),
            "{said}"
        );
    }
}

#[test]
fn what_does_not_fit_into_its_queue_is_a_mistake_of_the_stronger_source() {
    let said = mistake(from_file("sqlite_group_jobs_max = 5000"));
    assert!(said.starts_with("sqlite_group_jobs_max ("), "{said}");
    assert!(said.contains(" is 5000, more than sqlite_queue_jobs_max (config.default.toml line "));
    assert!(said.ends_with("), which is 4096"), "{said}");

    let said = mistake(from_environment(&[("COLLOQUY_APPEND_QUEUE_EVENTS_MAX", "500")]));
    assert!(said.starts_with("COLLOQUY_APPEND_QUEUE_EVENTS_MAX is 500, less than append_group_events_max ("));

    let said = mistake(from_file("mongo_server_selection_ms_max = 20000"));
    assert!(
        said.contains(" is 20000, more than mongo_call_ms_max ("),
        "{said}"
    );
    let said = mistake(from_environment(&[("COLLOQUY_MONGO_POOL_MAX", "4")]));
    assert!(said.contains("is 4, less than mongo_pool_min ("), "{said}");

    let errors = from_file("append_queue_bytes_max = 2097152").unwrap_err();
    assert!(errors.to_string().contains("append_group_bytes_max"), "{errors}");
    assert!(errors.to_string().contains("body_bytes_max"), "{errors}");
}

#[test]
fn the_cache_goes_with_the_store() {
    let cache = |settings: &str| from_file(settings).map(|config| config.cache().to_string());
    let mongo = "store = \"mongodb://db/calls\"\n";
    assert_eq!(cache("").unwrap(), "memory");
    assert_eq!(cache(mongo).unwrap(), "none");
    assert_eq!(cache("cache = \"memory\"").unwrap(), "memory");
    assert_eq!(cache("cache = \"none\"").unwrap(), "none");
    for named in ["none", "redis://cache:6379"] {
        assert_eq!(cache(&format!("{mongo}cache = \"{named}\"")).unwrap(), named);
    }
    // Others write to MongoDB, too, of which this process would not know.
    let said = mistake(from_file(&format!("{mongo}cache = \"memory\"")));
    assert!(
        said.starts_with("cache (") && said.contains(" is memory, which only the embedded store can have"),
        "{said}"
    );
    assert!(mistake(from_file("cache = \"disk\"")).contains("must be auto, memory, none, "));
}
