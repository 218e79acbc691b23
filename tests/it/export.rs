//! `colloquy export` when something goes wrong: with its output, with another export beside it, with a conversation that is
//! long. And what the other commands do with an output that can't be written.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::{
    backends::backend_flags,
    conversations::{self, Shape},
    harness::{Folder, folder, peak_memory_kib},
    import_export::{assert_same, command, counts, export, import_memory, run, run_with_input, text},
    random::Random,
};

/// A store with some conversations; gives their lines, too.
fn filled(random: &mut Random, count: usize) -> (std::sync::Arc<Folder>, String) {
    let store = folder();
    let lines = conversations::file(&conversations::mixed(random, count));
    run_with_input(store.path(), &["import", "-"], lines.as_bytes());
    (store, lines)
}

/// The names in a folder that begin like this.
fn names(folder: &Path, beginning: &str) -> Vec<String> {
    let names = fs::read_dir(folder).expect("a folder");
    let names = names.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    names.filter(|name| name.starts_with(beginning)).collect()
}

fn full_disk() -> File {
    OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("it is always there")
}

/// A pipe that nobody reads any more.
fn broken_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

#[track_caller]
pub fn assert_failed(output: &Output, words: &str) {
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(words), "{words:?} is not in {told:?}");
    assert!(!told.contains("panicked"), "{told}");
}

