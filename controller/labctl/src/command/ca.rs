//! `labctl ca …`.

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{
    ListCertificatesRequest, ListCertificatesResponse, RevokeCertificateRequest,
    RevokeCertificateResponse,
};

use crate::{
    args::{CaCommand, RevokeArgs},
    call,
    failure::Failure,
    lab::Lab,
    output::{Rows, distance},
};

/// Length of a serial number in hexadecimal: 16 random bytes.
const SERIAL_DIGITS: usize = 32;

/// Runs one verb on certificates.
///
/// # Errors
/// As the call behind it.
pub async fn run(lab: &Lab, command: CaCommand) -> Result<Exit, Failure> {
    match command {
        CaCommand::List => list(lab).await,
        CaCommand::Revoke(args) => revoke(lab, args).await,
    }
}

async fn list(lab: &Lab) -> Result<Exit, Failure> {
    let request =
        ListCertificatesRequest { page_size: 1_000, ..ListCertificatesRequest::default() };
    let answer: ListCertificatesResponse =
        lab.call("list certificates", call::LIST_CERTIFICATES, request).await?;
    lab.print(call::LIST_CERTIFICATES, &answer, || {
        let mut rows =
            Rows::new(&["serial", "identity", "ends", "revoked", "why"], "None was issued yet.");
        for certificate in &answer.certificates {
            let revoked = certificate
                .revoked_at
                .map_or_else(|| "-".to_owned(), |at| distance(lab.now(), Some(at)));
            rows.push(
                &certificate.serial_hex,
                [
                    certificate.serial_hex.clone(),
                    certificate.identity.clone(),
                    distance(lab.now(), certificate.not_after),
                    revoked,
                    certificate.revocation_reason.clone(),
                ],
            );
        }
        rows
    })?;
    Ok(Exit::Ok)
}

async fn revoke(lab: &Lab, args: RevokeArgs) -> Result<Exit, Failure> {
    let action = format!("revoke {}", args.who);
    let serial =
        args.who.len() == SERIAL_DIGITS && args.who.chars().all(|digit| digit.is_ascii_hexdigit());
    let (serial_hex, identity) =
        if serial { (args.who, String::new()) } else { (String::new(), args.who) };
    let request = RevokeCertificateRequest { serial_hex, identity, reason: args.reason };
    let answer: RevokeCertificateResponse =
        lab.call(&action, call::REVOKE_CERTIFICATE, request).await?;
    lab.print(call::REVOKE_CERTIFICATE, &answer, || {
        let mut rows = Rows::new(&["revoked", "deny list"], "");
        rows.push(answer.epoch.to_string(), [answer.revoked.to_string(), answer.epoch.to_string()]);
        rows
    })?;
    Ok(Exit::Ok)
}
