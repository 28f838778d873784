//! The server: each answer names the pod and the node, so that a client can count who served it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

/// Serves until killed. Each connection gets a thread; an idle one is closed after ten seconds.
pub(crate) fn run(port: u16) -> Result<ExitCode, String> {
    let who = identity();
    let listener =
        TcpListener::bind(("0.0.0.0", port)).map_err(|error| format!("listen on {port}/tcp: {error}"))?;
    let udp = UdpSocket::bind(("0.0.0.0", port)).map_err(|error| format!("listen on {port}/udp: {error}"))?;
    println!("serving {who} on {port}/tcp and {port}/udp");
    let udp_who = who.clone();
    std::thread::spawn(move || answer_datagrams(&udp, &udp_who));
    for stream in listener.incoming().flatten() {
        let who = who.clone();
        std::thread::spawn(move || {
            // A client that leaves early is its own affair.
            let _ = answer(stream, &who);
        });
    }
    Ok(ExitCode::SUCCESS)
}

/// `pod node`, from the downward API's variables; the host name where they are not set.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let pod = std::env::var("POD_NAME").unwrap_or_else(|_| host.trim().to_owned());
    let node = std::env::var("NODE_NAME").unwrap_or_else(|_| "-".to_owned());
    format!("{pod} {node}")
}

fn answer(mut stream: TcpStream, who: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut close = false;
        let mut first = true;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            close |= line == "connection: close" || (first && line.ends_with("http/1.0"));
            first = false;
            if line.is_empty() {
                break;
            }
        }
        let body = format!("{who} {peer}\n");
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: {}\r\n\r\n{body}",
            body.len(),
            if close { "close" } else { "keep-alive" },
        )?;
        if close {
            return Ok(());
        }
    }
}

fn answer_datagrams(socket: &UdpSocket, who: &str) {
    let mut buffer = [0; 1500];
    loop {
        if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            // A datagram lost on the way out is for the client to notice.
            let _ = socket.send_to(format!("{who} {peer}\n").as_bytes(), peer);
        }
    }
}
