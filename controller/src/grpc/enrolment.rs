//! `EnrolmentService`: identities over the wire.

use std::sync::Arc;

use async_trait::async_trait;
use homelab_proto::controller::v1::{
    BeginEnrolmentRequest, BeginEnrolmentResponse, CreateLoginLinkRequest, CreateLoginLinkResponse,
    CreateTokenRequest, CreateTokenResponse, FinishEnrolmentRequest, FinishEnrolmentResponse,
    IssueUserCertificateRequest, IssueUserCertificateResponse, IssuedCertificate,
    ListCertificatesRequest, ListCertificatesResponse, ListTokensRequest, ListTokensResponse,
    RenewCertificateRequest, RenewCertificateResponse, RevokeCertificateRequest,
    RevokeCertificateResponse, RevokeTokenRequest, RevokeTokenResponse, Token,
    enrolment_service_server::EnrolmentService,
};
use homelab_rpc::{
    guard::{exporter, peer, request_id},
    node::to_proto,
    status::{Failure, Reason, fail},
};
use homelab_store::PageRequest;
use tonic::{Code, Request, Response, Status};

use super::{status::IntoStatus, wire};
use crate::{
    ca::{
        enrolment::{Enrolments, Finish, USER_VALID_FOR},
        revocation::Target,
        token::{TokenOrder, VALID_FOR, kind_from, parse_id, shown_id},
    },
    login::LoginLinks,
};

/// Answers for the enrolments.
#[derive(Clone, Debug)]
pub struct EnrolmentApi {
    enrolments: Arc<Enrolments>,
    links: LoginLinks,
}

impl EnrolmentApi {
    /// Answers for `enrolments`, and makes login links with `links`.
    #[must_use]
    pub const fn new(enrolments: Arc<Enrolments>, links: LoginLinks) -> Self {
        Self { enrolments, links }
    }
}

#[async_trait]
impl EnrolmentService for EnrolmentApi {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let (actor, id) = (peer(&request)?.to_string(), request_id(&request).to_owned());
        let asked = request.into_inner();
        let order = TokenOrder {
            kinds: wire::kinds("kinds", &asked.kinds)?,
            grant: wire::grant(asked.role, asked.approver)?,
            valid_for: wire::span("valid_for", asked.valid_for, VALID_FOR)?,
            name: asked.name,
        };
        let made = self.enrolments.create_token(&order, &actor).await;
        let made = made.map_err(|error| error.into_status(&id))?;
        Ok(Response::new(CreateTokenResponse {
            token: made.token.expose().clone(),
            token_id: made.id_hex,
            expires_at: Some(to_proto(made.expires_at)),
        }))
    }

    async fn list_tokens(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        let id = request_id(&request).to_owned();
        let asked = request.into_inner();
        let page = page(asked.page_size, &asked.page_token)?;
        let tokens = self.enrolments.list_tokens(&page).await;
        let tokens = tokens.map_err(|error| error.into_status(&id))?;
        Ok(Response::new(ListTokensResponse {
            next_page_token: tokens.next_token(),
            tokens: tokens.items.into_iter().map(token).collect(),
        }))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let id = request_id(&request).to_owned();
        let token_id = request.into_inner().token_id;
        let unknown = || {
            let message = format!("there is no token `{token_id}`; list them with ListTokens");
            fail(Code::NotFound, Reason::TOKEN_NOT_FOUND, message)
        };
        let token_id = parse_id(&token_id).ok_or_else(unknown)?;
        let revoked = self.enrolments.revoke_token(token_id).await;
        let revoked = revoked.map_err(|error| error.into_status(&id))?.ok_or_else(unknown)?;
        Ok(Response::new(RevokeTokenResponse { token: Some(token(revoked)) }))
    }

    async fn begin_enrolment(
        &self,
        request: Request<BeginEnrolmentRequest>,
    ) -> Result<Response<BeginEnrolmentResponse>, Status> {
        let connection = exporter(&request)?;
        let (nonce, now) = self.enrolments.begin(&request.get_ref().token_id, &connection);
        let nonce = nonce.to_vec().into();
        Ok(Response::new(BeginEnrolmentResponse { nonce, now: Some(to_proto(now)) }))
    }

    async fn finish_enrolment(
        &self,
        request: Request<FinishEnrolmentRequest>,
    ) -> Result<Response<FinishEnrolmentResponse>, Status> {
        let (id, connection) = (request_id(&request).to_owned(), exporter(&request)?);
        let asked = request.into_inner();
        let finish = Finish {
            token_id: &asked.token_id,
            kind: wire::kind("kind", asked.kind)?,
            signing_request: &asked.signing_request,
            proof: &asked.proof,
            exporter: &connection,
            address: &asked.address,
        };
        let issued = self.enrolments.finish(&finish).await;
        let issued = issued.map_err(|error| error.into_status(&id))?;
        let contact = &self.enrolments.contact;
        Ok(Response::new(FinishEnrolmentResponse {
            certificate_chain: issued.chain_pem,
            roots: self.enrolments.authority.roots_pem().to_owned(),
            not_after: Some(to_proto(issued.not_after)),
            identity: issued.identity,
            controller_address: contact.main_address.clone(),
            controller_name: contact.name.clone(),
        }))
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<RenewCertificateResponse>, Status> {
        let (caller, id) = (peer(&request)?.clone(), request_id(&request).to_owned());
        let issued = self.enrolments.renew(&caller, &request.get_ref().signing_request).await;
        let issued = issued.map_err(|error| error.into_status(&id))?;
        Ok(Response::new(RenewCertificateResponse {
            certificate_chain: issued.chain_pem,
            roots: self.enrolments.authority.roots_pem().to_owned(),
            not_after: Some(to_proto(issued.not_after)),
        }))
    }

    async fn issue_user_certificate(
        &self,
        request: Request<IssueUserCertificateRequest>,
    ) -> Result<Response<IssueUserCertificateResponse>, Status> {
        let id = request_id(&request).to_owned();
        let asked = request.into_inner();
        let what = "name the role: viewer, operator or admin";
        let grant = wire::grant(asked.role, asked.approver)?
            .ok_or_else(|| Status::from(Failure::invalid(what).field("role", what)))?;
        let valid_for = wire::span("valid_for", asked.valid_for, USER_VALID_FOR)?;
        let issued =
            self.enrolments.issue_user(&asked.name, grant, valid_for, &asked.signing_request).await;
        let issued = issued.map_err(|error| error.into_status(&id))?;
        Ok(Response::new(IssueUserCertificateResponse {
            certificate_chain: issued.chain_pem,
            roots: self.enrolments.authority.roots_pem().to_owned(),
            not_after: Some(to_proto(issued.not_after)),
            identity: issued.identity,
            controller_name: self.enrolments.contact.name.clone(),
            controller_address: self.enrolments.contact.main_address.clone(),
        }))
    }

    async fn list_certificates(
        &self,
        request: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        let id = request_id(&request).to_owned();
        let asked = request.into_inner();
        let page = page(asked.page_size, &asked.page_token)?;
        let name = Some(asked.name.as_str()).filter(|name| !name.is_empty());
        let rows = self.enrolments.list_certificates(name, &page).await;
        let rows = rows.map_err(|error| error.into_status(&id))?;
        Ok(Response::new(ListCertificatesResponse {
            next_page_token: rows.next_token(),
            certificates: rows.items.into_iter().map(certificate).collect(),
        }))
    }

    async fn revoke_certificate(
        &self,
        request: Request<RevokeCertificateRequest>,
    ) -> Result<Response<RevokeCertificateResponse>, Status> {
        let (actor, id) = (peer(&request)?.to_string(), request_id(&request).to_owned());
        let asked = request.into_inner();
        let target = target(&asked)?;
        let revoked = self.enrolments.revoke(&target, asked.reason.trim(), &actor).await;
        let revoked = revoked.map_err(|error| error.into_status(&id))?;
        Ok(Response::new(RevokeCertificateResponse {
            revoked: u32::try_from(revoked.count).unwrap_or(u32::MAX),
            epoch: revoked.epoch,
        }))
    }

    async fn create_login_link(
        &self,
        request: Request<CreateLoginLinkRequest>,
    ) -> Result<Response<CreateLoginLinkResponse>, Status> {
        let (caller, id) = (peer(&request)?.clone(), request_id(&request).to_owned());
        let link = self.links.create(&caller).await.map_err(|error| error.into_status(&id))?;
        Ok(Response::new(CreateLoginLinkResponse {
            url: link.url.expose().clone(),
            expires_at: Some(to_proto(link.expires_at)),
        }))
    }
}

