//! Downloads from a Hub on the loopback address; nothing leaves this machine.

use crate::{Run, command, instruct, str};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server has and what it was asked.
struct Repository {
    files: BTreeMap<String, Vec<u8>>,
    /// Bytes after which the next downloads of the weights are cut, the last first.
    cuts: Vec<usize>,
    /// Whether what comes for the weights is damaged.
    damaged: bool,
    /// The token that every request must bear.
    token: Option<String>,
    /// Path and range of each request.
    asked: Vec<String>,
}

/// A Hub with one model, `o/tiny`: weights are large files, elsewhere and with a SHA-256; others are stated by Git's
/// hash, or by none.
struct Server {
    address: String,
    repository: Arc<Mutex<Repository>>,
}

impl Server {
    fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let repository =
            Repository { files, cuts: Vec::new(), damaged: false, token: None, asked: Vec::new() };
        let repository = Arc::new(Mutex::new(repository));
        let server = Self { address, repository };
        let (address, repository) = (server.address.clone(), Arc::clone(&server.repository));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(&address, &mut repository.lock().unwrap(), stream.unwrap());
            }
        });
        server
    }

    /// The checkpoint of a small instruct model.
    fn with_checkpoint() -> Self {
        let folder = tempfile::tempdir().unwrap();
        instruct::checkpoint(folder.path(), Some("{{ messages[0].content }}"));
        let files = fs::read_dir(folder.path()).unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        });
        let readme = ("README.md".to_owned(), b"nobody needs this".to_vec());
        Self::start(files.chain([readme]).collect())
    }

    fn change(&self, change: impl FnOnce(&mut Repository)) {
        change(&mut self.repository.lock().unwrap());
    }

    /// Requests since the last call, of those whose path contains `part`.
    fn asked(&self, part: &str) -> Vec<String> {
        let asked = std::mem::take(&mut self.repository.lock().unwrap().asked);
        asked.into_iter().filter(|request| request.contains(part)).collect()
    }

    fn pull(&self, folder: &Path, options: &[&str]) -> Run {
        self.pull_as(folder, options, "")
    }

    fn pull_as(&self, folder: &Path, options: &[&str], token: &str) -> Run {
        let args = [&["pull", "o/tiny", "-o", str(folder), "--json"][..], options].concat();
        pull(&args, &format!("http://{}/", self.address), token, folder)
    }
}

fn pull(args: &[&str], endpoint: &str, token: &str, home: &Path) -> Run {
    let output = puller(args, endpoint, token, home).output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The command with the given Hub and token, and with no other of the user's settings.
fn puller(args: &[&str], endpoint: &str, token: &str, home: &Path) -> Command {
    let mut command = command(args);
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(proxy).env_remove(proxy.to_lowercase());
    }
    command
        .env("HF_ENDPOINT", endpoint)
        .env("HF_TOKEN", token)
        .env("HF_HOME", home)
        .env_remove("HF_TOKEN_PATH");
    command
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn serve(address: &str, repository: &mut Repository, mut stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(request)) = lines.next() else { return };
    let path = request.split(' ').nth(1).unwrap().to_owned();
    let headers: Vec<String> = lines.map(|line| line.unwrap()).take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        let line = headers.iter().filter_map(|line| line.split_once(": "));
        line.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
    };
    let range = header("range").unwrap_or_default();
    repository.asked.push(format!("{path} {range}"));
    let mut reply = |status: &str, headers: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}");
        let _ = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(b"\r\n"))
            .and_then(|()| stream.write_all(body));
    };

    if repository.token.is_some()
        && header("authorization") != repository.token.as_ref().map(|t| format!("Bearer {t}"))
    {
        return reply("401 Unauthorized", "content-length: 0\r\n", b"");
    }
    if path == "/api/models/o/tiny/revision/main" {
        let siblings: Vec<Value> =
            repository.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let info = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        return reply("200 OK", &format!("content-length: {}\r\n", info.len()), info.as_bytes());
    }
    let resolved = format!("/o/tiny/resolve/{COMMIT}/");
    let file = path.strip_prefix(&resolved).or(path.strip_prefix("/elsewhere/"));
    let Some((file, bytes)) = file.and_then(|file| repository.files.get_key_value(file)) else {
        return reply("404 Not Found", "content-length: 0\r\n", b"");
    };
    let large = file.ends_with(".safetensors");
    if large && path.starts_with(&resolved) {
        let headers = format!(
            "location: http://{address}/elsewhere/{file}\r\nx-linked-etag: \"{}\"\r\nx-repo-commit: {COMMIT}\r\n\
             content-length: 0\r\n",
            sha256(bytes)
        );
        return reply("302 Found", &headers, b"");
    }
    let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    let end = end.parse().map_or(bytes.len(), |end: usize| end + 1);
    if start >= bytes.len() {
        return reply("416 Range Not Satisfiable", "content-length: 0\r\n", b"");
    }
    let mut body = bytes[start..end].to_vec();
    let headers = format!(
        "content-range: bytes {start}-{}/{}\r\ncontent-length: {}\r\netag: W/\"tag-{}\"\r\nx-repo-commit: {COMMIT}\r\n",
        end - 1,
        bytes.len(),
        body.len(),
        bytes.len()
    );
    if large && body.len() > 1 {
        if repository.damaged {
            body[0] ^= 1;
        }
        body.truncate(repository.cuts.pop().unwrap_or(usize::MAX));
    }
    reply("206 Partial Content", &headers, &body);
}

