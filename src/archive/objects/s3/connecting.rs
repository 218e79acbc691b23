//! What a bucket is to be called with, and the client made of it.

use std::{fmt, sync::Arc, time::Duration};

use aws_config::{
    BehaviorVersion, Region, SdkConfig, retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig, timeout::TimeoutConfig,
};
use aws_sdk_s3::{
    Client,
    config::{
        ConfigBag, Credentials, Intercept, RequestChecksumCalculation, RuntimeComponents,
        interceptors::BeforeTransmitInterceptorContextMut,
    },
    error::BoxError,
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

use super::{Bucket, S3Objects};
use crate::{
    archive::objects::{ObjectError, ObjectErrorKind},
    telemetry::spans,
};

/// S3 takes no smaller part but for the last.
const PART_BYTES_MIN: usize = 5 * 1024 * 1024;

/// Where a server is given that does not say where it is.
const REGION: &str = "us-east-1";

/// Between two tries of a request.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How to reach a bucket, and how long to try.
#[derive(Clone)]
pub struct S3Options {
    pub bucket: String,
    /// What all keys begin with, without a slash before it; may be empty.
    pub prefix: String,
    /// The URL of a server that is not AWS's.
    pub endpoint: Option<String>,
    /// Left out, the environment's; `us-east-1` where that names none but an endpoint is given.
    pub region: Option<String>,
    /// The bucket in the URL's path and not in the host name. Left out: where an endpoint is given.
    pub path_style: Option<bool>,
    /// Until a try is given up.
    pub attempt_time_max: Duration,
    /// Until a call is given up, with all its tries.
    pub call_time_max: Duration,
    /// At least 1.
    pub attempts_max: u32,
    /// How large the parts of an upload are, of which up to three are in memory: at least 5 MiB. There are at most 10,000 of
    /// them to an object.
    pub part_bytes: usize,
    /// Sends checksums only where S3 insists, for servers that refuse them.
    pub checksums_when_required: bool,
    /// Access key and secret key, for tests. Left out, the usual chain: the environment, profiles, a web identity, the
    /// container, the machine.
    pub credentials: Option<(String, String)>,
}

impl Default for S3Options {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            prefix: String::new(),
            endpoint: None,
            region: None,
            path_style: None,
            attempt_time_max: Duration::from_secs(30),
            call_time_max: Duration::from_mins(2),
            attempts_max: 4,
            part_bytes: 8 * 1024 * 1024,
            checksums_when_required: false,
            credentials: None,
        }
    }
}

impl fmt::Debug for S3Options {
    /// Without the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Options")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl S3Objects {
    /// Readies a client. Whether the bucket can be reached is for
    /// [`check`](crate::archive::objects::Objects::check) to find out.
    ///
    /// # Errors
    /// [`ObjectErrorKind::Denied`]: the options can't be.
    pub async fn connect(options: S3Options) -> Result<Self, ObjectError> {
        check_options(&options)?;
        let config = sdk_config(&options).await;
        if config.region().is_none() {
            return Err(denied("S3 needs a region: set one, or AWS_REGION"));
        }
        let path_style = options.path_style.unwrap_or(options.endpoint.is_some());
        let client = aws_sdk_s3::config::Builder::from(&config)
            .force_path_style(path_style)
            .interceptor(SendTrace)
            .build();
        Ok(Self {
            bucket: Arc::new(Bucket {
                client: Client::from_conf(client),
                prefix: match options.prefix.trim_matches('/') {
                    "" => String::new(),
                    prefix => format!("{prefix}/"),
                },
                name: options.bucket,
                endpoint: options.endpoint,
                attempt_time_max: options.attempt_time_max,
                call_time_max: options.call_time_max,
                attempts_max: options.attempts_max,
                part_bytes: options.part_bytes,
            }),
        })
    }
}

/// Tells S3 which trace a request is part of, so that a server in front of it can go on with the trace.
#[derive(Debug)]
struct SendTrace;

impl Intercept for SendTrace {
    fn name(&self) -> &'static str {
        "SendTrace"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(traceparent) = spans::current_traceparent() {
            context
                .request_mut()
                .headers_mut()
                .insert("traceparent", traceparent);
        }
        Ok(())
    }
}

fn check_options(options: &S3Options) -> Result<(), ObjectError> {
    if options.bucket.is_empty() {
        return Err(denied("S3 needs the name of a bucket"));
    }
    if options.part_bytes < PART_BYTES_MIN {
        return Err(denied(format!(
            "the parts of an upload have at least {PART_BYTES_MIN} bytes"
        )));
    }
    if options.attempts_max == 0 {
        return Err(denied("a call needs at least one attempt"));
    }
    Ok(())
}

async fn sdk_config(options: &S3Options) -> SdkConfig {
    // Trusts what the system trusts, or the file that SSL_CERT_FILE names.
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let retries = RetryConfig::standard()
        .with_max_attempts(options.attempts_max)
        .with_initial_backoff(BACKOFF_MIN)
        .with_max_backoff(BACKOFF_MAX);
    let times = TimeoutConfig::builder()
        .operation_attempt_timeout(options.attempt_time_max)
        .operation_timeout(options.call_time_max)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .retry_config(retries)
        .timeout_config(times)
        // Each call has its time, however slow its bytes come.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(region) = &options.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some((access_key, secret_key)) = &options.credentials {
        let given = Credentials::new(access_key, secret_key, None, None, "the options");
        loader = loader.credentials_provider(given);
    }
    if options.checksums_when_required {
        loader = loader.request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
    }
    let config = loader.load().await;
    match (config.region(), &options.endpoint) {
        (None, Some(_)) => config.into_builder().region(Region::new(REGION)).build(),
        _ => config,
    }
}

fn denied(detail: impl Into<String>) -> ObjectError {
    ObjectError::new(ObjectErrorKind::Denied, detail)
}
