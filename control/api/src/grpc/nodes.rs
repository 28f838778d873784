//! `weir.v1.NodeService`: a machine gets a certificate for its own name.

use std::net::IpAddr;
use std::sync::Arc;

use tonic::{Request, Response, Status};
use weir_proto::status::ApiError;
use weir_proto::weir::v1 as pb;
use weir_proto::weir::v1::node_service_server::NodeService;

use crate::auth::{User, bootstrap};
use crate::pki::{Pki, PkiError, Subject};
use crate::validation::names;

/// Addresses that one node may have in its certificate.
const MOST_ADDRESSES: usize = 16;

#[derive(Debug, Clone)]
pub(crate) struct NodesFace {
    pub(crate) pki: Arc<Pki>,
    pub(crate) bootstrap_token: Arc<str>,
}

#[tonic::async_trait]
impl NodeService for NodesFace {
    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        let name = request.get_ref().node_name.clone();
        self.may_join(&request, &name)?;
        let request = request.into_inner();
        check_name(&name)?;
        check_addresses(&request.addresses)?;
        for address in request.addresses.iter().chain([&name]) {
            // Else a node could pass for this server.
            if self.pki.server_names.contains(address) {
                let message = format!("{address:?} is a name of the API server, and no node's");
                return Err(ApiError::forbidden(message).into());
            }
        }
        let subject = Subject::node(&name, &request.addresses);
        let certificate_pem =
            self.pki.authority.sign_request(&request.csr_pem, &subject).map_err(|error| match error {
                PkiError::Certificate { .. } => ApiError::bad_request(error.to_string()),
                other => ApiError::internal(other.to_string()),
            })?;
        tracing::info!(node = name, "issued a node certificate");
        let ca_pem = self.pki.authority.certificate_pem().to_owned();
        Ok(Response::new(pb::JoinResponse { certificate_pem, ca_pem }))
    }
}

impl NodesFace {
    /// The node itself, to renew its certificate; a master; or whoever has the token.
    fn may_join(&self, request: &Request<pb::JoinRequest>, name: &str) -> Result<(), ApiError> {
        match request.extensions().get::<User>() {
            Some(user) if user.is_in(crate::auth::MASTERS) || user.node_name() == Some(name) => Ok(()),
            Some(user) if user.node_name().is_some() => {
                Err(ApiError::forbidden(format!("{} may only renew its own certificate", user.name)))
            }
            _ => {
                let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
                bootstrap::check(header, &self.bootstrap_token)
            }
        }
    }
}

fn check_name(name: &str) -> Result<(), ApiError> {
    match names::dns_subdomain(name).into_iter().next() {
        Some(problem) => Err(ApiError::bad_request(format!("node_name: Invalid value: {name:?}: {problem}"))),
        None => Ok(()),
    }
}

fn check_addresses(addresses: &[String]) -> Result<(), ApiError> {
    if addresses.len() > MOST_ADDRESSES {
        return Err(ApiError::bad_request(format!("addresses: at most {MOST_ADDRESSES}")));
    }
    match addresses.iter().find(|address| address.parse::<IpAddr>().map_or(true, |ip| ip.is_unspecified())) {
        Some(bad) => Err(ApiError::bad_request(format!(
            "addresses: Invalid value: {bad:?}: not the address of a node"
        ))),
        None => Ok(()),
    }
}
