//! SeaweedFS, which speaks S3: master, volume server, filer and S3 gateway in one process, and nothing else of it.

use std::{fmt::Write, path::PathBuf, time::Duration};

use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use sha2::{Digest, Sha256};
use time::{OffsetDateTime, macros::format_description};
use uuid::Uuid;

use super::{
    ports::free_port,
    process::{Engine, NotStarted, PATIENCE, Process, start_on_free_ports},
};
use crate::harness::http;

const REGION: &str = "us-east-1";

/// Where it listens. Every part has an HTTP and a gRPC port, and each must be named: left alone, it takes fixed ones.
const PARTS: [&str; 4] = ["master", "volume", "filer", "s3"];

/// A bucket on an S3 server, and a prefix in it to keep to.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub endpoint: String,
    pub region: String,
    pub access_key: String,
    pub secret_key: String,
    pub bucket: String,
    pub prefix: String,
}

pub struct Seaweed {
    process: Process,
    bucket: Bucket,
}

impl Seaweed {
    pub async fn start() -> Self {
        Self::start_on(free_port()).await
    }

    /// With its S3 gateway on the port `first`, or on another when that is taken.
    pub async fn start_on(first: u16) -> Self {
        start_on_free_ports(first, async |port| Self::try_start(port).await).await
    }

    async fn try_start(port: u16) -> Result<Self, NotStarted> {
        let http = [free_port(), free_port(), free_port(), port];
        let grpc = PARTS.map(|_| free_port());
        // Keys of its own for each server, so that an answer to them is this server's.
        let bucket = Bucket {
            endpoint: format!("http://127.0.0.1:{port}"),
            region: REGION.to_owned(),
            access_key: Uuid::now_v7().simple().to_string(),
            secret_key: format!("secret-{}", Uuid::now_v7().simple()),
            bucket: "colloquy-test".to_owned(),
            prefix: String::new(),
        };
        let mut process = Process::start("weed", |folder| {
            let keys = serde_json::json!({"identities": [{
                "name": "colloquy-test",
                "credentials": [{"accessKey": bucket.access_key, "secretKey": bucket.secret_key}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }]});
            std::fs::write(folder.join("s3.json"), keys.to_string()).expect("the keys are written");
            std::fs::create_dir(folder.join("data")).expect("a folder for the data");
            args(http, grpc)
        });
        for (part, grpc) in PARTS.iter().zip(grpc) {
            process.makes_file(PathBuf::from(format!("/tmp/seaweedfs-{part}-grpc-{grpc}.sock")));
        }
        let mut seaweed = Self { process, bucket };
        seaweed.until_ready().await?;
        Ok(seaweed)
    }

    /// Where its S3 gateway listens.
    pub fn url(&self) -> &str {
        &self.bucket.endpoint
    }

    /// Its bucket.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }
}

impl Engine for Seaweed {
    fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ready means that an object can be written and read: the gateway listens long before the parts have found each
    /// other.
    async fn until_ready(&mut self) -> Result<(), NotStarted> {
        let bucket = &self.bucket;
        let client = http().build().expect("a client");
        let send = async |method: Method, key: &str| {
            // The first bytes take a while: a place is made for them. An empty object needs none.
            let body = if key.is_empty() { "" } else { "ready" };
            let request = bucket.request(&client, method, key).body(body);
            let response = request.send().await.map_err(|error| error.to_string())?;
            match response.status() {
                StatusCode::CONFLICT if key.is_empty() => Ok(()), // The bucket is there.
                status if status.is_success() => Ok(()),
                _ => Err(response.text().await.unwrap_or_default()),
            }
        };
        let ask = async |_| {
            send(Method::PUT, "").await?;
            send(Method::PUT, "ready").await?;
            send(Method::GET, "ready").await?;
            send(Method::DELETE, "ready").await
        };
        self.process.until_ready(ask).await
    }
}

fn args(http: [u16; 4], grpc: [u16; 4]) -> Vec<String> {
    let mut args: Vec<String> = [
        "-logtostderr",
        "server",
        "-dir=data",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        // It reports to its makers unless told not to.
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        // A master that comes back waits this long, or twice, before it leads itself.
        "-master.electionTimeout=500ms",
        // Every bucket takes seven volumes, which are empty files at first. The default is eight.
        "-volume.max=200",
        // Otherwise a disk with less than 1 % free is read-only.
        "-volume.minFreeSpace=100MiB",
        "-volume.preStopSeconds=0",
        "-filer.localSocket=filer.sock",
        "-s3",
        "-s3.config=s3.json",
        "-s3.localSocket=s3.sock",
        "-s3.iam=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]
    .map(str::to_owned)
    .into();
    for (part, (http, grpc)) in PARTS.iter().zip(http.iter().zip(grpc)) {
        args.push(format!("-{part}.port={http}"));
        args.push(format!("-{part}.port.grpc={grpc}"));
    }
    args
}

impl Bucket {
    /// As Colloquy's configuration names it.
    pub fn url(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix)
    }

    /// A signed request for the object of this key under the prefix; without a key, for the bucket. For looking at
    /// what is stored without the library under test.
    pub fn request(&self, client: &Client, method: Method, key: &str) -> RequestBuilder {
        let path = match key {
            "" => format!("/{}", self.bucket),
            key => format!("/{}/{}{key}", self.bucket, self.prefix),
        };
        let query = self.signature(&method, &path, OffsetDateTime::now_utc());
        client
            .request(method, format!("{}{path}?{query}", self.endpoint))
            .timeout(PATIENCE)
    }

    /// The query that signs a request: AWS signature version 4, valid for some minutes. `path` must need no escapes.
    fn signature(&self, method: &Method, path: &str, now: OffsetDateTime) -> String {
        const VALID: Duration = Duration::from_mins(5);
        let time = now
            .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
            .expect("a time");
        let (date, region) = (&time[..8], &self.region);
        let scope = format!("{date}/{region}/s3/aws4_request");
        let host = self.endpoint.trim_start_matches("http://");
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}%2F{}&X-Amz-Date={time}&X-Amz-Expires={}\
             &X-Amz-SignedHeaders=host",
            self.access_key,
            scope.replace('/', "%2F"),
            VALID.as_secs(),
        );
        let request = format!("{method}\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
        let digest = hex(&Sha256::digest(request));
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}");
        let mut key = format!("AWS4{}", self.secret_key).into_bytes();
        for part in [date, region, "s3", "aws4_request", &to_sign] {
            key = hmac(&key, part);
        }
        format!("{query}&X-Amz-Signature={}", hex(&key))
    }
}

fn hmac(key: &[u8], message: &str) -> Vec<u8> {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    hmac.update(message.as_bytes());
    hmac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes all");
    }
    text
}
