//! What one client may ask, and what becomes of the rest: over TLS, where limits hold.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use weir_api::Rate;
use weir_proto::status::ApiError;

use crate::connections::{http1, read_to_end, secure};
use crate::fixture::DEADLINE;
use crate::tls::{Listening, nodes};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn status(answer: &str) -> Value {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// A POST whose body never comes to its end.
async fn unfinished(cluster: &Listening) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut stream = secure(cluster, b"http/1.1", true).await.unwrap();
    let head =
        format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1000\r\n\r\n{{");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_client_that_asks_too_fast_is_told_when_to_come_again() {
    let slow = Rate { per_second: 1, burst: 4 };
    let cluster = Listening::start_with(|config| config.limits.client_rate = slow).await;
    let mut admin = cluster.admin().await;
    let mut refused = None;
    // On a slow machine tokens come back while the requests are made.
    for _ in 0..100 {
        if let Err(status) = admin.list(nodes()).await {
            refused = Some(status);
            break;
        }
    }
    let refused = refused.expect("more than one a second are refused");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    let error = ApiError::from(refused);
    let wait = error.status().details.as_ref().unwrap().retry_after_seconds;
    assert_eq!((error.reason(), error.code()), ("TooManyRequests", 429));
    assert!((1..=2).contains(&wait), "{wait}");

    let request = b"GET /api/v1/nodes HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answers = async {
        loop {
            let answer = http1(&cluster, request).await;
            if answer.starts_with("HTTP/1.1 429") {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(DEADLINE, answers).await.expect("REST is refused as well");
    assert!(answer.to_lowercase().contains("\r\nretry-after: "), "{answer}");
    let status = status(&answer);
    assert_eq!((&status["reason"], &status["code"]), (&json!("TooManyRequests"), &json!(429)));
    assert!(status["details"]["retryAfterSeconds"].as_i64().unwrap() >= 1);
    // Who lives in the same process is not limited.
    let own = weir_api::User::system("system:weir-scheduler");
    let mut own =
        weir_proto::weir::v1::resources_client::ResourcesClient::new(cluster.server.in_process(own));
    for _ in 0..20 {
        own.list(nodes()).await.unwrap();
    }
}

#[tokio::test]
async fn reads_and_writes_at_work_are_limited_apart() {
    let cluster = Listening::start_with(|config| config.limits.writes_in_flight = 1).await;
    let _held = unfinished(&cluster).await;
    let body = r#"{"metadata":{"name":"a"}}"#;
    let request = format!(
        "POST {MAPS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let refused = async {
        loop {
            let answer = http1(&cluster, request.as_bytes()).await;
            if answer.starts_with("HTTP/1.1 429") {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(DEADLINE, refused).await.expect("a second write is refused");
    assert!(status(&answer)["message"].as_str().unwrap().contains("busy"), "{answer}");
    cluster.admin().await.list(nodes()).await.unwrap();
}

#[tokio::test]
async fn a_body_that_trickles_in_is_not_waited_for_without_end() {
    let cluster =
        Listening::start_with(|config| config.limits.request_timeout = Duration::from_millis(500)).await;
    let mut stream = unfinished(&cluster).await;
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert_eq!(status(&answer)["reason"], "Timeout");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_over_the_wire() {
    let cluster = Listening::start_with(|_| {}).await;
    let mut stream = secure(&cluster, b"http/1.1", true).await.unwrap();
    let head =
        format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1073741824\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let sending = tokio::spawn(async move {
        let part = vec![b' '; 64 * 1024];
        let mut sent = 0_usize;
        while writing.write_all(&part).await.is_ok() && sent < (1 << 30) {
            sent += part.len();
        }
        sent
    });
    let mut answer = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut answer);
    let _ = tokio::time::timeout(DEADLINE, read).await.expect("the server answers before the end");
    drop(reading);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    // The answer may be lost in the reset that ends the flood; what counts is that the flood ends.
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    let sent = tokio::time::timeout(DEADLINE, sending).await.expect("the flood ends").unwrap();
    assert!(sent < 64 << 20, "{sent} bytes were taken");
}
