//! Manifests from a web server: what it may answer, and what becomes of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use crate::cluster::Cluster;

/// Answers each request by its path.
fn web() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or_default();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            // Whoever has read enough may go.
            answer(&mut stream, request.split(' ').nth(1).unwrap_or_default()).ok();
        }
    });
    address
}

fn answer(stream: &mut impl Write, path: &str) -> std::io::Result<()> {
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-the-web}\n";
    match path {
        "/good.yaml" => {
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{manifest}", manifest.len())
        }
        "/moved.yaml" => {
            write!(stream, "HTTP/1.1 302 Found\r\nlocation: /good.yaml\r\ncontent-length: 0\r\n\r\n")
        }
        "/wrong.yaml" => write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 19\r\n\r\nkind: Pod\nspec: [1]"),
        "/endless.yaml" => {
            write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b'#'; 65536])?;
            }
        }
        "/trouble.yaml" => write!(stream, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"),
        _ => write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_come_from_the_web() {
    let (cluster, web) = (Cluster::start().await, web());
    assert_eq!(
        cluster.says(&format!("apply -f http://{web}/good.yaml")).await,
        "configmap/from-the-web created\n"
    );
    let again = cluster.says(&format!("apply -f http://{web}/moved.yaml")).await;
    assert_eq!(again, "configmap/from-the-web unchanged\n");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, want) in [
        (format!("http://{web}/none.yaml"), "server reported 404 Not Found, status code=404"),
        (format!("http://{web}/trouble.yaml"), "server reported 503 Service Unavailable, status code=503"),
        (format!("http://{web}/endless.yaml"), "it has more than 16777216 bytes"),
        (format!("http://{web}/wrong.yaml"), "wrong.yaml, line 1: apiVersion is missing"),
        (format!("http://{closed}/"), "Connection refused"),
        ("https://".to_owned(), "unable to read URL \"https://\""),
    ] {
        let output = cluster.weir(&format!("apply -f {url}")).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: ") && said.contains(want) && said.contains(&url), "{said}");
    }
}
