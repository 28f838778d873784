//! The client: a bounded number of requests, each on its own connection, counted by who answered.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::parse;

pub(crate) struct Request {
    target: SocketAddr,
    count: u64,
    concurrency: u64,
    timeout: Duration,
    udp: bool,
    /// Requests a second of all workers together; 0 for as fast as answers come.
    rate: u64,
    /// Until standard input ends, and `count` have been sent.
    until_eof: bool,
}

/// What one worker, or all together, saw.
#[derive(Default)]
struct Tally {
    /// `pod node` → answers.
    answers: BTreeMap<String, u64>,
    failed: u64,
    first_error: Option<String>,
}

impl Request {
    pub(crate) fn parse(flags: &[String]) -> Result<Self, String> {
        let target: String = parse(flags, "--target", String::new())?;
        Ok(Self {
            target: target
                .parse()
                .map_err(|_| format!("--target {target:?}: want ADDRESS:PORT\n{}", crate::USAGE))?,
            count: parse(flags, "--count", 1000)?,
            concurrency: parse(flags, "--concurrency", 4_u64)?.clamp(1, 64),
            timeout: Duration::from_millis(parse(flags, "--timeout-ms", 5000)?),
            udp: flags.iter().any(|flag| flag == "--udp"),
            rate: parse(flags, "--rate", 0)?,
            until_eof: flags.iter().any(|flag| flag == "--until-eof"),
        })
    }

    /// Sends the requests, prints the tally and exits 1 where any of them failed.
    pub(crate) fn run(&self) -> Result<ExitCode, String> {
        let next = AtomicU64::new(0);
        let count = Arc::new(AtomicU64::new(if self.until_eof { u64::MAX } else { self.count }));
        if self.until_eof {
            let (count, least) = (Arc::clone(&count), self.count);
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                count.store(least, Ordering::Relaxed);
            });
        }
        let began = Instant::now();
        let mut total = Tally::default();
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..self.concurrency).map(|_| scope.spawn(|| self.work(&next, &count, began))).collect();
            for worker in workers {
                match worker.join() {
                    Ok(tally) => total.add(tally),
                    Err(_) => total.failed += 1,
                }
            }
        });
        println!("{}", total.json());
        Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn work(&self, next: &AtomicU64, count: &AtomicU64, began: Instant) -> Tally {
        let mut tally = Tally::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if let Some(due) = number.saturating_mul(1_000_000).checked_div(self.rate) {
                let due = began + Duration::from_micros(due);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            if number >= count.load(Ordering::Relaxed) {
                return tally;
            }
            match if self.udp { self.datagram() } else { self.get() } {
                Ok(who) => *tally.answers.entry(who).or_default() += 1,
                Err(error) => {
                    tally.failed += 1;
                    tally.first_error.get_or_insert(error.to_string());
                }
            }
        }
    }

    fn get(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.target, self.timeout)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_nodelay(true)?;
        write!(stream, "GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.target)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        who(body).ok_or_else(|| std::io::Error::other(format!("not an answer of echo: {answer:?}")))
    }

    fn datagram(&self) -> std::io::Result<String> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(self.target)?;
        socket.set_read_timeout(Some(self.timeout))?;
        socket.send(b"who\n")?;
        let mut buffer = [0; 1500];
        let length = socket.recv(&mut buffer)?;
        let answer = String::from_utf8_lossy(&buffer[..length]);
        who(&answer).ok_or_else(|| std::io::Error::other(format!("not an answer of echo: {answer:?}")))
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        for (who, count) in other.answers {
            *self.answers.entry(who).or_default() += count;
        }
        self.failed += other.failed;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    /// One line; names hold no characters that JSON would have to escape.
    fn json(&self) -> String {
        let answers: Vec<String> = self
            .answers
            .iter()
            .map(|(who, count)| {
                let (pod, node) = who.split_once(' ').unwrap_or((who, "-"));
                format!(r#"{{"pod":"{pod}","node":"{node}","count":{count}}}"#)
            })
            .collect();
        let error = self.first_error.as_deref().unwrap_or_default().replace(['"', '\\', '\n'], " ");
        format!(r#"{{"failed":{},"error":"{error}","answers":[{}]}}"#, self.failed, answers.join(","))
    }
}

/// `pod node` of an answer `pod node peer`.
fn who(body: &str) -> Option<String> {
    let mut words = body.split_whitespace();
    Some(format!("{} {}", words.next()?, words.next()?))
}
