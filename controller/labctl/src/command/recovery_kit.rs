//! `labctl recovery-kit …`.

mod code;
mod open;
mod paper;
mod print;
mod prove;
mod sheet;

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{GetRecoveryKitRequest, GetRecoveryKitResponse};

use crate::{
    args::KitCommand,
    call,
    failure::Failure,
    lab::Lab,
    output::{self, Rows},
};

/// Runs one verb on the recovery kit.
///
/// # Errors
/// As the call behind it.
pub async fn run(lab: &Lab, command: KitCommand) -> Result<Exit, Failure> {
    match command {
        KitCommand::Show => show(lab).await,
        KitCommand::Print(args) => print::print(lab, args).await,
        KitCommand::Join(args) => print::join_shares(&args),
        KitCommand::Prove(args) => prove::run(lab, args).await,
    }
}

async fn show(lab: &Lab) -> Result<Exit, Failure> {
    let kit = get(lab).await?;
    lab.tell(call::GET_RECOVERY_KIT, &kit, || secrets(&kit), || paper::text(&kit))?;
    if !lab.for_programs() {
        output::say("next: labctl recovery-kit prove --secrets FOLDER");
    }
    Ok(Exit::Ok)
}

async fn get(lab: &Lab) -> Result<GetRecoveryKitResponse, Failure> {
    let request = GetRecoveryKitRequest::default();
    lab.call("get the recovery kit", call::GET_RECOVERY_KIT, request).await
}

/// For pipes: the names of the secrets.
fn secrets(kit: &GetRecoveryKitResponse) -> Rows {
    let mut rows = Rows::new(&["secret"], "The site file declares no secrets: see [[secret]].");
    for secret in &kit.secrets {
        rows.push(&secret.name, [secret.name.clone()]);
    }
    rows
}
