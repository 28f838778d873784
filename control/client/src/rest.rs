//! What the server tells over REST alone, on the port and the connection that all else uses: its version, its health,
//! and whatever else has a path.

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use tonic::body::Body;
use tower::ServiceExt;
use weir_proto::meta::v1::Status;
use weir_proto::status::ApiError;

use crate::client::LONGEST_MESSAGE;
use crate::transport::chain;
use crate::{Client, Error, Result};

impl Client {
    /// The document at a path such as `/version`.
    pub async fn document(&self, path: &str) -> Result<Bytes> {
        let operation = || format!("get {path}");
        let server = || self.transport().server().to_owned();
        let timeout = self.timeout();
        let uri = http::Uri::try_from(path).ok().filter(|_| path.starts_with('/'));
        let uri = uri.ok_or_else(|| Error::Api(ApiError::bad_request(format!("{path:?} is not a path"))))?;
        tokio::time::timeout(timeout, self.read(uri)).await.map_or_else(
            |_| Err(Error::Timeout { operation: operation(), server: server(), seconds: timeout.as_secs() }),
            |answer| match answer {
                Ok((http::StatusCode::OK, document)) => Ok(document),
                Ok((status, document)) => Err(Error::Api(refusal(status, &document))),
                Err(error) => Err(Error::Transport {
                    operation: operation(),
                    server: server(),
                    reason: chain(error.as_ref()),
                    sent: true,
                }),
            },
        )
    }

    async fn read(
        &self,
        uri: http::Uri,
    ) -> Result<(http::StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let mut request = http::Request::new(Body::empty());
        *request.uri_mut() = uri;
        let response = self.transport().oneshot(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST_MESSAGE).collect().await?;
        Ok((status, body.to_bytes()))
    }
}

/// The server's own words where it has some.
fn refusal(status: http::StatusCode, document: &[u8]) -> ApiError {
    match serde_json::from_slice::<Status>(document) {
        Ok(said) if !said.reason.is_empty() => ApiError(Box::new(said)),
        _ => {
            let text = String::from_utf8_lossy(document);
            let code =
                if status.is_client_error() { tonic::Code::NotFound } else { tonic::Code::Unavailable };
            ApiError::from(tonic::Status::new(code, format!("{status}: {}", text.trim())))
        }
    }
}
