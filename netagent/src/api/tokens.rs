//! Tokens: made, listed and revoked on the unix socket alone.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::access::{AccountName, TokenRecord};
use crate::agent::RequestError;
use crate::api::auth::{LocalCaller, Shared};
use crate::api::body::Body;
use crate::api::error::ApiError;
use crate::api::key::Key;

/// The only permission there is.
const NET_MANAGER: &str = "net_manager";
/// Members of a request for a token.
pub(crate) const MEMBERS: [&str; 2] = ["account", "permissions"];

/// A token as it is listed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenView {
    id: Uuid,
    account: String,
    permissions: Vec<&'static str>,
    revoked: bool,
    /// What authenticates; shown once, in the answer to the request that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl TokenView {
    fn of(record: &TokenRecord, token: Option<String>) -> Self {
        Self {
            id: record.id,
            account: record.account.to_string(),
            permissions: record
                .net_manager
                .then_some(NET_MANAGER)
                .into_iter()
                .collect(),
            revoked: record.revoked_ms.is_some(),
            token,
        }
    }
}

/// `POST /v1/tokens`
pub(crate) async fn create(
    State(shared): State<Shared>,
    LocalCaller(caller): LocalCaller,
    body: Body,
) -> Result<(StatusCode, Json<TokenView>), ApiError> {
    let object = body.object(&MEMBERS)?;
    let account = object.get("account").and_then(Value::as_str);
    let account = account.ok_or_else(|| ApiError::bad("Member 'account' must be a text"))?;
    let account = AccountName::parse(account).ok_or_else(|| {
        ApiError::bad(format!(
            "Invalid account '{account}': use up to 63 of a-z, 0-9 and '-', with a letter or digit at both ends"
        ))
    })?;
    let net_manager = permissions(object.get("permissions"))?;
    let made = shared
        .agent
        .create_token(&caller, account, net_manager)
        .await?;
    let view = TokenView::of(&made.record, Some(made.secret));
    Ok((StatusCode::CREATED, Json(view)))
}

fn permissions(value: Option<&Value>) -> Result<bool, ApiError> {
    let wrong = || ApiError::bad("Member 'permissions' must be a list of texts");
    let list = match value {
        None | Some(Value::Null) => return Ok(false),
        Some(list) => list.as_array().ok_or_else(wrong)?,
    };
    for permission in list {
        let name = permission.as_str().ok_or_else(wrong)?;
        if name != NET_MANAGER {
            let text = format!("Invalid permission '{name}': use {NET_MANAGER}");
            return Err(ApiError::bad(text));
        }
    }
    Ok(!list.is_empty())
}

/// `GET /v1/tokens`
pub(crate) async fn list(
    State(shared): State<Shared>,
    LocalCaller(_): LocalCaller,
) -> Json<Vec<TokenView>> {
    let tokens = shared.agent.tokens();
    Json(
        tokens
            .iter()
            .map(|record| TokenView::of(record, None))
            .collect(),
    )
}

/// `DELETE /v1/tokens/{token}`
pub(crate) async fn revoke(
    State(shared): State<Shared>,
    LocalCaller(caller): LocalCaller,
    Key(id): Key,
) -> Result<StatusCode, ApiError> {
    let parsed = Uuid::parse_str(&id);
    let id = parsed.ok().ok_or(RequestError::TokenNotFound(id))?;
    shared.agent.revoke_token(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
