//! Clients as processes of their own, since socket programs go by the process's cgroup: the test binary runs itself.
//!
//! A process is told what to do in an environment variable and prints what it saw.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::libc;
use weir_tests::netns::NetNs;

const ORDERS: &str = "WEIR_TEST_ORDERS";
const PATIENCE: Duration = Duration::from_secs(3);

/// What a client saw: who it believes it talked to, and what that said. Or the error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) lines: Vec<String>,
}

/// Runs `orders` in a process inside the namespace and, if given, the cgroup.
pub(crate) fn run(ns: &NetNs, cgroup: Option<&Path>, orders: &str) -> Seen {
    let output = ns.run(|| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "process::obey", "--nocapture"]).env(ORDERS, orders);
        if let Some(cgroup) = cgroup {
            let procs = OpenOptions::new().write(true).open(cgroup.join("cgroup.procs")).unwrap();
            let enter = move || {
                // SAFETY: a system call on a descriptor that is open, with a byte that lives as long.
                let written = unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) };
                if written == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
            };
            // SAFETY: `enter` does nothing but a system call.
            unsafe { command.pre_exec(enter) };
        }
        command.output().unwrap()
    });
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{orders}: {text}{}", String::from_utf8_lossy(&output.stderr));
    let lines = text.lines().filter_map(|line| line.split_once("seen: ")).map(|(_, seen)| seen.to_owned());
    Seen { lines: lines.collect() }
}

/// Does nothing unless it is started by `run`.
#[test]
fn obey() {
    let Ok(orders) = env::var(ORDERS) else { return };
    let words: Vec<&str> = orders.split(' ').collect();
    let [verb, target, times] = words[..] else { panic!("no such orders: {orders}") };
    let (target, times): (SocketAddr, usize) = (target.parse().unwrap(), times.parse().unwrap());
    println!();
    for line in match verb {
        "tcp" => (0..times).map(|_| tcp(target)).collect(),
        "udp-connected" => udp_connected(target, times),
        "udp-unconnected" => udp_unconnected(target, times),
        _ => panic!("no such orders: {orders}"),
    } {
        println!("seen: {line}");
    }
}

fn shown(result: io::Result<(SocketAddr, String)>) -> String {
    match result {
        Ok((peer, answer)) => format!("{peer} {answer}"),
        Err(error) => format!("error {:?}", error.kind()),
    }
}

pub(crate) fn tcp(target: SocketAddr) -> String {
    shown((|| {
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let peer = stream.peer_addr()?;
        stream.write_all(&[b'x'; 4000])?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok((peer, answer))
    })())
}

fn udp_socket(target: SocketAddr) -> UdpSocket {
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn udp_connected(target: SocketAddr, times: usize) -> Vec<String> {
    let socket = udp_socket(target);
    socket.connect(target).unwrap();
    let exchange = || {
        let mut buffer = [0; 64];
        socket.send(b"hello")?;
        let length = socket.recv(&mut buffer)?;
        Ok((socket.peer_addr()?, String::from_utf8_lossy(&buffer[..length]).into_owned()))
    };
    (0..times).map(|_| shown(exchange())).collect()
}

pub(crate) fn udp_unconnected(target: SocketAddr, times: usize) -> Vec<String> {
    let socket = udp_socket(target);
    let exchange = || {
        let mut buffer = [0; 64];
        socket.send_to(b"hello", target)?;
        let (length, from) = socket.recv_from(&mut buffer)?;
        Ok((from, String::from_utf8_lossy(&buffer[..length]).into_owned()))
    };
    (0..times).map(|_| shown(exchange())).collect()
}
