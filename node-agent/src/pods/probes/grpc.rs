//! gRPC probes: the standard health service, `grpc.health.v1.Health/Check`.

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;
use weir_proto::core::v1::GrpcAction;

const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

pub(super) async fn check(action: &GrpcAction, host: &str) -> Result<(), String> {
    let address = format!("{host}:{}", action.port);
    let failed = |problem: String| format!("cannot ask {address} by gRPC: {problem}");
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|error| failed(error.to_string()))?;
    let channel = endpoint.connect().await.map_err(|error| failed(chain(&error)))?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| failed(chain(&error)))?;
    let service = action.service.clone().unwrap_or_default();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let answer =
        client.unary(Request::new(HealthCheckRequest { service: service.clone() }), path, codec).await;
    match answer {
        Ok(answer) if answer.get_ref().status == SERVING => Ok(()),
        Ok(answer) => {
            let status = match answer.get_ref().status {
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            };
            Err(format!("service unhealthy (responded with \"{status}\")"))
        }
        Err(status) if status.code() == Code::Unimplemented => {
            Err("this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned())
        }
        Err(status) if status.code() == Code::NotFound => {
            Err(format!("service {service:?} is not known there"))
        }
        Err(status) => Err(failed(status.message().to_owned())),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
