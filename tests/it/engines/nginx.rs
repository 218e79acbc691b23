//! nginx with the configuration of deploy/nginx, in front of replicas on this machine.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use super::{
    ports::free_port,
    process::{ANSWER, Engine, NotStarted, PATIENCE, Process, start_on_free_ports},
};

const CONFIGURATION: &str = include_str!("../../../deploy/nginx/nginx.conf");

pub struct Nginx {
    process: Process,
    port: u16,
}

impl Nginx {
    /// In front of what listens on these ports of 127.0.0.1, with these changes to its configuration: lines of it, and
    /// what stands there instead.
    pub async fn start(replicas: &[u16], changes: &[(&str, &str)]) -> Self {
        let mut configuration = CONFIGURATION.to_owned();
        for (line, instead) in changes {
            assert_eq!(configuration.matches(line).count(), 1, "{line}");
            configuration = configuration.replace(line, instead);
        }
        start_on_free_ports(free_port(), async |port| {
            Self::try_start(port, replicas, &configuration).await
        })
        .await
    }

    async fn try_start(port: u16, replicas: &[u16], configuration: &str) -> Result<Self, NotStarted> {
        let process = Process::start_program("nginx", program(), |folder| {
            // A replica that is away is asked again at the next request, and never left out: that is the harder life.
            let replica = |port: &u16| format!("server 127.0.0.1:{port} max_fails=0;\n");
            let files = [
                ("nginx.conf", configuration.to_owned()),
                ("upstream.conf", replicas.iter().map(replica).collect()),
                ("listen.conf", format!("listen 127.0.0.1:{port};\n")),
            ];
            for (name, text) in files {
                std::fs::write(folder.join(name), text).expect("a file of the configuration");
            }
            arguments(folder)
        });
        let mut nginx = Self { process, port };
        nginx.until_ready().await?;
        Ok(nginx)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The lines of a log in its folder.
    pub fn lines(&self, log: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.process.folder().join(log)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Engine for Nginx {
    fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    async fn until_ready(&mut self) -> Result<(), NotStarted> {
        let url = format!("{}/healthz", self.url());
        let client = reqwest::Client::builder()
            .timeout(ANSWER)
            .build()
            .expect("a client");
        let ask = async |_| match client.get(&url).send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(answer.status().to_string()),
            Err(error) => Err(error.to_string()),
        };
        self.process.until_ready(ask).await
    }
}

impl Drop for Nginx {
    /// SIGTERM, at which its workers end; they would outlive a master that is killed.
    fn drop(&mut self) {
        let asked = Command::new("kill").arg(self.process.pid().to_string()).status();
        let began = Instant::now();
        while asked.is_ok() && self.process.is_running() && began.elapsed() < PATIENCE {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

fn arguments(folder: &Path) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    let mut arguments = [
        "-e",
        "stderr",
        "-p",
        &path(folder),
        "-c",
        &path(&folder.join("nginx.conf")),
    ]
    .map(str::to_owned)
    .to_vec();
    // Its workers would be nobody's, who may not enter the folder.
    if std::fs::metadata(folder).expect("the folder").uid() == 0 {
        arguments.extend(["-g", "user root;"].map(str::to_owned));
    }
    arguments
}

/// Debian keeps servers in /usr/sbin, which is not on everybody's path.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.push("/usr/sbin".into());
    let mut programs = places.into_iter().map(|place| place.join("nginx"));
    let found = programs.find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("nginx is not installed: run `make packages`"))
}
