//! A Vaultwarden whose rows are in PostgreSQL.
//!
//! The dump is the PostgreSQL source's own. The rows that name files are asked for
//! *after* the moment of the dump: what was deleted in between needs no file any more,
//! and what was uploaded in between has one too many, which does no harm.

use serde::Deserialize;

use super::{
    VaultwardenError,
    database::{Facts, attachment, send},
    manifest::TableRows,
};
use crate::{
    blocking,
    ids::RunId,
    source::{
        SourceError,
        postgres::{
            PostgresError, PostgresSource, access::Access, session::Session, version::Clients,
        },
    },
};

/// Vaultwarden makes its tables in the schema `public`.
const QUESTION: &str = "\
SELECT json_build_object(
  'tables', (SELECT json_agg(json_build_object('table', name, 'rows', rows)) FROM (
    SELECT 'attachments' AS name, count(*) AS rows FROM public.attachments
    UNION ALL SELECT 'ciphers', count(*) FROM public.ciphers
    UNION ALL SELECT 'collections', count(*) FROM public.collections
    UNION ALL SELECT 'folders', count(*) FROM public.folders
    UNION ALL SELECT 'organizations', count(*) FROM public.organizations
    UNION ALL SELECT 'users', count(*) FROM public.users) AS counted),
  'attachments', (SELECT coalesce(json_agg(
    json_build_array(cipher_uuid, id, file_size) ORDER BY cipher_uuid, id), '[]')
    FROM public.attachments),
  'sends', (SELECT coalesce(json_agg(json_build_array(uuid, data) ORDER BY uuid), '[]')
    FROM public.sends WHERE atype = 1))";

#[derive(Deserialize)]
struct Answer {
    tables: Vec<TableRows>,
    attachments: Vec<(String, String, i64)>,
    sends: Vec<(String, String)>,
}

/// What the live database holds now.
pub(super) async fn look(source: &PostgresSource, run: RunId) -> Result<Facts, SourceError> {
    let (server, database) = (source.server.clone(), source.databases.entry().to_owned());
    let (tools, name) = (source.tools.clone(), database.clone());
    let ask = move || -> Result<Answer, PostgresError> {
        let access = Access::open(&server, &database, run, &tools)?;
        let clients = Clients::discover(&tools.clients);
        let mut session = Session::open(clients.newest()?, &access, &tools)?;
        session.ask("list Vaultwarden's files", QUESTION)
    };
    let Answer { tables, attachments, sends } = blocking::run(ask).await?;
    if !tables.iter().any(|it| it.table == "users" && it.rows > 0) {
        return Err(VaultwardenError::NoUsers { path: name.into() }.into());
    }
    let mut uploads: Vec<_> =
        attachments.iter().map(|(cipher, id, bytes)| attachment(cipher, id, *bytes)).collect();
    for (id, data) in sends {
        uploads.push(send(&id, &data).map_err(|source| VaultwardenError::Send {
            path: name.clone().into(),
            id,
            source,
        })?);
    }
    Ok(Facts { tables, uploads, user: None, damage: Vec::new() })
}
