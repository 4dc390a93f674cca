//! `git http-backend` behind a small server that asks for a login.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use homelab_common::{
    exec::{Exec, Program, SystemExec},
    lifecycle::Tasks,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::super::remote::Base;

/// Where Debian puts git's own programs.
const BACKEND: &str = "/usr/lib/git-core/git-http-backend";

pub(super) struct Cgi {
    port: u16,
    expired: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Site {
    root: PathBuf,
    login: String,
    expired: Arc<AtomicBool>,
}

impl Cgi {
    pub(super) async fn start(root: PathBuf, login: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let expired = Arc::new(AtomicBool::new(false));
        let login = format!("Basic {}", STANDARD.encode(login));
        let site = Site { root, login, expired: Arc::clone(&expired) };
        let tasks = Tasks::default();
        let connections = tasks.clone();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let site = site.clone();
                connections.spawn(async move { site.answer(stream).await });
            }
        });
        Self { port, expired }
    }

    pub(super) fn base(&self) -> Base {
        format!("http://127.0.0.1:{}", self.port).parse().expect("an address")
    }

    pub(super) fn expire(&self) {
        self.expired.store(true, Ordering::SeqCst);
    }

    pub(super) fn renew(&self) {
        self.expired.store(false, Ordering::SeqCst);
    }
}

impl Site {
    async fn answer(&self, mut stream: TcpStream) {
        let (head, body) = request(&mut stream).await;
        let header = |name: &str| {
            head.lines()
                .filter_map(|line| line.split_once(": "))
                .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.to_owned()))
                .unwrap_or_default()
        };
        let known = header("authorization") == self.login && !self.expired.load(Ordering::SeqCst);
        let answer = if known {
            let mut words = head.split(' ');
            let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let program = Program::new(BACKEND)
                .env("GIT_PROJECT_ROOT", self.root.display().to_string())
                .env("GIT_HTTP_EXPORT_ALL", "1")
                .env("GIT_CONFIG_COUNT", "1")
                .env("GIT_CONFIG_KEY_0", "safe.directory")
                .env("GIT_CONFIG_VALUE_0", "*")
                .env("REQUEST_METHOD", method)
                .env("PATH_INFO", path)
                .env("QUERY_STRING", query)
                .env("CONTENT_TYPE", header("content-type"))
                .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
                .env("GIT_PROTOCOL", header("git-protocol"))
                .stdin(body);
            let output = SystemExec.run(program).await.expect("git http-backend; apt install git");
            http(&output.stdout)
        } else {
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\n\
              Content-Length: 0\r\nConnection: close\r\n\r\n"
                .to_vec()
        };
        // A client that hangs up early is its own business.
        drop(stream.write_all(&answer).await);
    }
}

async fn request(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
            });
            let mut body = bytes.split_off(end + 4);
            let missing = length.unwrap_or(0_usize).saturating_sub(body.len());
            let mut rest = vec![0; missing];
            stream.read_exact(&mut rest).await.expect("a body");
            body.extend(rest);
            return (head, body);
        }
        if stream.read_buf(&mut bytes).await.expect("a request") == 0 {
            return (String::new(), Vec::new());
        }
    }
}

/// From what a CGI program writes.
fn http(output: &[u8]) -> Vec<u8> {
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    let body = &output[end + 4..];
    let mut answer = format!(
        "HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}
