//! The server: each answer names the pod and the node, so that a client can count who served it.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::drain::{self, Served, Stop};

/// Told to end: each answer is the last of its connection.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Serves until SIGTERM, and then everybody who is there. Each connection gets a thread; an idle one is closed after
/// a minute.
pub(crate) fn run(port: u16) -> Result<ExitCode, String> {
    let stop = Stop::listen()?;
    let who = identity();
    let listener =
        TcpListener::bind(("0.0.0.0", port)).map_err(|error| format!("listen on {port}/tcp: {error}"))?;
    let udp = UdpSocket::bind(("0.0.0.0", port)).map_err(|error| format!("listen on {port}/udp: {error}"))?;
    println!("serving {who} on {port}/tcp and {port}/udp");
    let udp_who = who.clone();
    std::thread::spawn(move || answer_datagrams(&udp, &udp_who));
    listener.set_nonblocking(true).map_err(|error| format!("listen on {port}/tcp: {error}"))?;
    let served = Served::default();
    while stop.or_connection(&listener) {
        accept(&listener, &who, &served);
    }
    ENDING.store(true, Ordering::Release);
    println!("told to end");
    let since = Instant::now();
    while drain::another(&listener, since) {
        accept(&listener, &who, &served);
    }
    drop(listener);
    served.wait_for_the_last();
    Ok(ExitCode::SUCCESS)
}

/// Everybody who waits at the door.
fn accept(listener: &TcpListener, who: &str, served: &Served) {
    while let Ok((stream, _)) = listener.accept() {
        let (who, served) = (who.to_owned(), served.begin());
        std::thread::spawn(move || {
            // A client that leaves early is its own affair.
            let _ = answer(stream, &who);
            served.end();
        });
    }
}

/// `pod node`, from the downward API's variables; the host name where they are not set.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let pod = std::env::var("POD_NAME").unwrap_or_else(|_| host.trim().to_owned());
    let node = std::env::var("NODE_NAME").unwrap_or_else(|_| "-".to_owned());
    format!("{pod} {node}")
}

fn answer(mut stream: TcpStream, who: &str) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
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
        close |= ENDING.load(Ordering::Acquire);
        let body = format!("{who} {peer}\n");
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: {}\r\n\r\n{body}",
            body.len(),
            if close { "close" } else { "keep-alive" },
        )?;
        if close {
            // The client has everything once it closes its end as well.
            stream.shutdown(Shutdown::Write)?;
            std::io::copy(&mut reader, &mut std::io::sink())?;
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
