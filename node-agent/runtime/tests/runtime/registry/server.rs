//! A small HTTP server that is a registry as far as a test wants it to be one.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }
}

/// What is sent; the length that is announced is `announced` or the body's.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) announced: Option<u64>,
    /// After each so many bytes, this pause.
    pub(crate) pace: Option<(usize, Duration)>,
    /// The body again and again, until nobody listens.
    pub(crate) endless: bool,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![], body: body.into(), announced: None, pace: None, endless: false }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Ends after so many bytes, though more were announced.
    pub(crate) fn cut(mut self, at: usize) -> Self {
        self.announced = Some(self.body.len() as u64);
        self.body.truncate(at);
        self
    }
}

type Behaviour = dyn Fn(&Request) -> Answer + Send + Sync;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(behaviour: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (requests, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let (seen, stopped) = (Arc::clone(&requests), Arc::clone(&stop));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (seen, behaviour) = (Arc::clone(&seen), Arc::clone(&behaviour));
                thread::spawn(move || {
                    let _ = serve(stream, &seen, &*behaviour);
                });
            }
        });
        Self { address, requests, stop }
    }

    /// A good registry of whatever repository, with the images of this layout.
    pub(crate) fn of(layout: PathBuf) -> Self {
        Self::start(move |request| good(&layout, request))
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("requests").clone()
    }

    pub(crate) fn image(&self) -> String {
        format!("{}/team/image:v1", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Manifests by digest, and the layout's first image by any tag; blobs, in parts where asked for.
pub(crate) fn good(layout: &Path, request: &Request) -> Answer {
    let path = request.path.split('?').next().unwrap_or_default();
    let (place, version) = path.rsplit_once('/').unwrap_or_default();
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).expect("an index")).expect("an index");
    let first = index["manifests"][0]["digest"].as_str().unwrap_or_default();
    let digest = if version.starts_with("sha256:") { version } else { first };
    let hex = digest.trim_start_matches("sha256:");
    let Ok(bytes) = fs::read(layout.join("blobs/sha256").join(hex)) else {
        return Answer::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#);
    };
    if place.ends_with("/manifests") {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        return Answer::new(200, bytes).with("content-type", kind).with("docker-content-digest", digest);
    }
    let offset = request
        .header("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match offset {
        Some(offset) if offset < bytes.len() => {
            let range = format!("bytes {offset}-{}/{}", bytes.len() - 1, bytes.len());
            Answer::new(206, &bytes[offset..]).with("content-range", range)
        }
        Some(_) => Answer::new(416, ""),
        None => Answer::new(200, bytes),
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Request>>, behaviour: &Behaviour) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(0) => break,
            // As servers do that are spoken to in TLS.
            Err(_) => return (&stream).write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nnot HTTP"),
            Ok(_) if line.trim().is_empty() => break,
            Ok(_) => {}
        }
        lines.push(line.trim().to_owned());
    }
    let Some(first) = lines.first() else { return Ok(()) };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let header =
        |line: &String| Some((line.split_once(':')?.0.to_owned(), line.split_once(':')?.1.trim().to_owned()));
    let request = Request { path, headers: lines[1..].iter().filter_map(header).collect() };
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    reader.take(length).read_to_end(&mut Vec::new())?;
    seen.lock().expect("requests").push(request.clone());
    let answer = behaviour(&request);
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {} X\r\nconnection: close\r\n", answer.status)?;
    for (name, value) in &answer.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    let announced = answer.announced.unwrap_or(answer.body.len() as u64);
    write!(stream, "content-length: {announced}\r\n\r\n")?;
    loop {
        let (size, pause) = answer.pace.unwrap_or((answer.body.len().max(1), Duration::ZERO));
        for chunk in answer.body.chunks(size) {
            stream.write_all(chunk)?;
            thread::sleep(pause);
        }
        if !answer.endless {
            break;
        }
    }
    stream.shutdown(Shutdown::Both)
}
