//! The connection that everything else speaks through, and what holds for each call: time limits, a second server
//! when the first is away, warnings, errors.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::body::Body;
use tonic::{Code, Request, Response, Status};
use tower::Service;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::dataplane_service_client::DataplaneServiceClient;
use weir_proto::weir::v1::inspect_client::InspectClient;
use weir_proto::weir::v1::maintenance_client::MaintenanceClient;
use weir_proto::weir::v1::node_service_client::NodeServiceClient;
use weir_proto::weir::v1::resources_client::ResourcesClient;
use weir_proto::weir::v1::streams_client::StreamsClient;
use weir_proto::{Kind, Resource};

use crate::election::Leadership;
use crate::transport::{Transport, chain};
use crate::{Api, Config, DynamicApi, Error, Result};

/// A server that takes longer than this for one request is as good as away.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer that is read; a page of large objects stays well below.
pub(crate) const LONGEST_MESSAGE: usize = 256 << 20;

type OnWarning = Arc<dyn Fn(&str) + Send + Sync>;

/// Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct Client {
    transport: Arc<RwLock<Transport>>,
    field_manager: Arc<str>,
    on_warning: Option<OnWarning>,
    leadership: Option<Leadership>,
    timeout: Duration,
}

/// One request, as messages name it.
pub(crate) struct Call<'a> {
    pub(crate) verb: &'static str,
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl Client {
    /// Checks the configuration; the first request connects.
    pub fn new(config: &Config) -> Result<Client> {
        Ok(Client::over(Transport::remote(config)?))
    }

    /// As [`Client::new`]; for callers that want to await it.
    pub async fn connect(config: Config) -> Result<Client> {
        Client::new(&config)
    }

    /// Speaks to a service in this process, without a socket: the same handlers, the same errors.
    pub fn in_process<S, B>(service: S) -> Client
    where
        S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        S::Future: Send + 'static,
        B: tonic::codegen::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Client::over(Transport::local(service))
    }

    fn over(transport: Transport) -> Client {
        Client {
            transport: Arc::new(RwLock::new(transport)),
            field_manager: Arc::from("weir"),
            on_warning: None,
            leadership: None,
            timeout: REQUEST_TIMEOUT,
        }
    }

    /// From now on this client and all its clones connect as `config` says: how a rotated certificate comes into
    /// use without anybody noticing.
    pub fn reconnect(&self, config: &Config) -> Result<()> {
        let transport = Transport::remote(config)?;
        *self.transport.write().unwrap_or_else(PoisonError::into_inner) = transport;
        Ok(())
    }

    /// The name under which writes are made.
    pub fn with_field_manager(mut self, name: &str) -> Client {
        self.field_manager = Arc::from(name);
        self
    }

    /// Warnings of the server go to `callback` rather than to the log.
    pub fn with_warnings(mut self, callback: impl Fn(&str) + Send + Sync + 'static) -> Client {
        self.on_warning = Some(Arc::new(callback));
        self
    }

    /// How long one request may take; watches and other streams, once they began, as long as they like.
    pub fn with_request_timeout(mut self, timeout: Duration) -> Client {
        self.timeout = timeout;
        self
    }

    /// A clone that writes only as long as `leadership` lasts; what it has sent then counts no more either.
    pub fn fenced(&self, leadership: &Leadership) -> Client {
        Client { leadership: Some(leadership.clone()), ..self.clone() }
    }

    /// All namespaces, or a kind that belongs to none.
    pub fn api<R: Resource>(&self) -> Api<R> {
        Api::new(self.clone(), "")
    }

    pub fn namespaced<R: Resource>(&self, namespace: &str) -> Api<R> {
        Api::new(self.clone(), namespace)
    }

    pub fn dynamic(&self, kind: &'static Kind, namespace: Option<&str>) -> DynamicApi {
        DynamicApi::new(self.clone(), kind, namespace.unwrap_or_default())
    }

    pub fn streams(&self) -> StreamsClient<Transport> {
        StreamsClient::new(self.transport()).max_decoding_message_size(LONGEST_MESSAGE)
    }

    pub fn inspect(&self) -> InspectClient<Transport> {
        InspectClient::new(self.transport()).max_decoding_message_size(LONGEST_MESSAGE)
    }

    pub fn maintenance(&self) -> MaintenanceClient<Transport> {
        MaintenanceClient::new(self.transport()).max_decoding_message_size(LONGEST_MESSAGE)
    }

    pub fn node_service(&self) -> NodeServiceClient<Transport> {
        NodeServiceClient::new(self.transport())
    }

    pub fn dataplane(&self) -> DataplaneServiceClient<Transport> {
        DataplaneServiceClient::new(self.transport()).max_decoding_message_size(LONGEST_MESSAGE)
    }

    /// What a status from one of the services above ([`Client::streams`] …) means.
    pub fn error(&self, operation: &str, status: Status) -> Error {
        error(operation, self.transport().server(), status)
    }

    pub(crate) fn field_manager(&self) -> String {
        self.field_manager.to_string()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn transport(&self) -> Transport {
        self.transport.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes one call. It is made again, on the next server, where the first never received it or could not do it, or where
    /// it reads.
    pub(crate) async fn call<Q, A, F, Fut>(&self, call: &Call<'_>, message: Q, send: F) -> Result<A>
    where
        Q: Clone,
        F: Fn(ResourcesClient<Transport>, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let reads = call.reads();
        let mut attempts = self.transport().servers() + usize::from(reads);
        let patience = Instant::now() + self.timeout;
        loop {
            if !reads && self.leadership.as_ref().is_some_and(|leadership| !leadership.holds()) {
                return Err(Error::NotLeader { operation: call.to_string() });
            }
            let transport = self.transport();
            let client = ResourcesClient::new(transport.clone()).max_decoding_message_size(LONGEST_MESSAGE);
            let mut request = Request::new(message.clone());
            if let Some(leadership) = self.leadership.as_ref().filter(|_| !reads) {
                leadership.sign(request.metadata_mut());
            }
            let answer = tokio::time::timeout(self.timeout, send(client, request));
            let status = match answer.await {
                Ok(Ok(response)) => {
                    self.warn(&response);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => status,
                Err(_) => {
                    let server = transport.server().to_owned();
                    let seconds = self.timeout.as_secs();
                    return Err(Error::Timeout { operation: call.to_string(), server, seconds });
                }
            };
            let error = error(&call.to_string(), transport.server(), status);
            if let Some(wait) = error.asked_to_wait()
                && Instant::now() + wait < patience
            {
                // Refused before anything was done: whatever it is may be sent again.
                tokio::time::sleep(wait).await;
                continue;
            }
            attempts -= 1;
            match error {
                Error::Transport { sent, .. } if attempts > 0 && (reads || !sent) => {}
                // Nothing was done there; by now the next server is the current one.
                Error::Api(refusal)
                    if attempts > 0
                        && transport.servers() > 1
                        && refusal.reason() == "ServiceUnavailable" => {}
                error => {
                    if let Some(leadership) = self.leadership.as_ref().filter(|_| error.is_deposed()) {
                        leadership.deposed();
                    }
                    return Err(error);
                }
            }
        }
    }

    fn warn<T>(&self, response: &Response<T>) {
        for value in response.metadata().get_all("warning") {
            let Ok(text) = value.to_str() else { continue };
            let text = warning_text(text);
            match &self.on_warning {
                Some(callback) => callback(text),
                None => tracing::warn!(warning = text, "the API server warns"),
            }
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("transport", &self.transport()).finish_non_exhaustive()
    }
}

impl Call<'_> {
    fn reads(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.kind.plural)?;
        match (self.namespace, self.name) {
            ("", "") => Ok(()),
            ("", name) => write!(f, " {name}"),
            (namespace, "") => write!(f, " in {namespace}"),
            (namespace, name) => write!(f, " {namespace}/{name}"),
        }
    }
}

/// A status with details is the server's own word; one without that names no fault of the request comes from the
/// connection.
pub(crate) fn error(operation: &str, server: &str, status: Status) -> Error {
    let of_connection = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
        || std::error::Error::source(&status).is_some();
    if !status.details().is_empty() || !of_connection {
        return Error::Api(ApiError::from(status));
    }
    Error::Transport {
        operation: operation.to_owned(),
        server: server.to_owned(),
        sent: !never_connected(&status),
        reason: chain(&status),
    }
}

fn never_connected(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// `299 - "text"` as HTTP writes warnings, or the bare text.
fn warning_text(value: &str) -> &str {
    let text = value.split_once('"').map_or(value, |(_, text)| text);
    text.strip_suffix('"').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_lose_their_http_wrapping() {
        assert_eq!(warning_text(r#"299 - "unknown field \"spec.foo\"""#), r#"unknown field \"spec.foo\""#);
        assert_eq!(warning_text("plain"), "plain");
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_named_and_the_write_is_known_not_to_have_left() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let client = Client::new(&Config::new(format!("http://{closed}"))).unwrap();
        let config_map = weir_proto::core::v1::ConfigMap::default();
        let error = client.namespaced("default").create(&config_map).await.unwrap_err();
        assert!(matches!(&error, Error::Transport { sent: false, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&closed.to_string()) && text.contains("configmaps"), "{text}");
    }
}