fn page(size: i32, token: &str) -> Result<PageRequest, Status> {
    PageRequest::try_new(size, token).map_err(|error| error.into_status(""))
}

fn target(asked: &RevokeCertificateRequest) -> Result<Target, Status> {
    let wrong = |field: &str, what: &str| {
        Err(Failure::invalid(format!("{field}: {what}")).field(field, what).into())
    };
    if asked.reason.trim().is_empty() {
        return wrong("reason", "say why; it is shown to whoever meets the certificate");
    }
    match (asked.serial_hex.as_str(), asked.identity.as_str()) {
        ("", "") => wrong("identity", "name a serial, a SPIFFE id or a host"),
        (serial, "") => Ok(Target::Serial(serial.to_ascii_lowercase())),
        ("", identity) if identity.contains("://") => Ok(Target::Identity(identity.to_owned())),
        ("", host) => Ok(Target::Host(host.to_owned())),
        _ => wrong("identity", "name a serial or an identity, not both"),
    }
}

fn token(row: homelab_store::Token) -> Token {
    let kinds = |kinds: &mut dyn Iterator<Item = homelab_domain::identity::PeerKind>| {
        kinds.map(|kind| kind_from(kind).to_proto().into()).collect()
    };
    Token {
        token_id: shown_id(row.token.id),
        name: row.token.name,
        kinds: kinds(&mut row.token.kinds.into_iter()),
        used_kinds: kinds(&mut row.uses.iter().map(|used| used.kind)),
        expires_at: Some(to_proto(row.token.expires_at)),
        revoked: row.revoked_at.is_some(),
        created_by: row.token.created_by,
    }
}

fn certificate(row: homelab_store::Certificate) -> IssuedCertificate {
    let (revoked_at, revocation_reason) = match row.revocation {
        Some(revocation) => (Some(to_proto(revocation.at)), revocation.reason),
        None => (None, String::new()),
    };
    IssuedCertificate {
        serial_hex: row.certificate.serial_hex,
        identity: row.certificate.identity,
        not_before: Some(to_proto(row.certificate.not_before)),
        not_after: Some(to_proto(row.certificate.not_after)),
        revoked_at,
        revocation_reason,
    }
}
