//! `network`: what may reach an instance that exists.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use crate::cli::Client;
use crate::cli::client::{call, instance_path};
use crate::cli::create::published;
use crate::cli::instances::{port_table, warn_of_error};
use crate::cli::table::{print, print_json};

/// What the list of words says.
pub(super) const ABOUT_SHORT: &str = "Replace the published and exposed ports of an instance";

/// What its own help and page say.
pub(super) const ABOUT: &str = "Replace the published and exposed ports of an instance

Both lists are replaced at once, on a running instance too: one for which no port is named is empty afterwards. \
Connections to ports that stay as they are go on.";

#[derive(Args, Debug)]
pub(super) struct NetworkArgs {
    /// Id or name of the instance
    instance: String,
    #[command(flatten)]
    ports: PortFlags,
    #[command(flatten)]
    client: Client,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
struct PortFlags {
    /// Ports to publish, separated by commas: 8080, 8080:80/udp, 127.0.0.1:8080:80, '8080:80 from 10.0.0.0/8, fd00::/8'
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    publish_port: Vec<String>,
    /// Networks that may use the published ports, separated by commas [default: everybody]
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        requires = "publish_port"
    )]
    publish_from: Vec<String>,
    /// Ports of the guest's own address that the host may reach, separated by commas: 80/tcp
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    exposed_port: Vec<String>,
    /// Publish and expose nothing
    #[arg(long, conflicts_with_all = ["publish_port", "publish_from", "exposed_port"])]
    no_ports: bool,
}

pub(super) fn network(args: &NetworkArgs) -> Result<ExitCode> {
    let path = format!("{}/publish", instance_path(&args.instance)?);
    let body = args.ports.body().to_string().into_bytes();
    let client = &args.client;
    let instance = call(&client.socket, Method::PUT, &path, body)?;
    if client.json {
        print_json(&instance)?;
    } else {
        print(&port_table(&instance))?;
    }
    warn_of_error(&instance);
    Ok(ExitCode::SUCCESS)
}

impl PortFlags {
    fn body(&self) -> Value {
        json!({
            "publish": published(&self.publish_port, &self.publish_from),
            "exposed_ports": self.exposed_port,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: NetworkArgs,
    }

    #[test]
    fn both_lists_are_replaced_and_that_must_be_meant() {
        let body = |line: &[&str]| {
            let line = Line::try_parse_from([&["network", "a"], line].concat());
            line.map(|line| line.args.ports.body()).ok()
        };
        assert_eq!(
            body(&[
                "--publish-port",
                "8080:80,53/udp",
                "--publish-from",
                "10.0.0.0/8"
            ]),
            Some(
                json!({"publish": ["8080:80 from 10.0.0.0/8", "53/udp from 10.0.0.0/8"], "exposed_ports": []})
            )
        );
        assert_eq!(
            body(&["--publish-port", "80 from 10.0.0.0/8, fd00::/8,10.1.1.1,90"]),
            Some(
                json!({"publish": ["80 from 10.0.0.0/8, fd00::/8,10.1.1.1", "90"], "exposed_ports": []})
            )
        );
        assert_eq!(
            body(&["--exposed-port", "80"]),
            Some(json!({"publish": [], "exposed_ports": ["80"]}))
        );
        assert_eq!(
            body(&["--no-ports"]),
            Some(json!({"publish": [], "exposed_ports": []}))
        );
        assert_eq!(body(&[]), None);
        assert_eq!(body(&["--no-ports", "--exposed-port", "80"]), None);
        assert_eq!(body(&["--publish-from", "10.0.0.0/8"]), None);
    }
}
