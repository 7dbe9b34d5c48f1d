//! `explain`: what becomes of what a guest sends, and why.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::cli::Client;
use crate::cli::client::call;
use crate::cli::table::{cell, print, print_json};

/// What the list of words says.
pub(super) const ABOUT_SHORT: &str = "Say whether the guest of an instance reaches an address or a name, what decides, and by which way";

/// What its own help and page say.
pub(super) const ABOUT: &str = "Say whether the guest of an instance reaches an address or a name, what decides, and by which way

The answer comes from what the programs judge by: policy, routes, published ports. allowed: it passes. denied: it is \
dropped, and counted under the reason that is named. audited: it passes, and the policy would drop it. Without a port \
an echo request is asked for, with one TCP. Of a name it says whether the guest may ask for it, and which addresses \
are open to the guest because the name led there. The exit status is 0 whatever the verdict.";

#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// Id or name of the instance
    instance: String,
    /// Address of the other end: 192.0.2.1, 192.0.2.1:443, 2001:db8::1, or with a port `[2001:db8::1]:443`; or a name
    #[arg(value_name = "ADDRESS[:PORT]|NAME")]
    address: String,
    /// tcp, udp or icmp [default: tcp where a port is named, else icmp]
    #[arg(long)]
    protocol: Option<String>,
    #[command(flatten)]
    client: Client,
}

pub(super) fn explain(args: &ExplainArgs) -> Result<ExitCode> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("instance", &args.instance);
    query.append_pair("address", &args.address);
    if let Some(protocol) = &args.protocol {
        query.append_pair("protocol", protocol);
    }
    let path = format!("/v1/explain?{}", query.finish());
    let answer = call(&args.client.socket, Method::GET, &path, Vec::new())?;
    if args.client.json {
        print_json(&answer)?;
    } else {
        print(&lines(&answer))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(answer: &Value) -> String {
    let mut verdict = cell(answer, "verdict");
    if let Some(reason) = answer.get("reason").and_then(Value::as_str) {
        verdict = format!("{verdict} ({reason})");
    }
    let mut lines = vec![
        format!("verdict  {verdict}"),
        format!("rule     {}", cell(answer, "rule")),
    ];
    match answer.get("addresses").and_then(Value::as_array) {
        None => lines.push(format!("path     {}", cell(answer, "path"))),
        Some(addresses) if addresses.is_empty() => lines.push("address  none is open".to_owned()),
        Some(addresses) => lines.extend(addresses.iter().map(address_line)),
    }
    let notes = answer.get("notes").and_then(Value::as_array);
    let notes = notes.into_iter().flatten().filter_map(Value::as_str);
    lines.extend(notes.map(|note| format!("note     {note}")));
    lines.join("\n")
}

fn address_line(learned: &Value) -> String {
    let address = cell(learned, "address");
    match learned.get("seconds_left").and_then(Value::as_u64) {
        Some(seconds) if seconds > 0 => format!("address  {address}, {seconds} s left"),
        Some(_) | None => format!("address  {address}, held by open flows"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_explanation_is_a_few_lines() {
        let answer = json!({"verdict": "denied", "reason": "denied_cidr", "rule": "denied_cidrs: 10.0.0.0/8",
            "path": "no route", "notes": ["limited to 5 open flows"]});
        assert_eq!(
            lines(&answer),
            "verdict  denied (denied_cidr)\nrule     denied_cidrs: 10.0.0.0/8\npath     no route\n\
             note     limited to 5 open flows"
        );
    }

    #[test]
    fn a_name_is_followed_by_where_it_leads() {
        let mut answer = json!({"verdict": "allowed", "reason": null, "rule": "allowed_domains: *.a.example",
            "addresses": [{"address": "192.0.2.1", "seconds_left": 47}, {"address": "2001:db8::1", "seconds_left": 0}],
            "notes": []});
        let verdict = "verdict  allowed\nrule     allowed_domains: *.a.example\n";
        assert_eq!(
            lines(&answer),
            format!(
                "{verdict}address  192.0.2.1, 47 s left\naddress  2001:db8::1, held by open flows"
            )
        );
        answer["addresses"] = json!([]);
        assert_eq!(lines(&answer), format!("{verdict}address  none is open"));
    }
}