/// The JSON object of a run that succeeded.
fn pulled(run: &Run) -> Value {
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{}", run.stdout);
    serde_json::from_str(&run.stdout).unwrap()
}

fn failed(run: &Run, words: &[&str]) {
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    for word in words {
        assert!(run.stderr.contains(word), "{:?} lacks {word:?}", run.stderr);
    }
}

fn same_files(server: &Server, folder: &Path) {
    for (name, bytes) in &server.repository.lock().unwrap().files {
        match name.as_str() {
            "README.md" => assert!(!folder.join(name).exists()),
            _ => assert!(fs::read(folder.join(name)).unwrap() == *bytes, "{name}"),
        }
    }
    assert!(!folder.join(".sarit-pull").exists());
}

#[test]
fn a_checkpoint_is_pulled_and_compiled() {
    let (server, home) = (Server::with_checkpoint(), tempfile::tempdir().unwrap());
    let folder = home.path().join("model");
    let result = pulled(&server.pull(&folder, &["--convert", "q4"]));
    same_files(&server, &folder);
    assert_eq!((result["commit"].as_str(), result["files"].as_array().unwrap().len()), (Some(COMMIT), 5));
    let model = folder.join("tiny-q4.sarit");
    assert_eq!(result["model"].as_str(), Some(str(&model)));
    let meta = crate::json(&["inspect", str(&model), "--json"])["meta"].clone();
    assert_eq!(meta["chat"]["template"], "{{ messages[0].content }}");
    assert_eq!(meta["quantization"]["weights"], "q4");

    // What is there is checked, not taken again; what is not as it should be is.
    server.asked("");
    fs::write(folder.join("config.json"), "{}").unwrap();
    let again = pulled(&server.pull(&folder, &[]));
    same_files(&server, &folder);
    let fetched = again["files"].as_array().unwrap().iter().filter(|file| file["fetched"] == true);
    assert_eq!(fetched.map(|file| file["name"].as_str().unwrap()).collect::<Vec<_>>(), ["config.json"]);
    assert_eq!(server.asked("/elsewhere/"), ["/elsewhere/model.safetensors bytes=0-0"]);
}

#[test]
fn a_reader_that_leaves_does_not_stop_the_compilation() {
    let (server, home) = (Server::with_checkpoint(), tempfile::tempdir().unwrap());
    let folder = home.path().join("model");
    let endpoint = format!("http://{}", server.address);
    let args = ["pull", "o/tiny", "-o", str(&folder), "--convert", "q4"];
    let mut child = puller(&args, &endpoint, "", home.path()).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(folder.join("tiny-q4.sarit").exists());

    let listed = pull(&args, &endpoint, "", home.path());
    assert_eq!(listed.stdout.lines().filter(|line| line.ends_with(", was there)")).count(), 5);
    assert!(listed.stdout.contains("\nwrote ") && listed.code == Some(0), "{}", listed.stdout);
}

