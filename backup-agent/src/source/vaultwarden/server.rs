//! Vaultwarden itself, started on a restored data folder.
//!
//! It gets a port of its own on the loopback interface and an environment of its own:
//! no mail, no push, no icons, no jobs that delete or remind. `config.json` of the
//! backup, which would override all of that and may hold a mail server, is passed
//! over by naming another file (`CONFIG_FILE`).

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use homelab_common::{
    error_chain::Chain,
    exec::{Exec, Program, Supervised},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, time};

use super::{DATABASE_FILE, VaultwardenError, database::User};

/// Where the program is looked for unless it is named: where packages and the
/// documented manual installation put it.
pub const PROGRAMS: [&str; 3] =
    ["/usr/bin/vaultwarden", "/usr/local/bin/vaultwarden", "/opt/vaultwarden/vaultwarden"];

/// How long it may take to answer: a migration of the database comes first.
const START_MAX: Duration = Duration::from_secs(120);
/// How often it is asked meanwhile.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long it gets to end.
const GRACE: Duration = Duration::from_secs(5);
/// Answers are a line of JSON.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How many of its last lines are given when it does not answer.
const LINES_SHOWN: usize = 5;

/// What a started server showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It answered as it should, so long after its start.
    Answered(Duration),
    /// It answered otherwise than its database says.
    Wrong(String),
    /// It did not answer: of another version, or the host's fault.
    Silent(String),
}

/// The program to start, if there is one.
pub(super) fn find(configured: Option<&Path>) -> Option<PathBuf> {
    let known = PROGRAMS.iter().map(PathBuf::from).find(|path| path.is_file());
    configured.map(Path::to_owned).or(known)
}

/// Starts `program` on `data`, asks it for a sign of life and for what `user` needs to
/// log in, and ends it again. The data folder is changed by that.
///
/// Cancel safety: safe; dropping the future ends the program.
///
/// # Errors
///
/// It cannot be started at all.
pub(super) async fn try_out(
    exec: &dyn Exec,
    program: &Path,
    data: &Path,
    user: Option<&User>,
) -> Result<Outcome, VaultwardenError> {
    let port = free_port().map_err(VaultwardenError::Port)?;
    let began = Instant::now();
    let mut server =
        exec.supervise(described(program, data, port)).map_err(VaultwardenError::Start)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let outcome = ask(&mut server, address, user, began).await;
    if let Err(error) = server.terminate(GRACE).await {
        tracing::warn!(error = %Chain(&error), "Vaultwarden of a drill did not end");
    }
    Ok(outcome)
}

async fn ask(
    server: &mut Supervised,
    address: SocketAddr,
    user: Option<&User>,
    began: Instant,
) -> Outcome {
    let alive = tokio::select! {
        alive = time::timeout(START_MAX, alive(address)) => alive.is_ok(),
        _ended = server.wait() => false,
    };
    let answered = began.elapsed();
    if !alive {
        let lines = server.lines();
        let last = lines[lines.len().saturating_sub(LINES_SHOWN)..].join(" | ");
        return Outcome::Silent(format!(
            "Vaultwarden did not answer {} s after its start; it said: {last}",
            answered.as_secs()
        ));
    }
    match user {
        None => Outcome::Answered(answered),
        Some(user) => match prelogin(address, user).await {
            Ok(None) => Outcome::Answered(answered),
            Ok(Some(difference)) => Outcome::Wrong(difference),
            Err(error) => {
                Outcome::Silent(format!("Vaultwarden is alive and answers no prelogin: {error}"))
            }
        },
    }
}

fn described(program: &Path, data: &Path, port: u16) -> Program {
    let folder = data.display().to_string();
    let settings = [
        ("DATA_FOLDER", folder.clone()),
        ("DATABASE_URL", format!("{folder}/{DATABASE_FILE}")),
        // Not there, and so nothing overrides what is set here.
        ("CONFIG_FILE", format!("{folder}/no-config.json")),
        ("ROCKET_ADDRESS", Ipv4Addr::LOCALHOST.to_string()),
        ("ROCKET_PORT", port.to_string()),
        ("DOMAIN", format!("http://{}:{port}", Ipv4Addr::LOCALHOST)),
        ("WEB_VAULT_ENABLED", "false".to_owned()),
        ("ENABLE_WEBSOCKET", "false".to_owned()),
        ("PUSH_ENABLED", "false".to_owned()),
        ("SIGNUPS_ALLOWED", "false".to_owned()),
        ("DISABLE_ICON_DOWNLOAD", "true".to_owned()),
        // No job runs: they purge Sends and the trash, and write mails.
        ("JOB_POLL_INTERVAL_MS", "0".to_owned()),
        ("LOG_LEVEL", "warn".to_owned()),
        // It refuses to start in containers whose data folder is not a volume.
        ("I_REALLY_WANT_VOLATILE_STORAGE", "true".to_owned()),
    ];
    let start = Program::new(program.display().to_string()).directory(data);
    settings.into_iter().fold(start, |program, (name, value)| program.env(name, value))
}

/// Free a moment ago; whoever takes it in between makes the drill unverified.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

async fn alive(address: SocketAddr) {
    loop {
        let answer = call(address, Method::GET, "/alive", String::new()).await;
        // It takes a connection to the database to give this answer.
        if matches!(answer, Ok((StatusCode::OK, _))) {
            return;
        }
        time::sleep(ASK_EVERY).await;
    }
}

/// What Vaultwarden tells of a user; says how it differs from the database.
async fn prelogin(address: SocketAddr, user: &User) -> io::Result<Option<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Prelogin {
        kdf: i64,
        kdf_iterations: i64,
    }
    let question = serde_json::json!({ "email": user.email }).to_string();
    let path = "/identity/accounts/prelogin";
    let (status, body) = call(address, Method::POST, path, question).await?;
    if status != StatusCode::OK {
        return Err(io::Error::other(format!("HTTP status {status}")));
    }
    let Prelogin { kdf, kdf_iterations } =
        serde_json::from_slice(&body).map_err(io::Error::other)?;
    let same = (kdf, kdf_iterations) == (user.kdf, user.iterations);
    Ok((!same).then(|| {
        format!(
            "prelogin of a user gives key derivation {kdf} with {kdf_iterations} rounds, the \
             database has {} with {}",
            user.kdf, user.iterations
        )
    }))
}

async fn call(
    address: SocketAddr,
    method: Method,
    path: &str,
    body: String,
) -> io::Result<(StatusCode, Bytes)> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)?;
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let asking = async move {
            let response = sender.send_request(request).await.map_err(io::Error::other)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((status, body.map_err(io::Error::other)?.to_bytes()))
        };
        // The connection ends with the sender that the first part owns.
        let (answer, _closed) = tokio::join!(asking, connection);
        answer
    };
    match time::timeout(ANSWER_MAX, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