#[test]
fn an_export_whose_reader_goes_away_has_failed() {
    let (store, lines) = filled(&mut Random::seeded(), 60);
    let mut child = command(store.path(), &["export"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("colloquy starts");
    let mut head = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut first = String::new();
    head.read_line(&mut first).expect("a line");
    drop(head);
    let output = child.wait_with_output().expect("an end");
    assert_same(&first, &format!("{}\n", lines.lines().next().expect("a line")));
    assert_failed(
        &output,
        "colloquy: the export is cut off, since its output can't be written: Broken pipe",
    );
    assert!(!text(&output.stderr).contains("exported"));
    // The store was closed properly: the next command finds no log to recover.
    assert!(!store.path().join("data/colloquy.db-wal").exists());
}

/// Also where the little that there is to say is only written at the end.
#[test]
fn whatever_a_command_cannot_write_is_a_failure() {
    let (store, _) = filled(&mut Random::seeded(), 3);
    for arguments in [
        &["export"][..],
        &["export", "--output", "-"],
        &["export", "--output", "/dev/stdout"],
        &["openapi"],
        &["check"],
        &["init"],
        &["archive", "list"],
        &["archive", "verify"],
        &["archive", "run"],
        &["import", "-"],
    ] {
        for (stdout, words) in [
            (full_disk().into(), "No space left"),
            (broken_pipe(), "Broken pipe"),
        ] {
            let run = command(store.path(), arguments).stdout(stdout).output();
            let output = run.expect("colloquy runs");
            assert_failed(&output, words);
            assert!(text(&output.stderr).contains("can't be written"), "{arguments:?}");
        }
    }
    let to_a_device = run(store.path(), &["export", "--output", "/dev/full"]);
    assert_failed(&to_a_device, "No space left");
}

#[test]
fn what_cannot_be_told_on_standard_error_changes_nothing() {
    let (store, lines) = filled(&mut Random::seeded(), 30);
    for stderr in [full_disk().into(), broken_pipe()] {
        let exported = command(store.path(), &["export"]).stderr(stderr).output();
        let exported = exported.expect("colloquy runs");
        assert_eq!(exported.status.code(), Some(0));
        assert_same(text(&exported.stdout), &lines);
    }
    for (arguments, code) in [
        (&["export", "--session", "nobody"][..], 1),
        (&["export", "--session", "no/body"], 2),
        (&["import", "no-such-file"], 1),
        (&["check", "--set", "no_such_key=1"], 2),
    ] {
        let output = command(store.path(), arguments).stderr(full_disk()).output();
        assert_eq!(
            output.expect("colloquy runs").status.code(),
            Some(code),
            "{arguments:?}"
        );
    }
    let bad_line = store.path().join("bad.jsonl");
    fs::write(&bad_line, "{}\n").expect("written");
    let arguments = ["import", bad_line.to_str().expect("text")];
    let output = command(store.path(), &arguments).stderr(full_disk()).output();
    assert_eq!(output.expect("colloquy runs").status.code(), Some(1));
}

#[test]
fn exports_to_one_file_that_overlap_leave_one_of_them_whole() {
    let mut random = Random::seeded();
    let [(one, lines_of_one), (two, lines_of_two)] = [filled(&mut random, 80), filled(&mut random, 120)];
    let shared = folder();
    let path = shared.path().join("out.jsonl");
    let start = |store: &Folder| {
        let arguments = ["export", "--output", path.to_str().expect("text")];
        let mut command = command(store.path(), &arguments);
        command.stderr(Stdio::piped()).spawn().expect("colloquy starts")
    };
    for _ in 0..5 {
        let children = [start(&one), start(&two)];
        for child in children {
            let output = child.wait_with_output().expect("an end");
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
        let left = fs::read_to_string(&path).expect("a file");
        assert!(
            left == lines_of_one || left == lines_of_two,
            "the file is neither of the two exports"
        );
        assert_eq!(names(shared.path(), "out"), ["out.jsonl"]);
    }
}

#[test]
fn an_export_to_a_file_that_is_stopped_leaves_the_earlier_one() {
    // Large enough that a signal finds it at work.
    let store = folder();
    let large = conversations::line(&mut Random::seeded(), "TEMPLATE", Shape::Large).text;
    let lines: String = (0..12)
        .map(|at| format!("{}\n", large.replace("TEMPLATE", &format!("s-{at}"))))
        .collect();
    run_with_input(store.path(), &["import", "-"], lines.as_bytes());
    let path = store.path().join("out.jsonl");
    for signal in ["TERM", "INT"] {
        fs::write(&path, "the backup of yesterday").expect("written");
        let child = command(
            store.path(),
            &["export", "--output", path.to_str().expect("text")],
        )
        .stderr(Stdio::piped())
        .spawn()
        .expect("colloquy starts");
        // It writes, so it has begun, and listens to signals.
        let begun = || {
            names(store.path(), "out.jsonl.")
                .iter()
                .any(|name| fs::metadata(store.path().join(name)).is_ok_and(|metadata| metadata.len() > 0))
        };
        while !begun() {
            std::thread::yield_now();
        }
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args([format!("-{signal}"), pid])
                .status()
                .expect("kill runs")
                .success()
        );
        let output = child.wait_with_output().expect("an end");
        assert_failed(&output, "stopped before the end");
        assert_eq!(
            fs::read_to_string(&path).expect("a file"),
            "the backup of yesterday"
        );
        assert_eq!(names(store.path(), "out"), ["out.jsonl"]);
    }
}

#[test]
fn an_output_may_be_a_link_a_pipe_a_device_or_standard_output() {
    let (store, lines) = filled(&mut Random::seeded(), 20);
    let place = folder();
    let path = |name: &str| place.path().join(name);
    let export_to = |name: &Path| {
        let output = run(
            store.path(),
            &["export", "--output", name.to_str().expect("text")],
        );
        assert!(output.status.success(), "{}", text(&output.stderr));
        output
    };

    fs::write(path("file"), "old").expect("written");
    fs::set_permissions(path("file"), fs::Permissions::from_mode(0o600)).expect("set");
    std::os::unix::fs::symlink("file", path("link")).expect("a link");
    std::os::unix::fs::symlink("new", path("dangling")).expect("a link");
    std::os::unix::fs::symlink("/dev/stdout", path("stdout")).expect("a link");
    for (name, file) in [("link", "file"), ("dangling", "new")] {
        export_to(&path(name));
        assert!(path(name).is_symlink());
        assert_same(&fs::read_to_string(path(file)).expect("a file"), &lines);
    }
    let mode = fs::metadata(path("file")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "what was private stays private");

    for name in [
        Path::new("-"),
        Path::new("/dev/stdout"),
        Path::new("/dev/fd/1"),
        &path("stdout"),
    ] {
        assert_same(text(&export_to(name).stdout), &lines);
    }
    export_to(Path::new("/dev/null"));
    // What stands in a file before stays, where the file is somebody's standard output.
    fs::write(path("log"), "before\n").expect("written");
    let log = OpenOptions::new().append(true).open(path("log")).expect("opened");
    let status = command(store.path(), &["export", "--output", "/dev/stdout"])
        .stdout(log)
        .status();
    assert!(status.expect("colloquy runs").success());
    assert_same(
        &fs::read_to_string(path("log")).expect("a file"),
        &format!("before\n{lines}"),
    );

    let fifo = path("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .expect("mkfifo runs")
            .success()
    );
    let read = std::thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read_to_string(&fifo).expect("read"));
        export_to(&fifo);
        reader.join().expect("a reader")
    });
    assert_same(&read, &lines);

    let directory = run(
        store.path(),
        &["export", "--output", place.path().to_str().expect("text")],
    );
    assert_failed(&directory, "Is a directory");
    assert!(text(&directory.stderr).contains(place.path().to_str().expect("text")));
    let left = ["dangling", "fifo", "file", "link", "log", "new", "stdout"];
    let mut names = names(place.path(), "");
    names.sort();
    assert_eq!(names, left);
}

