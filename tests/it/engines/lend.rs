//! Engines for scripts and for people: with-server.sh and deploy/dev.sh run this as a test that ends when they do.

use std::{fmt::Write as _, io::Read, path::Path};

/// Starts the engines that `COLLOQUY_TEST_LEND` names (`mongodb,redis,s3`), writes a line `NAME URL` for each to the file
/// that `COLLOQUY_TEST_LEND_TO` names, and keeps them until standard input ends.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for a script to end: with-server.sh, dev.sh"]
async fn engines_for_a_script() {
    let (Ok(wanted), Some(file)) = (
        std::env::var("COLLOQUY_TEST_LEND"),
        std::env::var_os("COLLOQUY_TEST_LEND_TO"),
    ) else {
        return;
    };
    let mut lines = String::new();
    for name in wanted.split(',') {
        let url = match name {
            "mongodb" => super::mongodb().await,
            "redis" => super::redis().await,
            "s3" => {
                let place = super::s3().await;
                let (scheme, host) = place.endpoint.split_once("://").expect("a URL");
                let keys = format!("{}:{}", place.access_key, place.secret_key);
                format!("{scheme}://{keys}@{host}/{}", place.bucket)
            }
            other => panic!("{other} is none of mongodb, redis, s3"),
        };
        writeln!(lines, "{name} {url}").expect("a string takes it");
    }
    let partial = Path::new(&file).with_extension("partial");
    std::fs::write(&partial, lines).expect("the URLs are written");
    std::fs::rename(partial, file).expect("they have their place");
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    end.await.expect("the script ends").expect("an input that ends");
}
