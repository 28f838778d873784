//! Every `testdata/server/*.session` is what a terminal would show, run line by line in a shell against a server of its
//! own. What differs from run to run is shown by its name: ages, uids, revisions, addresses.
//!
//! After a change, `WEIR_BLESS=1 cargo nextest run -p weir-cli --test server transcripts` writes the files anew; read
//! the difference before committing it.

use std::fs;

use crate::cluster::Cluster;

async fn replayed_as_written(name: &str) {
    let file = format!("testdata/server/{name}.session");
    let written = fs::read_to_string(&file).unwrap();
    let replayed = replay(&written).await;
    if std::env::var_os("WEIR_BLESS").is_some() {
        fs::write(&file, &replayed).unwrap();
    } else {
        let diff = similar::TextDiff::from_lines(&written, &replayed);
        assert!(replayed == written, "{file}\n{}", diff.unified_diff());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applying_is_as_it_was() {
    replayed_as_written("apply").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changing_is_as_it_was() {
    replayed_as_written("change").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_is_as_it_was() {
    replayed_as_written("look").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_as_they_were() {
    replayed_as_written("tokens").await;
}

/// The same commands and comments, with what the commands say now.
async fn replay(written: &str) -> String {
    let cluster = Cluster::start().await;
    let mut replayed = String::new();
    for line in written.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            let output = cluster.run(&format!("exec 2>&1\n{command}")).await;
            replayed += &format!("{line}\n{}", masked(&String::from_utf8_lossy(&output.stdout)));
            if !replayed.ends_with('\n') {
                replayed += "[no newline]\n";
            }
            match output.status.code() {
                Some(0) => {}
                code => {
                    replayed += &format!("[exit {}]\n", code.map_or("?".to_owned(), |code| code.to_string()))
                }
            }
        } else if line.starts_with("# ") {
            replayed += &format!("{line}\n");
        }
    }
    replayed
}

pub(crate) fn masked(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(line).collect();
    lines.join("\n")
}

/// Word by word; the spaces behind a word that was replaced are as many as stand between columns.
fn line(line: &str) -> String {
    let mut masked = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !is_of_word(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        rest = behind;
        match mask(word) {
            Some(mask) => {
                masked += mask;
                let trimmed = rest.trim_start_matches(' ');
                if rest.len() - trimmed.len() > 2 {
                    masked += "   ";
                    rest = trimmed;
                }
            }
            None => masked += word,
        }
        let next = rest.chars().next();
        masked.extend(next);
        rest = &rest[next.map_or(0, char::len_utf8)..];
    }
    masked
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-.:".contains(c)
}

fn mask(word: &str) -> Option<&'static str> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let groups: Vec<usize> = word.split('-').map(str::len).collect();
    if groups == [8, 4, 4, 4, 12] && word.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()) {
        Some("UID")
    } else if word.strip_suffix('s').is_some_and(|number| number.len() < 3 && digits(number)) {
        Some("AGE")
    } else if word.strip_prefix("kube-api-access-").is_some_and(|suffix| suffix.len() == 5) {
        Some("kube-api-access-SUFFIX")
    } else if word.starts_with("10.96.") {
        Some("CLUSTER-IP")
    } else if word.starts_with("127.0.0.1:") {
        Some("SERVER")
    } else if word.starts_with("20") && word.len() == 20 && word.ends_with('Z') {
        Some("TIME")
    } else {
        None
    }
}