/// Events of a session that has the longest payloads there may be, and characters that JSON escapes.
fn long_lines(session: &str, events: usize) -> Vec<String> {
    let payload_of = |at: usize| match at % 25 {
        2.. => format!(r#"{{"a":"{}"}}"#, "x".repeat(256 * 1024 - 8)),
        1 => format!(r#"{{"a":"{}"}}"#, "\\u0001".repeat((256 * 1024 - 8) / 6)),
        // As it is sent; as it is kept, it is five times as long.
        0 => format!(r#"{{"a":[{}1]}}"#, "1e9,".repeat((256 * 1024 - 16) / 13)),
    };
    let event = |at: usize| {
        let ms = at % 7;
        format!(
            r#"{{"eventId":"{}-{at}","type":"t","timestamp":"2026-01-01T00:00:00.00{ms}Z","payload":{}}}"#,
            "e".repeat(100),
            payload_of(at)
        )
    };
    let session = format!(
        r#"{{"sessionId":"{session}","startedAt":"2026-01-01T00:00:00Z","metadata":{{"m":"{}"}}}}"#,
        "m".repeat(16 * 1024 - 8)
    );
    let of = |range: std::ops::Range<usize>| range.map(event).collect::<Vec<_>>().join(",");
    let third = events / 3;
    let mut lines: Vec<String> = [0..third, third..2 * third, 2 * third..events]
        .map(|range| format!(r#"{{"session":{session},"events":[{}]}}"#, of(range)))
        .into();
    let last = lines.last_mut().expect("three");
    last.pop();
    last.push_str(r#","complete":{"reason":"over","endedAt":"2026-01-02T00:00:00Z"}}"#);
    lines
}

#[test]
fn whatever_an_export_writes_an_import_takes_and_neither_takes_memory_for_it() {
    const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;
    let [store, moved, place] = [folder(), folder(), folder()];
    import_memory(&backend_flags(store.path()), |out| {
        for line in long_lines("long", 300) {
            writeln!(out, "{line}")?;
        }
        writeln!(
            out,
            "{}",
            conversations::line(&mut Random::seeded(), "short", Shape::Talk).text
        )
    });
    let path = place.path().join("out.jsonl");
    let mut child = command(
        store.path(),
        &["export", "--output", path.to_str().expect("text")],
    )
    .stderr(Stdio::null())
    .spawn()
    .expect("colloquy starts");
    let mut peak = 0;
    while child.try_wait().expect("a child").is_none() {
        peak = peak_memory_kib(child.id()).unwrap_or(peak).max(peak);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(child.wait().expect("gone").success());
    let exported = fs::read_to_string(&path).expect("a file");
    let parts: Vec<usize> = exported.lines().map(str::len).collect();
    assert!(exported.len() > 60 * 1024 * 1024, "{}", exported.len());
    assert!(parts.len() > 4, "{parts:?}");
    assert!(parts.iter().all(|bytes| *bytes < LINE_BYTES_MAX), "{parts:?}");
    println!(
        "an export of {} MiB took {} MiB",
        exported.len() >> 20,
        peak >> 10
    );
    assert!(peak / 1024 < 200, "{peak} KiB for an export");

    let (peak, counts_of_import) = import_memory(&backend_flags(moved.path()), |out| {
        out.write_all(exported.as_bytes())
    });
    let short = counts_of_import[1][0] - 300;
    assert_eq!(counts_of_import, [[2, 0, 0], [300 + short, 0, 0]]);
    println!("its import took {} MiB", peak >> 10);
    assert!(peak / 1024 < 300, "{peak} KiB for an import");
    assert_same(&export(moved.path()), &exported);
    // Safe to repeat.
    let again = run(moved.path(), &["import", path.to_str().expect("text")]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert_eq!(counts(&again), [[0, 2, 0], [0, 300 + short, 0]]);
    assert_same(&export(moved.path()), &exported);
}

#[test]
fn the_tests_of_broken_pipes_have_broken_ones() {
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(broken_pipe())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cat runs");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(b"x").expect("written");
    drop(pipe);
    let mut told = String::new();
    child
        .stderr
        .take()
        .expect("a pipe")
        .read_to_string(&mut told)
        .expect("read");
    assert!(!child.wait().expect("gone").success(), "{told}");
}