#[test]
fn a_cut_download_goes_on_where_it_ended() {
    let (server, home) = (Server::with_checkpoint(), tempfile::tempdir().unwrap());
    let folder = home.path().join("model");
    // Within one run.
    server.change(|repository| repository.cuts = vec![30_000, 50_000]);
    pulled(&server.pull(&folder, &[]));
    same_files(&server, &folder);
    let part = "/elsewhere/model.safetensors bytes=";
    let ranges = ["0-0", "0-0", "0-", "0-0", "50000-", "0-0", "80000-"].map(|range| format!("{part}{range}"));
    assert_eq!(server.asked(part), ranges);

    // And from run to run.
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    server.change(|repository| repository.cuts = vec![10, 10, 10, 60_000]);
    failed(&server.pull(&folder, &[]), &["model.safetensors of o/tiny", "goes on where it ended"]);
    assert!(!folder.join("model.safetensors").exists());
    server.asked("");
    pulled(&server.pull(&folder, &[]));
    same_files(&server, &folder);
    assert_eq!(server.asked(part).last().unwrap(), "/elsewhere/model.safetensors bytes=60030-");
}

#[test]
fn what_has_arrived_whole_is_not_asked_for_again() {
    let (server, home) = (Server::with_checkpoint(), tempfile::tempdir().unwrap());
    let folder = home.path().join("model");
    let cache = folder.join(".sarit-pull/models--o--tiny");
    let part = "/elsewhere/model.safetensors bytes=";
    // As a run leaves it that was stopped while it checked the file.
    let weights = server.repository.lock().unwrap().files["model.safetensors"].clone();
    fs::create_dir_all(cache.join("blobs")).unwrap();
    fs::write(cache.join("blobs").join(sha256(&weights)), &weights).unwrap();
    pulled(&server.pull(&folder, &[]));
    same_files(&server, &folder);
    assert_eq!(server.asked(part), [format!("{part}0-0")]);

    // A disk without links: here a file is where the folder of links would be.
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    fs::create_dir_all(&cache).unwrap();
    fs::write(cache.join("snapshots"), "").unwrap();
    pulled(&server.pull(&folder, &[]));
    same_files(&server, &folder);
    assert_eq!(server.asked(part), ["0-0", "0-0", "0-"].map(|range| format!("{part}{range}")));
}

#[test]
fn a_damaged_download_is_not_kept() {
    let (server, home) = (Server::with_checkpoint(), tempfile::tempdir().unwrap());
    let folder = home.path().join("model");
    server.change(|repository| repository.damaged = true);
    failed(&server.pull(&folder, &[]), &["model.safetensors of o/tiny arrived damaged", "checksum"]);
    assert!(!folder.join("model.safetensors").exists());
    server.change(|repository| repository.damaged = false);
    pulled(&server.pull(&folder, &[]));
    same_files(&server, &folder);
}

#[test]
fn a_token_is_shown() {
    let (server, home) = (Server::with_checkpoint(), tempfile::tempdir().unwrap());
    server.change(|repository| repository.token = Some("secret".to_owned()));
    let folder = home.path().join("model");
    failed(&server.pull(&folder, &[]), &["does not give model o/tiny", "HF_TOKEN"]);
    assert!(!folder.exists());
    pulled(&server.pull_as(&folder, &[], "secret"));
    // From the file that `huggingface-cli login` writes.
    fs::write(folder.join("token"), "secret\n").unwrap();
    pulled(&server.pull(&folder, &[]));
}

#[test]
fn what_cannot_be_pulled_is_said() {
    let (server, home) = (Server::with_checkpoint(), tempfile::tempdir().unwrap());
    let folder = home.path().join("model");
    let endpoint = format!("http://{}", server.address);
    let other = pull(&["pull", "o/missing", "-o", str(&folder)], &endpoint, "", home.path());
    failed(&other, &["has no model o/missing at revision main"]);
    failed(&server.pull(&folder, &["--revision", "v2"]), &["has no model o/tiny at revision v2"]);
    failed(&server.pull(&folder, &["--gguf", "a.gguf"]), &["has no file \"a.gguf\""]);
    for bad in ["tiny", "o/../tiny", "o/tiny/x", "/tiny", "o/ti ny"] {
        failed(&pull(&["pull", bad], &endpoint, "", home.path()), &["is no model's name"]);
    }
    failed(&server.pull(&folder, &["--revision", "../x"]), &["is no revision"]);

    server.change(|repository| repository.files.retain(|name, _| name.ends_with("json")));
    failed(&server.pull(&folder, &[]), &["cannot take o/tiny", "no weights"]);
    // A port of this machine at which nobody listens.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable =
        pull(&["pull", "o/tiny", "-o", str(&folder)], &format!("http://{closed}"), "", home.path());
    failed(&unreachable, &["cannot get model o/tiny", "check the network"]);
    assert!(!folder.exists());
}
