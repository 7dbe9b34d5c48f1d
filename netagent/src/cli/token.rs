//! `token create|ls|revoke`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cli::client::call;
use crate::cli::table::{cell, print, print_json, table};
use crate::cli::{Client, Permission, TokenCommand};

const PATH: &str = "/v1/tokens";

pub(super) fn token(command: &TokenCommand) -> Result<ExitCode> {
    match command {
        TokenCommand::Create {
            account,
            permission,
            client,
        } => create(account, permission, client),
        TokenCommand::Ls(client) => ls(client),
        TokenCommand::Revoke { id, client } => revoke(id, client),
    }
}

fn create(account: &str, permissions: &[Permission], client: &Client) -> Result<ExitCode> {
    let names: Vec<&str> = permissions
        .iter()
        .map(|permission| match permission {
            Permission::NetManager => "net_manager",
        })
        .collect();
    let body = json!({ "account": account, "permissions": names });
    let made = call(
        &client.socket,
        Method::POST,
        PATH,
        body.to_string().into_bytes(),
    )?;
    if client.json {
        print_json(&made)?;
    } else {
        print(&cell(&made, "token"))?;
        eprintln!("netagent: keep it: it is not shown again");
    }
    Ok(ExitCode::SUCCESS)
}

fn ls(client: &Client) -> Result<ExitCode> {
    let list = call(&client.socket, Method::GET, PATH, Vec::new())?;
    if client.json {
        print_json(&list)?;
        return Ok(ExitCode::SUCCESS);
    }
    let tokens = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<Vec<String>> = tokens.iter().map(row).collect();
    print(&table(&["ID", "ACCOUNT", "PERMISSIONS", "REVOKED"], &rows))?;
    Ok(ExitCode::SUCCESS)
}

fn row(token: &Value) -> Vec<String> {
    let permissions = token.get("permissions").and_then(Value::as_array);
    let permissions: Vec<&str> = permissions
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    vec![
        cell(token, "id"),
        cell(token, "account"),
        permissions.join(","),
        cell(token, "revoked"),
    ]
}

fn revoke(id: &str, client: &Client) -> Result<ExitCode> {
    // The id becomes part of a path.
    let Ok(id) = Uuid::parse_str(id) else {
        bail!("Token '{id}' not found");
    };
    call(
        &client.socket,
        Method::DELETE,
        &format!("{PATH}/{id}"),
        Vec::new(),
    )?;
    if client.json {
        print_json(&json!({ "revoked": id }))?;
    }
    Ok(ExitCode::SUCCESS)
}
