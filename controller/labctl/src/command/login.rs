//! `labctl login`: a certificate for a person, by the controller's local socket, by a token, or by the
//! certificate that is still good.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use homelab_common::{error_chain::Chain, exit::Exit, secret::Secret};
use homelab_proto::controller::v1::{
    IssueUserCertificateRequest, IssueUserCertificateResponse, RenewCertificateRequest,
    RenewCertificateResponse, enrolment_service_client::EnrolmentServiceClient,
};
use homelab_rpc::{
    dial::dial_unix,
    enrol::{self, EnrolRequest, Enrolment, IdentityFiles, NewKey, Token},
    peer::Kind,
};

use crate::{
    args::LoginArgs,
    call,
    command::host::role,
    context::{self, Context},
    failure::Failure,
    lab::Lab,
    output,
};

/// Where the controller's local socket is, unless said otherwise.
const SOCKET: &str = "/run/homelab-controller/admin.sock";
/// Most bytes of a token.
const TOKEN_BYTES_MAX: u64 = 4_096;

/// Logs a person in.
///
/// # Errors
/// Denied when nothing vouches for the person; says what would.
pub async fn run(lab: &Lab, args: LoginArgs) -> Result<Exit, Failure> {
    if let Some(file) = &args.token_file {
        by_token(lab, file).await?;
    } else if let Some(socket) = local_socket(&args) {
        by_socket(lab, &socket, &args).await?;
    } else {
        by_certificate(lab).await?;
    }
    let context = Context::load(&lab.folder)?;
    let (identity, _) = Context::identity(&lab.folder, lab.now())?;
    let ends = identity.facts().not_after;
    let left = ends.as_second() - lab.now().as_second();
    output::say(&format!(
        "logged in as {} for {}, controller {}",
        context.id,
        output::duration(left.unsigned_abs()),
        context.controller
    ));
    Ok(Exit::Ok)
}

/// The socket that was named; else the default one, when nobody is logged in and it is there.
fn local_socket(args: &LoginArgs) -> Option<PathBuf> {
    args.socket.clone().or_else(|| Some(PathBuf::from(SOCKET)).filter(|path| path.exists()))
}

async fn by_socket(lab: &Lab, socket: &Path, args: &LoginArgs) -> Result<(), Failure> {
    let key = new_key()?;
    let channel = dial_unix(socket)
        .map_err(|error| Failure::new(Exit::Unreachable, Chain(&error).to_string()))?;
    let request = IssueUserCertificateRequest {
        name: args.user.clone(),
        role: role(args.role).into(),
        approver: args.approver,
        signing_request: key.signing_request.into(),
        valid_for: None,
    };
    let answer: IssueUserCertificateResponse = EnrolmentServiceClient::new(channel)
        .issue_user_certificate(request)
        .await
        .map_err(|status| Failure::from_status("log in over the local socket", &status, false))?
        .into_inner();
    let files = IdentityFiles {
        key: key.key_pem,
        chain: answer.certificate_chain,
        roots: answer.roots,
        enrolment: Enrolment {
            identity: answer.identity,
            controller_address: controller_address(lab, &answer.controller_address)?,
            controller_name: answer.controller_name,
        },
    };
    context::replace(&lab.folder, &files, lab.chance())
}

/// What the person said; else what the controller says of itself.
fn controller_address(lab: &Lab, told: &str) -> Result<String, Failure> {
    let address = lab.global.controller.as_deref().unwrap_or(told);
    context::with_port(address, crate::lab::CONTROLLER_PORT)
}

async fn by_token(lab: &Lab, file: &Path) -> Result<(), Failure> {
    let text = token_text(file)?;
    let token: Token = text.expose().trim().parse().map_err(|error: enrol::InvalidToken| {
        Failure::new(Exit::Usage, Chain(&error).to_string())
            .next("ask an admin: labctl host enroll NAME --kind user")
    })?;
    std::fs::create_dir_all(&lab.folder)
        .map_err(|error| anyhow::Error::from(error).context("make the folder"))?;
    let place = context::identity_folder(&lab.folder);
    let request = EnrolRequest { token, kind: Kind::User, address: String::new() };
    enrol::enrol(request, &place, lab.clock(), lab.chance()).await.map_err(|error| {
        Failure::new(Exit::Denied, Chain(&error).to_string())
            .next("ask an admin for a fresh token: labctl host enroll NAME --kind user")
    })?;
    Ok(())
}

async fn by_certificate(lab: &Lab) -> Result<(), Failure> {
    let context = lab.context()?;
    let key = new_key()?;
    let request = RenewCertificateRequest { signing_request: key.signing_request.into() };
    let answer: RenewCertificateResponse =
        lab.call("renew your certificate", call::RENEW_CERTIFICATE, request).await?;
    let files = IdentityFiles {
        key: key.key_pem,
        chain: answer.certificate_chain,
        roots: answer.roots,
        enrolment: Enrolment {
            identity: context.id.to_string(),
            controller_address: context.controller,
            controller_name: context.controller_name,
        },
    };
    context::replace(&lab.folder, &files, lab.chance())
}

fn new_key() -> Result<NewKey, Failure> {
    NewKey::make().map_err(|error| anyhow::Error::from(error).context("make a key").into())
}

/// A token is a secret: it comes by file or standard input, never on the command line.
fn token_text(file: &Path) -> Result<Secret<String>, Failure> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(TOKEN_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(file)
            .and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(|error| {
        Failure::new(Exit::Usage, format!("read the token from {}: {error}", file.display()))
    })?;
    Ok(Secret::new(text))
}
