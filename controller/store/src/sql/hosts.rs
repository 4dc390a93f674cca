//! Hosts.

use std::collections::BTreeMap;

use async_trait::async_trait;
use homelab_domain::{fleet::HostState, ids::HostName, site::DaemonKind};

use super::{
    Arg, Conn,
    args::{maybe_at, maybe_text, text},
    both, each,
    row::Row,
};
use crate::{
    error::StoreError,
    noun::hosts::{HostRecord, Hosts},
};

pub(super) struct InHosts<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Hosts for InHosts<'_> {
    async fn all(&mut self) -> Result<Vec<HostRecord>, StoreError> {
        let hosts =
            self.0.rows("list hosts", both("SELECT * FROM hosts ORDER BY name"), &[]).await?;
        let daemons = both("SELECT host, kind FROM host_daemons ORDER BY host, kind");
        let daemons = self.0.rows("list enrolled daemons", daemons, &[]).await?;
        joined(&hosts, &daemons)
    }

    async fn get(&mut self, host: &HostName) -> Result<Option<HostRecord>, StoreError> {
        let hosts = both("SELECT * FROM hosts WHERE name = $1");
        let hosts = self.0.rows("read a host", hosts, &[text(host)]).await?;
        let daemons = both("SELECT host, kind FROM host_daemons WHERE host = $1 ORDER BY kind");
        let daemons = self.0.rows("read enrolled daemons", daemons, &[text(host)]).await?;
        Ok(joined(&hosts, &daemons)?.pop())
    }

    async fn set_enrolled(&mut self, host: &HostName, kind: DaemonKind) -> Result<(), StoreError> {
        self.ensure(host).await?;
        let sql = both(
            "INSERT INTO host_daemons (host, kind) VALUES ($1, $2)
             ON CONFLICT (host, kind) DO NOTHING",
        );
        self.0.run("keep an enrolled daemon", sql, &[text(host), text(kind)]).await.map(drop)
    }

    async fn set_drained(&mut self, host: &HostName, drained: bool) -> Result<(), StoreError> {
        self.ensure(host).await?;
        let sql = both("UPDATE hosts SET drained = $2 WHERE name = $1");
        self.0.run("drain a host", sql, &[text(host), Arg::Bool(drained)]).await.map(drop)
    }

    async fn observed(&mut self, records: &[HostRecord]) -> Result<(), StoreError> {
        let sql = each(
            "INSERT INTO hosts (name, last_seen_at, state, state_since) VALUES ($1, $2, $3, $4)
             ON CONFLICT (name) DO UPDATE SET
               last_seen_at = MAX(COALESCE(hosts.last_seen_at, excluded.last_seen_at),
                 COALESCE(excluded.last_seen_at, hosts.last_seen_at)),
               state = COALESCE(excluded.state, hosts.state),
               state_since = COALESCE(excluded.state_since, hosts.state_since)",
            "INSERT INTO hosts (name, last_seen_at, state, state_since) VALUES ($1, $2, $3, $4)
             ON CONFLICT (name) DO UPDATE SET
               last_seen_at = GREATEST(hosts.last_seen_at, excluded.last_seen_at),
               state = COALESCE(excluded.state, hosts.state),
               state_since = COALESCE(excluded.state_since, hosts.state_since)",
        );
        // Always in the same order, so that two transactions never hold each
        // other's next row.
        let mut records: Vec<&HostRecord> = records.iter().collect();
        records.sort_by(|a, b| a.name.cmp(&b.name));
        for record in records {
            let args = [
                text(&record.name),
                maybe_at(record.last_seen_at),
                maybe_text(record.state.map(|(state, _)| state)),
                maybe_at(record.state.map(|(_, since)| since)),
            ];
            self.0.run("keep what was seen of a host", sql, &args).await?;
        }
        Ok(())
    }

    async fn forget(&mut self, host: &HostName) -> Result<bool, StoreError> {
        let sql = both("DELETE FROM hosts WHERE name = $1");
        Ok(self.0.run("forget a host", sql, &[text(host)]).await? == 1)
    }
}

impl InHosts<'_> {
    async fn ensure(&mut self, host: &HostName) -> Result<(), StoreError> {
        let sql = both("INSERT INTO hosts (name) VALUES ($1) ON CONFLICT (name) DO NOTHING");
        self.0.run("keep a host", sql, &[text(host)]).await.map(drop)
    }
}

fn joined(hosts: &[Row], daemons: &[Row]) -> Result<Vec<HostRecord>, StoreError> {
    let mut enrolled: BTreeMap<HostName, Vec<DaemonKind>> = BTreeMap::new();
    for row in daemons {
        let fields = row.of("host_daemons", "host");
        let kind = fields.word("kind", DaemonKind::from_word)?;
        enrolled.entry(fields.parsed("host")?).or_default().push(kind);
    }
    let record = |row: &Row| {
        let fields = row.of("hosts", "name");
        let name: HostName = fields.parsed("name")?;
        let state = match fields.maybe_word("state", HostState::from_word)? {
            None => None,
            Some(state) => Some((state, fields.at("state_since")?)),
        };
        Ok(HostRecord {
            enrolled: enrolled.remove(&name).unwrap_or_default(),
            drained: fields.bool("drained")?,
            last_seen_at: fields.maybe_at("last_seen_at")?,
            state,
            name,
        })
    };
    hosts.iter().map(record).collect()
}
