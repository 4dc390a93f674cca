//! One person's connection to the controller: every verb calls through it, so that `--grpcurl`,
//! deadlines, exit codes and output forms are the same everywhere.

use std::{path::PathBuf, sync::Arc};

use homelab_common::{
    chance::{Chance, SystemChance, uuid_v7},
    clock::{Clock, SystemClock},
    exit::Exit,
};
use homelab_proto::access;
use http::uri::PathAndQuery;
use jiff::Timestamp;
use prost::Message;
use tokio::sync::OnceCell;
use tonic::{Request, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use crate::{
    args::{Global, Output},
    connect,
    context::{self, Context},
    failure::Failure,
    output::{self, Rows},
    wire::{self, Wire},
};

/// The default gRPC port of the controller.
pub const CONTROLLER_PORT: u16 = 7440;

/// What every verb has at hand.
#[derive(Debug)]
pub struct Lab {
    /// The flags that every verb takes.
    pub global: Global,
    /// Folder of the context.
    pub folder: PathBuf,
    clock: Arc<dyn Clock>,
    chance: Box<dyn Chance>,
    wire: Wire,
    channel: OnceCell<Channel>,
}

impl Lab {
    /// Prepares for one verb; nothing is dialled yet.
    ///
    /// # Errors
    /// Wrong usage when the folder of the context is not known.
    pub fn new(global: Global) -> Result<Self, Failure> {
        Ok(Self {
            folder: context::folder(global.context.as_deref())?,
            global,
            clock: Arc::new(SystemClock),
            chance: Box::new(SystemChance),
            wire: Wire::new()?,
            channel: OnceCell::new(),
        })
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A fresh identifier for a call that changes something, so that repeating it is safe.
    #[must_use]
    pub fn request_id(&self) -> String {
        uuid_v7(self.clock.as_ref(), self.chance.as_ref()).to_string()
    }

    /// The source of chance, for keys and jitter.
    #[must_use]
    pub fn chance(&self) -> &dyn Chance {
        self.chance.as_ref()
    }

    /// The clock, for certificates.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Who is logged in, and where the controller is; the flag goes before the context.
    ///
    /// # Errors
    /// Denied when nobody is logged in.
    pub fn context(&self) -> Result<Context, Failure> {
        let mut found = Context::load(&self.folder)?;
        if let Some(address) = &self.global.controller {
            found.controller = context::with_port(address, CONTROLLER_PORT)?;
        }
        Ok(found)
    }

    /// Calls a method that answers once. `action` is what the person wanted, for the error.
    ///
    /// # Errors
    /// As [`Failure::from_status`]; [`Failure::Shown`] when only the grpcurl command was wanted.
    pub async fn call<Q, A>(
        &self,
        action: &str,
        path: &'static str,
        request: Q,
    ) -> Result<A, Failure>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        self.show_grpcurl(path, &request)?;
        let mut request = Request::new(request);
        request.set_timeout(self.global.timeout);
        let mut client = self.client(action).await?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = client.unary(request, PathAndQuery::from_static(path), codec).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| Failure::from_status(action, &status, mutates(path)))
    }

    /// Calls a method that answers with a stream.
    ///
    /// # Errors
    /// As [`Lab::call`].
    pub async fn stream<Q, A>(
        &self,
        action: &str,
        path: &'static str,
        request: Q,
    ) -> Result<Streaming<A>, Failure>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        self.show_grpcurl(path, &request)?;
        let mut client = self.client(action).await?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = client
            .server_streaming(Request::new(request), PathAndQuery::from_static(path), codec)
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| Failure::from_status(action, &status, mutates(path)))
    }

    /// Prints a response in the form that was asked for; the rows are only made when they are needed.
    ///
    /// # Errors
    /// When standard output is full or broken.
    pub fn print<A: Message>(
        &self,
        path: &str,
        response: &A,
        rows: impl FnOnce() -> Rows,
    ) -> Result<(), Failure> {
        let (json, rows) = match self.global.output {
            Output::Json | Output::Yaml => (self.wire.response(path, response)?, Rows::default()),
            Output::Table | Output::Wide | Output::Name => (serde_json::Value::Null, rows()),
        };
        Ok(output::print(self.global.output, &json, &rows)?)
    }

    /// Prints a response as text for people; for programs as [`Lab::print`] does.
    ///
    /// # Errors
    /// As [`Lab::print`].
    pub fn tell<A: Message>(
        &self,
        path: &str,
        response: &A,
        rows: impl FnOnce() -> Rows,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.for_programs() {
            return self.print(path, response, rows);
        }
        Ok(output::write(&text())?)
    }

    /// Whether the result goes to a program, which wants nothing but the result.
    #[must_use]
    pub fn for_programs(&self) -> bool {
        matches!(self.global.output, Output::Json | Output::Yaml | Output::Name)
    }

    fn show_grpcurl(&self, path: &str, request: &impl Message) -> Result<(), Failure> {
        if !self.global.grpcurl {
            return Ok(());
        }
        let context = self.context()?;
        let body = self.wire.request(path, request)?;
        let command = wire::grpcurl(
            &context::identity_folder(&self.folder),
            &context.controller,
            &context.controller_name,
            path,
            &body,
        );
        output::write(&format!("{command}\n"))?;
        Err(Failure::Shown)
    }

    async fn client(&self, action: &str) -> Result<Grpc<Channel>, Failure> {
        let channel = self.channel.get_or_try_init(|| connect::controller(self)).await?;
        let mut client = Grpc::new(channel.clone());
        client.ready().await.map_err(|error| {
            Failure::new(Exit::Unreachable, format!("{action}: {error}")).next("labctl doctor")
        })?;
        Ok(client)
    }
}

fn mutates(path: &str) -> bool {
    access::method(path).and_then(|row| row.access).is_some_and(|access| access.mutates)
}
