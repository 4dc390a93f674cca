//! Messages as JSON and YAML, and calls as grpcurl commands: both drawn from the descriptor set, so
//! that they are complete for every method without code of their own.

use anyhow::{Context as _, anyhow};
use homelab_proto::descriptors;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, SerializeOptions};
use serde_json::Value;

/// The protocol, decoded once per process.
#[derive(Debug)]
pub struct Wire {
    pool: DescriptorPool,
}

impl Wire {
    /// Decodes the built-in descriptor set.
    ///
    /// # Errors
    /// When the set is damaged, which would be a fault of the build.
    pub fn new() -> anyhow::Result<Self> {
        let pool =
            DescriptorPool::decode(descriptors::ALL).context("read the built-in protocol")?;
        Ok(Self { pool })
    }

    /// The request of a method as JSON, in the canonical form of protocol buffers.
    ///
    /// # Errors
    /// When the path names no method, or the message is not its request.
    pub fn request(&self, path: &str, request: &impl Message) -> anyhow::Result<Value> {
        json(DynamicMessage::decode(
            self.method(path)?.input(),
            request.encode_to_vec().as_slice(),
        )?)
    }

    /// The response of a method as JSON, in the canonical form of protocol buffers.
    ///
    /// # Errors
    /// As [`Wire::request`].
    pub fn response(&self, path: &str, response: &impl Message) -> anyhow::Result<Value> {
        json(DynamicMessage::decode(
            self.method(path)?.output(),
            response.encode_to_vec().as_slice(),
        )?)
    }

    fn method(&self, path: &str) -> anyhow::Result<MethodDescriptor> {
        let (service, name) = path
            .strip_prefix('/')
            .and_then(|path| path.split_once('/'))
            .ok_or_else(|| anyhow!("`{path}` is not a method"))?;
        self.pool
            .get_service_by_name(service)
            .and_then(|service| service.methods().find(|method| method.name() == name))
            .ok_or_else(|| anyhow!("`{path}` is not in the protocol"))
    }
}

fn json(message: DynamicMessage) -> anyhow::Result<Value> {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut bytes);
    message.serialize_with_options(&mut serializer, &SerializeOptions::new())?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// A grpcurl command that makes the same call, ready to paste.
#[must_use]
pub fn grpcurl(
    identity: &std::path::Path,
    address: &str,
    server_name: &str,
    path: &str,
    body: &Value,
) -> String {
    let folder = identity.display().to_string();
    let file = |name: &str| quote(&format!("{folder}/{name}"));
    let mut words = vec![
        "grpcurl".to_owned(),
        format!("-cacert {}", file("ca.pem")),
        format!("-cert {}", file("cert.pem")),
        format!("-key {}", file("key.pem")),
        format!("-authority {}", quote(server_name)),
    ];
    if body.as_object().is_some_and(|fields| !fields.is_empty()) {
        words.push(format!("-d {}", quote(&body.to_string())));
    }
    words.push(quote(address));
    words.push(path.trim_start_matches('/').to_owned());
    words.join(" \\\n  ")
}

/// Quotes a word for a POSIX shell, when it needs it.
fn quote(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:@%+=".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use homelab_proto::controller::v1::{GetHostRequest, Run, RunState, StartBackupResponse};

    use super::*;

    #[test]
    fn a_response_becomes_canonical_json() {
        let wire = Wire::new().expect("the protocol");
        let run = Run { run_id: "7".into(), state: RunState::Succeeded.into(), ..Run::default() };
        let json = wire
            .response(
                "/homelab.controller.v1.BackupScheduleService/StartBackup",
                &StartBackupResponse { run: Some(run) },
            )
            .expect("is a response");
        assert_eq!(json["run"]["state"], "RUN_STATE_SUCCEEDED");
        assert_eq!(json["run"]["runId"], "7");
    }

    #[test]
    fn a_grpcurl_command_can_be_pasted() {
        let body = serde_json::json!({ "host": "it's" });
        let command = grpcurl(
            Path::new("/root/.config/homelab"),
            "127.0.0.1:7440",
            "controller.home.arpa",
            "/homelab.controller.v1.FleetService/GetHost",
            &body,
        );
        assert_eq!(
            command,
            "grpcurl \\\n  -cacert /root/.config/homelab/ca.pem \\\n  -cert /root/.config/homelab/cert.pem \\\n  \
             -key /root/.config/homelab/key.pem \\\n  -authority controller.home.arpa \\\n  \
             -d '{\"host\":\"it'\\''s\"}' \\\n  127.0.0.1:7440 \\\n  homelab.controller.v1.FleetService/GetHost"
        );
    }

    #[test]
    fn an_unknown_method_is_named() {
        let wire = Wire::new().expect("the protocol");
        let error =
            wire.request("/homelab.v1.Nope/Nope", &GetHostRequest::default()).expect_err("unknown");
        assert!(error.to_string().contains("/homelab.v1.Nope/Nope"), "{error}");
    }
}
