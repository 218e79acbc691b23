//! Engines for scripts: with-server.sh runs this as a test that ends when the script does.

use std::io::Read;

/// Writes the URL of a database of its own to the file that `COLLOQUY_TEST_LEND_TO` names, and keeps it until standard
/// input ends.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for a script to end: with-server.sh"]
async fn a_database_for_a_script() {
    let Some(file) = std::env::var_os("COLLOQUY_TEST_LEND_TO") else {
        return;
    };
    let url = super::mongodb().await;
    let partial = std::path::Path::new(&file).with_extension("partial");
    std::fs::write(&partial, url).expect("the URL is written");
    std::fs::rename(partial, file).expect("the URL has its place");
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    end.await.expect("the script ends").expect("an input that ends");
}
